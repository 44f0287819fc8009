"""Ratios compare the trainer with itself; what the sampler recorded says how much a token counts, and is watched."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from mmpu.core import Group, Response
from mmpu.learning import Batch, Method, Quantities
from mmpu.methods.dapo import DAPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.ppo import PPO
from mmpu.methods.srpo import SRPO
from mmpu.student.packing import Tree
from mmpu.train import importance
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from tiny import sample, student

pytestmark = pytest.mark.numerical

D = torch.float64
GAP = torch.tensor([[0.0, 0.3, -0.5], [math.log(5.0), 0.0, 0.0]], dtype=D)
"""log p_trainer − log p_sampler of two rows, the second one token shorter."""
WEIGHTS = torch.tensor([[1.0, math.exp(0.3), math.exp(-0.5)], [2.0, 1.0, 0.0]], dtype=D)


def batch(context: bool = False) -> tuple[Batch, torch.Tensor]:
    """A group whose sampler recorded something else, and the trainer's own log-probabilities."""
    old = torch.tensor([[-1.0, -2.0, -0.7], [-0.4, -3.0, 0.0]], dtype=D)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weight = torch.tensor([0.75, 0.25], dtype=D)
    zeros = torch.zeros(2, dtype=torch.long)
    reads = torch.tensor([context, context])
    return Batch(mask, weight, zeros, 1, old - GAP, 1.0, 2.0, 5.0, score_B=weight, context_B=reads), old


def test_the_weight_is_truncated_and_the_gap_is_measured() -> None:
    sampled, old = batch()
    found, metrics = importance.against(sampled, old, 2.0)
    assert torch.equal(found.old_logp_BT, old)  # pyright: ignore[reportArgumentType]
    assert found.importance_BT is not None
    torch.testing.assert_close(found.importance_BT * found.mask_BT, WEIGHTS)
    seen = GAP[sampled.mask_BT]
    assert float(metrics["sampler_gap"]) == pytest.approx(float(seen.abs().mean()))
    assert float(metrics["sampler_gap_max"]) == pytest.approx(math.log(5.0))
    assert float(metrics["sampler_kl"]) == pytest.approx(float((seen.exp() - 1 - seen).mean()))
    assert importance.against(sampled, old, None)[0].importance_BT is None


@pytest.mark.parametrize(
    "method", [LDLGRPO("ratio", kl="none"), GRPO(kl="none"), DAPO(), PPO("none", beta=0.0, whiten=False), SRPO()]
)
def test_every_token_counts_by_its_weight_and_ratios_are_1(method: Method) -> None:
    """The gradient by a token's log p is its weight times what it is without a gap."""
    sampled, old = batch()

    def slope(made: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logp = old.clone().requires_grad_()
        with torch.no_grad():
            weight = method.prepare(Quantities(old), made, lambda value: value)
        loss, metrics = method.loss(Quantities(logp, weight_BT=weight), made)
        if "max_q" in metrics:
            assert float(metrics["max_q"]) == pytest.approx(0.5, abs=1e-12)
        return torch.autograd.grad(loss, logp)[0] * made.mask_BT, loss.detach()

    weighed, _ = slope(importance.against(sampled, old, 2.0)[0])
    plain, _ = slope(replace(sampled, old_logp_BT=old))
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(weighed, plain * WEIGHTS)


def test_what_a_teacher_corrects_counts_so_too() -> None:
    """SRPO's routed tokens: min(ρ, 2) is 1 at the first update, and the weight stands beside it."""
    sampled, old = batch(context=True)
    value = torch.rand(2, 3, dtype=D).requires_grad_()
    method = SRPO(entropy_weight=0.0)
    own = importance.against(sampled, old, 2.0)[0]
    weight = method.prepare(Quantities(old), own, lambda total: total)
    loss, _ = method.loss(Quantities(old, divergence_BT=value, weight_BT=weight), own)
    torch.testing.assert_close(torch.autograd.grad(loss, value)[0], WEIGHTS / 5)


@pytest.mark.parametrize("updates", [1, 2])
def test_in_bfloat16_q_is_uniform_before_the_first_update(updates: int) -> None:
    """Three responses of up to a thousand tokens, recorded as another engine would. Its noise moves their sums by
    about a nat, of which `ratio` must see nothing."""
    model = student("qwen2", dtype="bfloat16").bfloat16()
    model.start_stage(reference=False)
    asked = sample("s")
    drawn = torch.Generator().manual_seed(0)
    branches = [tuple(torch.randint(5, 300, (n,), generator=drawn).tolist()) for n in (1000, 900, 700)]
    with torch.no_grad():
        together = model(model.pack([Tree(model.encode(asked), tuple(branches))])).split([len(b) for b in branches])
    records = [own + 0.03 * torch.randn(own.shape, generator=drawn) for own in together]
    noise = torch.stack([(a - b).sum() for a, b in zip(records, together, strict=True)]).softmax(0).max()
    assert float(noise) > 0.5, "the sampler's records would do as well"
    responses = tuple(Response("", b, tuple(r.tolist())) for b, r in zip(branches, records, strict=True))
    method = LDLGRPO("ratio", kl="none")
    rows = method.supervise(Group(asked, responses=responses, scores=(0.5, 0.5, 0.5), anchor_score=1.0))
    optim = Optim(lr=0.0, updates=updates, clip=0)
    found = Updater(model, model, optim.build(model), method, optim, Accelerator(cpu=True))([rows], 0, 10)
    assert found["max_q"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["grad_norm"] < 1e-6, "flat scores give exactly no gradient"
    assert 0.02 < found["sampler_gap"] < 0.06
    assert found["sampler_gap"] < found["sampler_gap_max"] < 1
    assert 0 < found["sampler_kl"] < 0.002
