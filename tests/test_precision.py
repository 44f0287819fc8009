"""One type of products per student: adapters over bfloat16, the head without a second copy, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from mmpu.core import UserError
from mmpu.student import products
from mmpu.student.logprobs import SPARE, TRAINING, Logits, log_probs
from mmpu.student.lora import Lora
from mmpu.student.packing import Tree
from mmpu.student.precision import remarks
from mmpu.student.student_config import StudentConfig
from mmpu.train import sharding
from tiny import samples, student

pytestmark = pytest.mark.numerical

BRANCHES = ((9, 10, 11), (12, 13, 14, 15))


def kept(model: Any) -> list[Tensor]:
    """What a pass keeps for its backward pass, each storage once, weights apart; the backward pass is made."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        found.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logp = model(model.pack([Tree(model.encode(s), BRANCHES) for s in samples("qwen2")]))
    logp.sum().backward()
    return [x for place, x in found.items() if place not in weights]


def test_adapters_over_bfloat16_compute_in_it_and_are_float32() -> None:
    model = student("qwen2", Lora(r=4, alpha=8), dtype="bfloat16")
    model.model.bfloat16()
    model.start_stage(reference=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.normal_(std=0.05)
    wide = [x for x in kept(model) if x.dtype == torch.float32 and x.numel() > 1000 and x.shape[-1] in (64, 128)]
    assert not wide, f"inputs of layers are kept in float32: {[tuple(x.shape) for x in wide]}"
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
    exact = student("qwen2", Lora(r=4, alpha=8))
    exact.model.load_state_dict({n: p.float() for n, p in model.base.state_dict().items() if "lora_" not in n}, False)
    exact.start_stage(reference=True)
    for mine, theirs in zip((p for p in exact.parameters() if p.requires_grad), trained, strict=True):
        mine.data = theirs.detach().clone()
    kept(exact)
    a, b = (
        torch.cat([p.grad.flatten() for p in m.parameters() if p.requires_grad and p.grad is not None])
        for m in (exact, model)
    )
    assert torch.cosine_similarity(a, b, dim=0) > 0.99, "rounding of bfloat16"


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("room", [TRAINING, SPARE])
def test_logits_of_half_products_are_added_up_whole(
    held: torch.dtype, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 on the same rounded factors: nothing but their rounding is lost, and the head is never copied."""
    monkeypatch.setattr(products, "BLOCK", 64)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 32, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(300, 32, generator=generator) * 2).to(held).requires_grad_()
    target = torch.randint(0, 300, (20,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = log_probs(hidden, weight, None, target, Logits(), room=room)
    logp.sum().backward()
    exact_hidden, exact_weight = (x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight))
    wanted = (exact_hidden @ exact_weight.T).log_softmax(1).gather(1, target[:, None])[:, 0]
    wanted.sum().backward()
    assert logp.dtype == torch.float32
    assert float((logp.double() - wanted).detach().abs().max()) < 1e-5, "logits reach 40, which bfloat16 holds to 0.1"
    assert weight.grad is not None
    assert weight.grad.dtype == held
    for mine, right in ((hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert mine is not None
        assert right is not None
        assert float((mine.double() - right).norm() / right.norm()) < 5e-3, "gradients of logits are rounded"


def test_the_frozen_copy_under_autocast_is_half_as_large_and_says_the_same() -> None:
    model = student("qwen2", autocast="bfloat16")
    trees = [Tree(model.encode(s), BRANCHES) for s in samples("qwen2")]
    model.start_stage(reference=True)
    with torch.no_grad():
        now = model(model.pack(trees))
        with model.frozen():
            then = model(model.pack(trees))
            held = {p.dtype for n, p in model.model.named_parameters() if "proj" in n}
    assert held == {torch.bfloat16}
    assert torch.equal(now, then)
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}


def test_mixed_precision_of_accelerate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    try:
        with pytest.raises(UserError, match=r"mixed_precision=bf16.*`student\.autocast: bfloat16`"):
            sharding.admit(Accelerator(cpu=True), StudentConfig("x"), "hf")
    finally:
        AcceleratorState._reset_state(True)


def test_types_that_are_rarely_meant_are_remarked_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, plain = torch.device("cuda"), StudentConfig("x")
    assert remarks(plain, torch.device("cpu")) == remarks(StudentConfig("x", autocast="bfloat16"), cuda) == []
    assert ["67 TFLOP/s" in line for line in remarks(plain, cuda)] == [True]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert [("TF32" in line) for line in remarks(plain, cuda)] == [False, True]


def test_activations_are_computed_again_on_cuda_unless_told_otherwise() -> None:
    for given, cuda, cpu in ((None, True, False), (False, False, False), (True, True, True)):
        config = StudentConfig("x", gradient_checkpointing=given)
        assert (config.checkpoints_on("cuda"), config.checkpoints_on("cpu")) == (cuda, cpu)
