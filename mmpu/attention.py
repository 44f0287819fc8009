"""Attention over a trunk and its branches without the block mask's waste.

In the packed layout `[trunk | branch 1 | … | branch K]` a dense mask computes every pair of tokens, (P + K·C)², though
a branch sees only its trunk and itself. Here each layer attends twice: trunks causally, then all branches as a batch
of their own, each over its trunk's keys and its own, K·C·(P + C) pairs. Everything else in the layer (projections, MLP,
norms) runs once over the packed tokens. The prefix's keys and values stay differentiable, so it is exact for training;
it needs nothing but SDPA, on CPU and GPU alike.

transformers picks it by name (`attn_implementation`), and hands the layout through as a keyword of every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
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


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA; over trunks and branches where a `tree` says how they lie.

    Args:
        query: (S, heads, L, D); key and value may have fewer heads.

    Returns:
        (S, L, heads, D).
    """
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
