"""Attention over trees: joined from unmasked parts it is attention under the dense mask, gradients included, and what
it keeps is linear in tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpu.student import kernels
from mmpu.student.attention import tree_attention
from mmpu.student.kernels import FLASH, PRODUCTS, Kernel, Varlen
from mmpu.student.layout import layout
from mmpu.student.packing import Encoded, Tree
from mmpu.student.student import Student
from tiny import student

pytestmark = pytest.mark.numerical

SCALE = 0.3
SHAPES = {
    "one tree": ([37], [[5, 21, 1, 64]]),
    "trees without branches, branches without tokens": ([7, 37, 7], [[5, 3, 0, 1], [], [30, 31, 2]]),
    "long and short": ([20, 12], [[270, 5], [260, 7, 9]]),
}


def dense(q: Tensor, k: Tensor, v: Tensor, trunks: list[int], branches: list[list[int]]) -> Tensor:
    """Softmax under a mask, (S, L, heads, D), zero at padding."""
    rows, length = len(q), q.shape[2]
    segment = torch.full((rows, length), -1)
    for s, (trunk, lengths) in enumerate(zip(trunks, branches, strict=True)):
        kinds = torch.arange(len(lengths) + 1).repeat_interleave(torch.tensor([trunk, *lengths]))
        segment[s, : len(kinds)] = kinds
    seen = (segment[:, :, None] == segment[:, None]) | (segment == 0)[:, None]
    seen = (seen & torch.ones(length, length, dtype=torch.bool).tril()) | torch.eye(length, dtype=torch.bool)
    groups = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(groups, 1).mT * SCALE
    weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    return (weights @ v.repeat_interleave(groups, 1)).transpose(1, 2) * (segment >= 0)[:, :, None, None]


class Layer(torch.nn.Module):
    """What attention asks of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx = 0
        self.config = type("Config", (), {"num_hidden_layers": 2})


def by_runs(function: Callable[..., Any], backward: bool) -> Callable[..., Any]:
    """A kernel for several runs made of one for a batch, as CUDA's has it: that one's conventions, computed here."""

    def call(*given: Any) -> tuple[Tensor, ...]:
        *tensors, starts_q, starts_k, longest_q, longest_k, causal, scale = given
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert (int(starts_q.diff().max()), int(starts_k.diff().max())) == (longest_q, longest_k)
        *before, q, k, v = tensors[: 3 + backward]
        groups = q.shape[1] // k.shape[1]
        parts: list[tuple[Tensor, ...]] = []
        for (a, b), (c, d) in zip(starts_q.unfold(0, 2, 1).tolist(), starts_k.unfold(0, 2, 1).tolist(), strict=True):
            query, *slope = (x[a:b].transpose(0, 1)[None] for x in (q, *before))
            key, value = (x[c:d].repeat_interleave(groups, 1).transpose(0, 1)[None] for x in (k, v))
            after = (tensors[4][a:b].transpose(0, 1)[None], tensors[5][None, :, a:b]) if backward else ()
            found = function(*slope, query, key, value, *after, causal, scale)
            if backward:
                dq, dk, dv = (x[0].transpose(0, 1) for x in found)
                parts.append((dq, *(x.unflatten(1, (-1, groups)).sum(2) for x in (dk, dv))))
            else:
                parts.append((found[0][0].transpose(0, 1), found[1][0]))
        return tuple(torch.cat(each, int(not backward and i == 1)) for i, each in enumerate(zip(*parts, strict=True)))

    return call


EMULATED = Varlen(by_runs(kernels.products_forward, False), by_runs(kernels.products_backward, True))
KERNELS: dict[str, Kernel] = {"flash": FLASH, "products": PRODUCTS, "variable length": EMULATED}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("heads", [(4, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_joined_parts_are_attention_under_a_mask(
    shape: str, heads: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: 1e-12 of the largest in float64. In float32 4e-6, half a step of its last digit for each of the 64
    keys that are added up, which a processor without fused products comes to a third of."""
    monkeypatch.setattr(kernels, "chosen", lambda *_: KERNELS[name])
    trunks, branches = SHAPES[shape]
    length = max(trunk + sum(lengths) for trunk, lengths in zip(trunks, branches, strict=True))
    generator = torch.Generator().manual_seed(0)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 4e-6)):
        sizes = [(len(trunks), n, length, 16) for n in (*heads, heads[1])]
        given = [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]
        tree = layout(trunks, branches, length)
        found, _ = tree_attention(Layer(), *given, None, SCALE, tree=tree)
        exact = [x.detach().double().requires_grad_() for x in given]
        wanted = dense(*exact, trunks, branches)
        slope = torch.randn(wanted.shape, generator=generator, dtype=dtype)
        theirs = torch.autograd.grad(wanted, exact, slope.double())
        for mine, right in zip((found, *torch.autograd.grad(found, given, slope)), (wanted, *theirs), strict=True):
            assert float((mine.detach() - right.detach()).abs().max() / right.detach().abs().max()) < bound


def test_a_kernel_is_chosen_by_device_type_and_width() -> None:
    half = torch.bfloat16
    assert kernels.chosen("cpu", torch.float64, 64, 64) is kernels.chosen("cpu", half, 40, 40) is FLASH
    assert kernels.chosen("cuda", half, 128, 128) is kernels.VARLEN
    asked = [("cuda", torch.float32, 64, 64), ("cuda", half, 60, 60), ("cpu", half, 192, 128), ("mps", half, 64, 64)]
    assert all(kernels.chosen(*each) is PRODUCTS for each in asked)


def test_the_kernel_of_cuda_takes_what_it_is_given() -> None:
    """On tensors that hold nothing: torch checks names, types and shapes of the call."""
    tree = layout([37, 20], [[5, 21, 1, 64], [7, 3]], 128)
    tokens = {"trunks": 57, "ends": 2, "branches": 101, "shared": 101}
    q, k, v = (torch.empty(256, n, 64, dtype=torch.bfloat16, device="meta") for n in (4, 2, 2))
    lse = torch.empty(256, 4, device="meta")
    for name, part in vars(tree.to(q.device)).items():
        ((_, found, sums),) = kernels.VARLEN.forward(part, q, k, v, SCALE)
        assert (found.shape, sums.shape) == ((tokens[name], 4, 64), (tokens[name], 4))
        ((_, dq, _, dk, dv),) = kernels.VARLEN.backward(part, q, k, v, q, lse, q, SCALE)
        assert (dq.shape, dk.shape) == (found.shape, dv.shape)


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_what_no_kernel_takes_is_not_dropped(name: str) -> None:
    given = [torch.zeros(1, 2, 4, 8)] * 3
    with pytest.raises(ValueError, match=rf"drop its attention's `{name}`; set `student\.attention: eager`"):
        tree_attention(Layer(), *given, None, SCALE, **{name: 30.0})
    tree_attention(Layer(), *given, None, SCALE, tree=layout([2], [[2]], 4), **{name: None})


def held(model: Student, tree: Tree) -> int:
    """Bytes kept for the backward pass of a pass over one tree, each storage once, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            found[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(model.pack([tree]))
    return sum(x.untyped_storage().nbytes() for x in found.values())


def test_what_is_kept_is_linear_in_tokens_however_ragged() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    ids: Callable[[int], tuple[int, ...]] = partial(lambda n: tuple(range(5, 5 + n % 300)) + (7,) * (n - n % 300))
    trunk = Encoded(ids(64), torch.arange(64)[None])

    def per_token(*lengths: int) -> float:
        tree = Tree(trunk, tuple(ids(n) for n in lengths))
        return held(model, tree) / tree.tokens

    even = per_token(*[64] * 12)
    assert per_token(640, *[8] * 16) == pytest.approx(even, rel=0.05)
    assert per_token(*[128] * 12) == pytest.approx(even, rel=0.05)
