"""What the model's own modules are spared: rows that nobody reads, dense gradients of few rows, chains of operations.

That the results stay what they were is for `test_students.py` and `test_update.py`; here is that the work is spared.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from mmpu.core import Response, Sampling
from mmpu.engines.hf import HF
from mmpu.learning import Row
from mmpu.methods.sft import SFT
from mmpu.student import gated, rms_norm, tied, vector_math
from mmpu.student.head import Ask
from mmpu.student.logprobs import AMPLE, TRAINING, Room
from mmpu.student.lora import Lora
from mmpu.student.packing import Tree, pack
from mmpu.student.parts import checkpoint_activations
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from tiny import sample, samples, student

pytestmark = pytest.mark.numerical

BRANCHES = ((9, 10, 11), (12, 13), (14,))


class Rows(list[int]):
    """How many rows of tokens a module was given, call by call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        module.register_forward_pre_hook(lambda _, args: self.append(args[0][..., 0].numel()))


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "gemma3_text", "llava", "qwen2_5_vl"])
def test_the_last_layer_works_for_what_is_read(family: str, checkpointing: bool, lora: Lora | None) -> None:
    model = student(family, lora)
    if checkpointing:
        checkpoint_activations(model.base)
    model.start_stage(reference=False)
    model.train()
    first, last = (model._language_model().layers[at] for at in (0, -1))
    seen = {name: Rows(module) for name, module in {"first": first.mlp.up_proj, "last": last.mlp.up_proj}.items()}
    trees = [Tree(model.encode(s), BRANCHES) for s in samples(family)]
    packed = pack(trees, model.pad)
    model(packed).sum().backward()
    read = len(trees) * (1 + 2 + 1)  # each trunk's end, and all of a branch but its last token
    passes = 1 + checkpointing
    assert seen["first"] == [packed.ids_SL.numel()] * passes
    assert seen["last"] == [read] * passes

    seen["last"].clear()
    HF(model).generate(samples(family), 2, Sampling(max_tokens=1))
    assert seen["last"] == [len(samples(family))]
    seen["last"].clear()
    HF(model).choose(samples(family)[:1], ["yes", "no"])
    assert seen["last"] == [1]
    seen["last"].clear()
    ids = torch.tensor([[5, 6, 7]])
    model.base(input_ids=ids)
    assert seen["last"] == [3], "asked by anybody else, a model is what it was"


def test_nearly_all_rows_are_not_gathered() -> None:
    model = student("qwen2")
    seen = Rows(model._language_model().layers[-1].mlp.up_proj)
    tree = Tree(model.encode(sample("x")), (tuple(range(9, 250)),) * 3)
    packed = pack([tree], model.pad)
    model(packed)
    assert len(packed.source_N.unique()) > 0.9 * packed.ids_SL.numel()
    assert seen == [packed.ids_SL.numel()]


@pytest.mark.parametrize("room", [AMPLE, TRAINING, Room(held=0, adds=True)])
def test_a_tied_gradient_is_sparse_where_it_is_added_and_dense_where_it_ends(room: Room) -> None:
    model = student("qwen2")
    embedding = model.base.get_input_embeddings()
    assert isinstance(embedding, tied._Tied)
    embedding.padding_idx = 9  # whose row the lookup does not train
    packed = pack([Tree(model.encode(samples("qwen2")[0]), BRANCHES)], model.pad)

    def gradients(kind: type[nn.Embedding]) -> tuple[torch.Tensor, torch.Tensor]:
        """After one pass, and after two."""
        embedding.__class__ = kind
        model.zero_grad()
        found: list[torch.Tensor] = []
        for _ in range(2):
            cast(Any, model(packed, Ask(room=room))["logp"]).sum().backward()
            found.append(embedding.weight.grad.clone())
        return found[0], found[1]

    for sparse, dense in zip(gradients(tied._Tied), gradients(nn.Embedding), strict=True):
        assert not sparse.is_sparse
        torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-5)
        assert dense.abs().max() > 0


def test_a_loss_that_reads_no_logits_leaves_a_dense_gradient() -> None:
    model = student("qwen2")
    model.start_stage(reference=False, value=True)
    assert model.value is not None
    nn.init.ones_(model.value.weight)
    packed = pack([Tree(model.encode(samples("qwen2")[0]), BRANCHES)], model.pad)
    model(packed, Ask(value=True))["value"].sum().backward()
    found = model.base.get_input_embeddings().weight.grad
    assert found is not None
    assert not found.is_sparse
    assert found.abs().max() > 0


def test_embeddings_that_do_more_than_look_up_stay_as_they_are() -> None:
    scaled = student("gemma3_text").base.get_input_embeddings()
    assert not isinstance(scaled, tied._Tied), "it multiplies what it finds"
    assert not isinstance(student("llava").base.get_input_embeddings(), tied._Tied), "not tied"


def _norms() -> dict[str, type[nn.Module]]:
    from transformers.models.llama import modeling_llama
    from transformers.models.mistral import modeling_mistral
    from transformers.models.phi3 import modeling_phi3
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
    from transformers.models.qwen3 import modeling_qwen3
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    modules: Any = (
        *(modeling_llama, modeling_mistral, modeling_phi3),
        *(modeling_qwen2, modeling_qwen2_5_vl, modeling_qwen3, modeling_qwen3_vl),
    )
    return {name: getattr(m, name) for m in modules for name in rms_norm.PLAIN & vars(m).keys()}


def test_every_norm_that_is_replaced_is_known() -> None:
    assert _norms().keys() == rms_norm.PLAIN


@pytest.mark.parametrize(
    ("given", "held"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
    ids=["float32", "bfloat16", "autocast"],
)
@pytest.mark.parametrize("name", sorted(rms_norm.PLAIN))
def test_a_norm_is_what_transformers_computes(name: str, given: torch.dtype, held: torch.dtype) -> None:
    torch.manual_seed(0)
    theirs = _norms()[name](24, eps=1e-3).to(held)
    nn.init.normal_(theirs.weight)
    ours = copy.deepcopy(theirs)
    rms_norm.install(ours)
    rms_norm.install(ours)  # as for a model that a second student takes over
    assert type(ours) is not type(theirs)
    assert isinstance(ours, type(theirs))
    x, d = torch.randn(2, 5, 24, dtype=given), torch.randn(2, 5, 24, dtype=given)

    def run(norm: nn.Module) -> list[torch.Tensor]:
        given_x = x.clone().requires_grad_()
        y = norm(given_x)
        y.backward(d.to(y.dtype))
        gradients = [given_x.grad, norm.weight.grad]
        return [y.detach(), *(g for g in gradients if g is not None)]

    close: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5} if given == torch.float32 else {"atol": 3e-2, "rtol": 2e-2}
    for found, wanted in zip(run(ours), run(theirs), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, **close)
    ours.weight.requires_grad_(False)
    ours(x.clone().requires_grad_()).backward(d.to(held))  # a frozen weight, as under LoRA


def test_weights_that_no_pass_reaches_are_left_alone() -> None:
    """With a budget for one response, gradients are laid out beforehand, and a zero that nothing was added to would
    still bring weight decay."""
    model = student("llava")
    model.start_stage(reference=False)
    tower = [p.requires_grad_(True) for name, p in model.base.named_parameters() if "vision_tower" in name]
    before = [p.detach().clone() for p in tower]
    prompt = sample("text alone")
    rows = [Row(prompt, Response("", branch, (0.0,) * len(branch)), 1.0, 0) for branch in BRANCHES]
    optim = Optim(weight_decay=0.5, lr=0.1, tokens_per_pass=len(model.encode(prompt).ids) + 3)
    optimizer = optim.build(model)
    Updater(model, model, optimizer, SFT(), optim, Accelerator(cpu=True))([rows], 0, 10)
    for parameter, was in zip(tower, before, strict=True):
        torch.testing.assert_close(parameter, was, atol=0, rtol=0)


# ---------------------------------------------------------------------------------------------------- the first pass


def test_vector_functions_are_chosen_before_a_student_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one element, by one thread, in both precisions; and no second time."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(vector_math, "FUNCTIONS", (seen.append,))
    vector_math.settle.cache_clear()
    student("qwen2")
    student("llama")
    assert [(each.dtype, each.numel()) for each in seen] == [(torch.float32, 1), (torch.float64, 1)]


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text"])
def test_gated_mlps_keep_two_of_four_widths(kind: str) -> None:
    """Values and gradients are those of transformers' own module, in float64 to rounding."""
    theirs = student(kind)._language_model().layers[0].mlp.double()
    ours = copy.deepcopy(theirs)
    theirs.__class__ = type(theirs).__mro__[2]
    assert "Gated" not in type(theirs).__mro__[0].__name__ + type(theirs).__mro__[1].__name__
    wide = ours.up_proj.out_features
    found: list[list[torch.Tensor]] = []
    for mlp in (theirs, ours):
        kept: dict[int, int] = {}

        def keep(x: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            if x.shape[-1] == wide and x.numel() == 6 * wide:
                kept[x.data_ptr()] = x.numel()
            return x

        x = torch.randn(2, 3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = mlp(x)
        out.square().sum().backward()
        found.append([out.detach(), x.grad, *(p.grad for p in mlp.parameters())])  # pyright: ignore
        assert len(kept) == (4 if mlp is theirs else 2)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_an_mlp_of_another_build_stays_as_it_is() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = self.up_proj = self.down_proj = nn.Linear(4, 4)
            self.act_fn = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * 2

    layer = nn.Module()
    layer.mlp = Scaled()
    gated.install(layer)
    assert type(layer.mlp) is Scaled
