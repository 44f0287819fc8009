"""Attention over a trunk and its branches without the block mask's waste.

In the packed layout `[trunk | branch 1 | … | branch K]` a dense mask computes every pair of tokens, (P + K·C)², though
a branch sees only its trunk and itself. Here each layer attends twice: trunks causally, then all branches as a batch
of their own, each over its trunk's keys and its own, K·C·(P + C) pairs. Everything else in the layer (projections, MLP,
norms) runs once over the packed tokens. The prefix's keys and values stay differentiable, so it is exact for training;
it needs nothing but SDPA, on CPU and GPU alike.

While answers are sampled the trunk is a prompt whose keys and values are held once, whatever the number of its
answers (`Prefix`): every step reads them once per prompt, and no step copies them.

transformers picks it by name (`attn_implementation`), and hands layout or prefix through as a keyword of every layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mmpu_tree"


@dataclass(frozen=True, eq=False)
class Layout:
    """Where trunks and branches lie in packed rows (S, L)."""

    trunk: int
    """Length of the longest trunk."""
    row_B: Tensor
    """The packed row of each branch."""
    place_BC: Tensor
    """Flat place (S·L) of each branch token; padding points at the row's first token."""
    sees_BCX: Tensor
    """Which of (trunk + C) keys a branch token sees."""
    real_N: Tensor
    """Places in the flat (B·C) that hold tokens."""

    @cached_property
    def place_N(self) -> Tensor:
        """Flat place (S·L) of each token of a branch."""
        return self.place_BC.flatten()[self.real_N]

    def mask(self, groups: int) -> Tensor:
        """What `groups` copies of each branch, one behind the other, see: (B, 1, groups · C, trunk + C). Every layer
        asks for the same."""
        if groups not in self._masks:
            self._masks[groups] = self.sees_BCX.repeat(1, groups, 1)[:, None]
        return self._masks[groups]

    @cached_property
    def _masks(self) -> dict[int, Tensor]:
        return {}

    def to(self, device: torch.device) -> Layout:
        tensors = (self.row_B, self.place_BC, self.sees_BCX, self.real_N)
        return Layout(self.trunk, *(tensor.to(device) for tensor in tensors))


def layout(trunks: Sequence[int], branches: Sequence[Sequence[int]], length: int) -> Layout:
    """The layout of rows with these trunk and branch lengths, each row padded to `length`."""
    spans = [(s, at, n) for s, lengths in enumerate(branches) for at, n in _spans(trunks[s], lengths) if n]
    row, start, size = torch.tensor(spans, dtype=torch.long).reshape(-1, 3).unbind(1)
    step = torch.arange(int(size.max()) if spans else 0)
    real = step < size[:, None]
    trunk = max(trunks)
    own = (step[None, :, None] >= step[None, None, :]) & real[:, None, :]
    shared = (torch.arange(trunk) < torch.tensor(trunks)[row][:, None])[:, None, :].expand(-1, len(step), -1)
    return Layout(
        trunk,
        row,
        row[:, None] * length + torch.where(real, start[:, None] + step, 0),
        torch.cat([shared, own], 2),
        real.flatten().nonzero()[:, 0],
    )


def _spans(start: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    for n in lengths:
        yield start, n
        start += n


@dataclass(frozen=True, eq=False)
class Prefix:
    """Prompts that several responses continue; the responses' own keys and values are held elsewhere.

    Attention is computed over prompt and continuation apart, in float32, and joined by the sums of its weights.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, (P, heads, L, D) in float32."""
    mask_PL: Tensor
    """Which of them are tokens of the prompt."""
    owners: tuple[int, ...]
    """The prompt of each row of the batch, ascending."""

    @classmethod
    def of(cls, cache: Any, mask_PL: Tensor, n: int) -> Prefix | None:
        """The prompts of a cache, `n` rows to each; None where a layer does not keep all its keys."""
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        layers = tuple((layer.keys.float(), layer.values.float()) for layer in cache.layers)
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
        zero = torch.zeros(self.mask_PL.shape, device=self.mask_PL.device)
        return zero.masked_fill(~self.mask_PL, float("-inf"))[:, None, None]

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
            query_RHGD = query.float().reshape(len(query), heads, -1, query.shape[3]) * scaling
            slots = query_RHGD
            if slot_R is not None:
                slots = query_RHGD.new_zeros(n * len(self.mask_PL), *query_RHGD.shape[1:])
                slots = slots.index_copy(0, slot_R, query_RHGD)
            slots_PHQD = slots.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)
            shared = _summed(slots_PHQD @ prompt_key.transpose(2, 3) + self.bias, prompt_value)
            shared = [x.unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1) for x in shared]
            if slot_R is not None:
                shared = [x.index_select(0, slot_R) for x in shared]
            own = _summed(query_RHGD @ key.float().transpose(2, 3), value.float())
            top = torch.maximum(shared[0], own[0])
            scales = [(part[0] - top).exp() for part in (shared, own)]
            total = shared[1] * scales[0] + own[1] * scales[1]
            mixed = (shared[2] * scales[0] + own[2] * scales[1]) / total
            return mixed.reshape(query.shape).to(query.dtype)


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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA; over trunks and branches where a `tree` says how they lie, over shared prompts where there is a `prefix`.

    Args:
        query: (S, heads, L, D); key and value may have fewer heads.

    Returns:
        (S, L, heads, D).
    """
    if prefix is not None:
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return prefix.attend(module.layer_idx, query, key, value, scale).transpose(1, 2), None
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    trunk = scaled_dot_product_attention(
        query[:, :, : tree.trunk],
        repeat_kv(key[:, :, : tree.trunk], groups),
        repeat_kv(value[:, :, : tree.trunk], groups),
        is_causal=True,
        scale=scaling,
    )
    out = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    out[:, : tree.trunk] = trunk.transpose(1, 2)
    if not len(tree.real_N):
        return out, None
    length = tree.place_BC.shape[1]
    # The query heads that share a key head stand behind each other as further queries: nothing is repeated.
    branch = scaled_dot_product_attention(
        _branches(query, tree).unflatten(1, (-1, groups)).flatten(2, 3),
        torch.cat([key[:, :, : tree.trunk].index_select(0, tree.row_B), _branches(key, tree)], 2),
        torch.cat([value[:, :, : tree.trunk].index_select(0, tree.row_B), _branches(value, tree)], 2),
        attn_mask=tree.mask(groups),
        scale=scaling,
    )
    rows = branch.unflatten(2, (groups, length)).flatten(1, 2).transpose(1, 2).flatten(0, 1)
    return out.flatten(0, 1).index_copy(0, tree.place_N, rows.index_select(0, tree.real_N)).view_as(out), None


def _branches(x: Tensor, tree: Layout) -> Tensor:
    """(S, heads, L, D) → the branches alone, (B, heads, C, D)."""
    rows = x.transpose(1, 2).flatten(0, 1).index_select(0, tree.place_BC.flatten())
    return rows.unflatten(0, tree.place_BC.shape).transpose(1, 2)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(model: Any) -> None:
    """Lets the layers of the language model attend over trees; its vision tower keeps what it has."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME
