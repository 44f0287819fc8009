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
from collections.abc import Callable, Iterator, Sequence
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
    """Length T of the longest trunk."""
    length: int
    """L."""
    end_S: Tensor
    """The place of each trunk's last token in its row."""
    row_B: Tensor
    """The packed row of each branch."""
    place_BC: Tensor
    """The place of each branch token in its row; padding points at the row's first token."""
    sees_BCX: Tensor
    """Which of (T + C) keys a branch token sees."""
    real_N: Tensor
    """Places in the flat (B·C) that hold tokens."""

    def queries(self, heads: int) -> Tensor:
        """Where the branches' tokens lie in rows of (S·heads·L), in the order (B, heads, C)."""
        return self._remembered(("queries", heads), lambda: self._places(heads, self.place_BC))

    def keys(self, heads: int) -> Tensor:
        """Where the trunk's tokens and a branch's own lie in rows of (S·heads·L), in the order (B, heads, T + C)."""

        def found() -> Tensor:
            trunk = torch.arange(self.trunk, device=self.row_B.device).expand(len(self.row_B), -1)
            return self._places(heads, torch.cat([trunk, self.place_BC], 1))

        return self._remembered(("keys", heads), found)

    def _places(self, heads: int, place_BX: Tensor) -> Tensor:
        head = torch.arange(heads, device=place_BX.device)[:, None]
        return ((self.row_B[:, None, None] * heads + head) * self.length + place_BX[:, None]).flatten()

    def bias(self, groups: int, dtype: torch.dtype) -> Tensor:
        """Minus infinity where one of `groups` copies of each branch, one behind the other, does not see: (B, 1,
        groups · C, T + C)."""

        def found() -> Tensor:
            return _bias(self.sees_BCX, dtype).repeat(1, groups, 1)[:, None]

        return self._remembered(("bias", groups, dtype), found)

    def before_end(self, dtype: torch.dtype) -> Tensor:
        """As `bias`, of a trunk's last token: (S, 1, 1, T)."""

        def found() -> Tensor:
            sees = torch.arange(self.trunk, device=self.end_S.device) <= self.end_S[:, None]
            return _bias(sees, dtype)[:, None, None]

        return self._remembered(("before_end", dtype), found)

    @cached_property
    def order(self) -> Tensor | None:
        """For each flat place (S·L), which of the trunks' (S·T) and then the branches' tokens lies there; None if they
        lie in this order. At padding it is any."""
        rows = len(self.end_S)
        if rows == 1:
            return None
        device = self.end_S.device
        order = torch.zeros(rows, self.length, dtype=torch.long, device=device)
        order[:, : self.trunk] = torch.arange(rows * self.trunk, device=device).unflatten(0, (rows, -1))
        flat = (self.row_B[:, None] * self.length + self.place_BC).flatten()[self.real_N]
        order.flatten()[flat] = torch.arange(len(flat), device=device) + rows * self.trunk
        return order.flatten()

    def _remembered(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """Every layer asks for the same."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @cached_property
    def _known(self) -> dict[object, Tensor]:
        return {}

    def to(self, device: torch.device) -> Layout:
        tensors = (self.end_S, self.row_B, self.place_BC, self.sees_BCX, self.real_N)
        return Layout(self.trunk, self.length, *(tensor.to(device) for tensor in tensors))


def _bias(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, float("-inf"))


def layout(trunks: Sequence[int], branches: Sequence[Sequence[int]], length: int) -> Layout:
    """The layout of rows with these trunk and branch lengths, each row padded to `length`."""
    spans = [(s, at, n) for s, lengths in enumerate(branches) for at, n in _spans(trunks[s], lengths) if n]
    row, start, size = torch.tensor(spans, dtype=torch.long).reshape(-1, 3).unbind(1)
    step = torch.arange(int(size.max()) if spans else 0)
    real = step < size[:, None]
    own = (step[None, :, None] >= step[None, None, :]) & real[:, None, :]
    shared = torch.arange(max(trunks)) < torch.tensor(trunks)[row][:, None]
    return Layout(
        max(trunks),
        length,
        torch.tensor(trunks) - 1,
        row,
        torch.where(real, start[:, None] + step, 0),
        torch.cat([shared[:, None, :].expand(-1, len(step), -1), own], 2),
        real.flatten().nonzero()[:, 0],
    )


def _spans(start: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    for n in lengths:
        yield start, n
        start += n


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
    """
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if prefix is not None:
        return prefix.attend(module.layer_idx, query, key, value, scale).transpose(1, 2), None
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    of_trunk = query[:, :, : tree.trunk], key[:, :, : tree.trunk], value[:, :, : tree.trunk]
    if read is not None and module.layer_idx == module.config.num_hidden_layers - 1:
        trunk = _ends(*of_trunk, tree, scale)  # nothing else is read
    else:
        q, k, v = of_trunk
        trunk = scaled_dot_product_attention(q, repeat_kv(k, groups), repeat_kv(v, groups), is_causal=True, scale=scale)
    parts = [trunk.transpose(1, 2).flatten(0, 1)]
    if len(tree.real_N):
        # The query heads that share a key head stand behind each other as further queries: nothing is repeated.
        branch = scaled_dot_product_attention(
            _rows(query, tree.queries(heads)).view(len(tree.row_B), kv_heads, -1, query.shape[3]),
            _rows(key, tree.keys(kv_heads)).view(len(tree.row_B), kv_heads, -1, key.shape[3]),
            _rows(value, tree.keys(kv_heads)).view(len(tree.row_B), kv_heads, -1, value.shape[3]),
            attn_mask=tree.bias(groups, query.dtype),
            scale=scale,
        )
        tokens = branch.unflatten(2, (groups, -1)).flatten(1, 2).transpose(1, 2).flatten(0, 1)
        parts.append(tokens.index_select(0, tree.real_N))
    out = torch.cat(parts)
    out = out if tree.order is None else out.index_select(0, tree.order)
    return out.unflatten(0, (len(query), -1)), None


def _ends(query: Tensor, key: Tensor, value: Tensor, tree: Layout, scale: float) -> Tensor:
    """The last token of every trunk over all of it; zero elsewhere. (S, heads, T, D)."""
    rows = torch.arange(len(query), device=query.device)
    last = query[rows, :, tree.end_S].unflatten(1, (key.shape[1], -1))
    mixed = scaled_dot_product_attention(last, key, value, attn_mask=tree.before_end(query.dtype), scale=scale)
    places = tree.end_S[:, None, None, None].expand(-1, query.shape[1], -1, value.shape[3])
    return mixed.new_zeros(*query.shape[:3], value.shape[3]).scatter(2, places, mixed.flatten(1, 2)[:, :, None])


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Vectors (S, heads, L, D) at flat places."""
    return x.flatten(0, 2).index_select(0, index)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(model: Any) -> None:
    """Lets the layers of the language model attend over trees; its vision tower keeps what it has."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME
