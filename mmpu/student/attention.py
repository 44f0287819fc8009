"""Attention over trees without masks.

In the packed layout `[trunk | branch 1 | … | branch K]` a branch sees its trunk and itself. So it attends twice, over
the trunk, where nothing is hidden, and causally over itself, and the two are joined by the logarithms of their sums of
weights:

    L = log(e^L₁ + e^L₂)        O = e^(L₁ − L) O₁ + e^(L₂ − L) O₂

Given O and L of the whole, the backward pass of each part is its share of the whole's (`kernels.py`). No mask is made,
no key is copied to the branches that see it, and whatever is kept is as long as the tokens are many.

While answers are sampled the trunk is a prompt whose keys and values are held once, whatever the number of its
answers (`Prefix`): every step reads them once per prompt, and no step copies them.

transformers picks it by name (`attn_implementation`), and hands layout or prefix through as a keyword of every layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmpu.student import kernels
from mmpu.student.layout import Layout, Places

NAME = "mmpu_tree"
REFUSED = ("softcap", "s_aux")
"""What a layer may ask of attention that changes its weights, and that no kernel here takes."""


def _bias(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, float("-inf"))


@dataclass(frozen=True, eq=False)
class Prefix:
    """Prompts that several responses continue; the responses' own keys and values are held elsewhere.

    Attention is computed over prompt and continuation apart, in float32 (float64 where the model is), and joined by the
    sums of its weights.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, (P, heads, L, D)."""
    mask_PL: Tensor
    """Which of them are tokens of the prompt."""
    owners: tuple[int, ...]
    """The prompt of each row of the batch, ascending."""

    @classmethod
    def of(cls, cache: Any, mask_PL: Tensor, n: int) -> Prefix | None:
        """The prompts of a cache, `n` rows to each; None where a layer does not keep all its keys."""
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        layers = tuple((_exact(layer.keys), _exact(layer.values)) for layer in cache.layers)
        return cls(layers, mask_PL.bool(), tuple(p for p in range(len(mask_PL)) for _ in range(n)))

    def select(self, rows: Sequence[int]) -> Prefix:
        """Only these rows, ascending, and the prompts that they continue."""
        owners = [self.owners[row] for row in rows]
        prompts = sorted(set(owners))
        if len(prompts) == len(self.mask_PL):
            return replace(self, owners=tuple(owners))
        keep = torch.tensor(prompts, device=self.mask_PL.device)
        return Prefix(
            tuple((k.index_select(0, keep), v.index_select(0, keep)) for k, v in self.layers),
            self.mask_PL[keep],
            tuple(prompts.index(owner) for owner in owners),
        )

    @cached_property
    def bias(self) -> Tensor:
        """(P, 1, 1, L): 0 where there is a token, minus infinity elsewhere."""
        return _bias(self.mask_PL, self.layers[0][0].dtype)[:, None, None]

    @cached_property
    def slots(self) -> tuple[int, Tensor | None]:
        """Slots per prompt, and the flat slot of each row; None where rows fill them in order."""
        counts = Counter(self.owners)
        most = max(counts.values())
        if len(self.owners) == most * len(self.mask_PL):
            return most, None
        taken = Counter[int]()
        slot: list[int] = []
        for owner in self.owners:
            slot.append(owner * most + taken[owner])
            taken[owner] += 1
        return most, torch.tensor(slot, device=self.mask_PL.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """One new token of each row over its prompt and its own continuation.

        Args:
            query: (R, heads, 1, D).
            key: Of the continuations, (R, fewer heads, S, D); so is value.

        Returns:
            (R, heads, 1, D).
        """
        with torch.autocast(query.device.type, enabled=False):
            n, slot_R = self.slots
            prompt_key, prompt_value = self.layers[layer]
            heads = key.shape[1]
            # Query heads that share a key head, and rows that share a prompt, are further queries to the same keys.
            query_RHGD = _exact(query).reshape(len(query), heads, -1, query.shape[3]) * scaling
            slots = query_RHGD
            if slot_R is not None:
                slots = query_RHGD.new_zeros(n * len(self.mask_PL), *query_RHGD.shape[1:])
                slots = slots.index_copy(0, slot_R, query_RHGD)
            slots_PHQD = slots.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)
            shared = _summed(slots_PHQD @ prompt_key.transpose(2, 3) + self.bias, prompt_value)
            shared = [x.unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1) for x in shared]
            if slot_R is not None:
                shared = [x.index_select(0, slot_R) for x in shared]
            own = _summed(query_RHGD @ _exact(key).transpose(2, 3), _exact(value))
            top = torch.maximum(shared[0], own[0])
            scales = [(part[0] - top).exp() for part in (shared, own)]
            total = shared[1] * scales[0] + own[1] * scales[1]
            mixed = (shared[2] * scales[0] + own[2] * scales[1]) / total
            return mixed.reshape(query.shape).to(query.dtype)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _summed(scores: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention before its division: the greatest score, the sum of weights relative to it, the weighted values."""
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp()
    return top, weights.sum(-1, keepdim=True), weights @ value


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Layout | None = None,
    prefix: Prefix | None = None,
    read: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA; over trunks and branches where a `tree` says how they lie, over shared prompts where there is a `prefix`.

    Args:
        query: (S, heads, L, D); key and value may have fewer heads.

    Returns:
        (S, L, heads, D).

    Raises:
        ValueError: the layer caps its scores, or has sinks.
    """
    for name in REFUSED:
        if kwargs.get(name) is not None:
            raise ValueError(f"SDPA would drop its attention's `{name}`; set `student.attention: eager`")
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if prefix is not None:
        return prefix.attend(module.layer_idx, query, key, value, scale).transpose(1, 2), None
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    ends = (
        read is not None and module.layer_idx == module.config.num_hidden_layers - 1
    )  # of trunks nothing else is read
    with torch.autocast(query.device.type, enabled=False):
        return _Joined.apply(query, key, value, tree, scale, ends), None  # pyright: ignore


class _Joined(torch.autograd.Function):
    """(S, heads, L, D) → (S, L, heads, D), zero at padding. Kept for the backward pass are query, key, value and what
    comes out, each once, and a number per token and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Layout, scale: float, ends: bool) -> Tensor:
        kernel = kernels.chosen(query.device.type, query.dtype, query.shape[3], value.shape[3])
        rows = len(query)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
        out = q.new_zeros(*q.shape[:2], v.shape[2])
        lse = q.new_full(q.shape[:2], float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
        for part in (tree.ends if ends else tree.trunks, tree.branches):
            for at, found, sums in kernel.forward(part, q, k, v, scale) if part else ():
                out[at], lse[at] = found, sums
        for at, found, sums in kernel.forward(tree.shared, q, k, v, scale) if tree.shared else ():
            before = lse[at]
            both = torch.logaddexp(before, sums)
            mixed = out[at] * (before - both).exp()[..., None] + found * (sums - both).exp()[..., None]
            out[at], lse[at] = mixed.to(out.dtype), both
        out = out.unflatten(0, (rows, -1))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.given = kernel, tree, scale, ends
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        kernel, tree, scale, ends = ctx.given
        rows = len(out)
        d, out = gradients[0].flatten(0, 1), out.flatten(0, 1)
        dq, dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v))
        for part in (tree.ends if ends else tree.trunks, tree.branches, tree.shared):
            for at, of_q, there, of_k, of_v in kernel.backward(part, q, k, v, out, lse, d, scale) if part else ():
                _add(dq, at, of_q)
                _add(dk, there, of_k)
                _add(dv, there, of_v)
        given = (x.to(like.dtype).unflatten(0, (rows, -1)).transpose(1, 2) for x, like in ((dq, q), (dk, k), (dv, v)))
        return *given, None, None, None


def _add(total: Tensor, places: Places, x: Tensor) -> None:
    if isinstance(places, slice):
        total[places] += x
    else:
        total.index_add_(0, places, x.to(total.dtype))


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(model: Any) -> None:
    """Lets the layers of the language model attend over trees; its vision tower keeps what it has."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME
