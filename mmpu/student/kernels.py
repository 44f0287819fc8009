"""Attention kernels that hand out the logarithm of their sum of weights, and take one back: what joins parts.

    forward   O = softmax(s Q Kᵀ) V,  L = log Σ exp(s Q Kᵀ)
    backward  P = exp(s Q Kᵀ − L),  dV = Pᵀ dO,  dQ, dK from P (dO Vᵀ − rowsum(dO O))

Given the O and L of a whole, the backward of a part is the part's share of the whole's. `for_tensors` chooses: on a CPU
the flash kernel that SDPA uses there, on CUDA torch's variable-length flash for half types, else products in blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmpu.student.layout import Part, Places

Attended = tuple[Places, Tensor, Tensor]
"""Flat places of queries, their output (n, heads, D) and log-sum-exp (n, heads)."""
Slopes = tuple[Places, Tensor, Places, Tensor, Tensor]
"""Places of queries and their gradient, places of keys and the gradients of keys and values."""
SCORES = 2**26
"""Scores that `Products` holds at once."""


class Kernel(Protocol):
    """Both take tokens (N, heads, D), keys and values perhaps with fewer heads."""

    def forward(self, part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Iterator[Attended]: ...

    def backward(
        self, part: Part, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d: Tensor, scale: float
    ) -> Iterator[Slopes]: ...


@dataclass(frozen=True)
class Varlen:
    """One call for all runs of a part.

    Args:
        attend: (q, k, v, starts of queries, of keys, longest of them, causal, scale) → (out, lse (heads, N)).
        slopes: (d, q, k, v, out, lse, and so on) → gradients of q, k and v.
    """

    attend: Callable[..., tuple[Tensor, Tensor]]
    slopes: Callable[..., tuple[Tensor, Tensor, Tensor]]

    def forward(self, part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Iterator[Attended]:
        out, lse = self.attend(q[part.query], k[part.key], v[part.key], *self._runs(part), scale)
        yield part.query, out, lse.T

    def backward(
        self, part: Part, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d: Tensor, scale: float
    ) -> Iterator[Slopes]:
        at = part.query
        given = d[at].contiguous(), q[at], k[part.key], v[part.key], out[at].contiguous(), lse[at].T.contiguous()
        dq, dk, dv = self.slopes(*given, *self._runs(part), scale)
        yield at, dq, part.key, dk, dv

    @staticmethod
    def _runs(part: Part) -> tuple[Tensor, Tensor, int, int, bool]:
        return part.starts_q, part.starts_k, part.longest_q, part.longest_k, part.causal


@dataclass(frozen=True)
class Batched:
    """Runs of about one length at a time, as a batch.

    Args:
        attend: (q, k, v, causal, scale) → (out, lse), tensors (B, heads, C or X, D).
        slopes: (d, q, k, v, out, lse, causal, scale) → gradients of q, k and v.
    """

    attend: Callable[..., tuple[Tensor, Tensor]]
    slopes: Callable[..., tuple[Tensor, Tensor, Tensor]]

    def forward(self, part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Iterator[Attended]:
        heads = k.shape[1]
        for bucket in part.buckets:
            queries, keys, values = _queries(q, bucket.query, heads), *(_keys(x, q, bucket.key) for x in (k, v))
            out, lse = self.attend(queries, keys, values, part.causal, scale)
            yield bucket.places, _tokens(out, bucket), _tokens(lse[..., None], bucket)[..., 0]

    def backward(
        self, part: Part, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d: Tensor, scale: float
    ) -> Iterator[Slopes]:
        heads = k.shape[1]
        for bucket in part.buckets:
            queries, outs, slope = (_queries(x, bucket.query, heads) for x in (q, out, d))
            if bucket.padding is not None:
                slope = slope.masked_fill(bucket.padding[:, None, :, None], 0.0)
            keys, values = (_keys(x, q, bucket.key) for x in (k, v))
            sums = _queries(lse[..., None], bucket.query, heads)[..., 0].contiguous()
            dq, dk, dv = self.slopes(slope, queries, keys, values, outs, sums, part.causal, scale)
            there = bucket.key if isinstance(bucket.key, slice) else bucket.key.flatten()
            own = (_own(x, heads, bucket.key) for x in (dk, dv))
            yield bucket.places, _tokens(dq, bucket), there, next(own), next(own)


def _queries(x: Tensor, places: Places, heads: int) -> Tensor:
    """Of one run, query heads that share a key head are further rows of the batch, (groups, heads, C, D): its keys are
    then no copy. Of several, (B, query heads, C, D)."""
    if isinstance(places, slice):
        return x[places].unflatten(1, (heads, -1)).permute(2, 1, 0, 3)
    return x.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


def _keys(x: Tensor, q: Tensor, places: Places) -> Tensor:
    groups = q.shape[1] // x.shape[1]
    if isinstance(places, slice):
        return x[places].transpose(0, 1).expand(groups, -1, -1, -1)
    found = x.index_select(0, places.flatten()).unflatten(0, places.shape)
    return found[:, :, :, None].expand(-1, -1, -1, groups, -1).flatten(2, 3).transpose(1, 2)


def _tokens(x: Tensor, bucket: Any) -> Tensor:
    """Back from `_queries`, (tokens, query heads, D)."""
    if isinstance(bucket.query, slice):
        return x.permute(2, 1, 0, 3).flatten(1, 2)
    found = x.transpose(1, 2).flatten(0, 1)
    return found if bucket.real is None else found.index_select(0, bucket.real)


def _own(x: Tensor, heads: int, places: Places) -> Tensor:
    """Gradients by `_keys`, (tokens, heads, D)."""
    if isinstance(places, slice):
        return x.sum(0).transpose(0, 1)
    return x.unflatten(1, (heads, -1)).sum(2).transpose(1, 2).flatten(0, 1)


# -------------------------------------------------------------------------------------------------------------- choices


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _cpu_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d, q, k, v, out, lse, 0.0, causal, scale=scale
    )


def _cuda_forward(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, n: int, m: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten._flash_attention_forward(q, k, v, starts_q, starts_k, n, m, 0.0, causal, False, scale=scale)
    return found[0], found[1]


def _cuda_backward(
    *given: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, starts_q, starts_k, n, m, causal, scale = given
    device = tensors[0].device
    state = torch.zeros(2, dtype=torch.uint64, device=device), torch.empty(0, device=device)  # of no dropout
    return torch.ops.aten._flash_attention_backward(
        *tensors, starts_q, starts_k, n, m, 0.0, causal, *state, scale=scale
    )


def products_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """By plain products, in float32 or better, a block of queries at a time."""
    outs: list[Tensor] = []
    sums: list[Tensor] = []
    for _, scores in _scores(q, k, causal, scale):
        sums.append(scores.logsumexp(-1))
        outs.append(((scores - sums[-1][..., None]).exp() @ v.to(scores)).to(q.dtype))
    return torch.cat(outs, 2), torch.cat(sums, 2)


def products_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dq = torch.empty(q.shape, dtype=lse.dtype, device=q.device)
    dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=q.device) for x in (k, v))
    for rows, scores in _scores(q, k, causal, scale):
        p = (scores - lse[:, :, rows, None]).exp()
        slope = d[:, :, rows].to(p)
        dv += p.mT @ slope
        delta = (slope * out[:, :, rows]).sum(-1, keepdim=True)
        ds = p * (slope @ v.to(p).mT - delta) * scale
        dq[:, :, rows] = ds @ k.to(p)
        dk += ds.mT @ q[:, :, rows].to(p)
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Iterator[tuple[slice, Tensor]]:
    exact = torch.promote_types(q.dtype, torch.float32)
    batch, heads, length = q.shape[:3]
    size = max(1, SCORES // (batch * heads * k.shape[2]))
    place = torch.arange(k.shape[2], device=q.device)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        scores = (q[:, :, rows].to(exact) @ k.to(exact).mT) * scale
        if causal:
            scores = scores.masked_fill(place > place[rows, None], float("-inf"))
        yield rows, scores


FLASH = Batched(_cpu_forward, _cpu_backward)
PRODUCTS = Batched(products_forward, products_backward)
VARLEN = Varlen(_cuda_forward, _cuda_backward)


@functools.cache
def chosen(device: str, dtype: torch.dtype, width: int, value_width: int) -> Kernel:
    """The kernel for tensors of a kind."""
    half = dtype in (torch.bfloat16, torch.float16)
    if width == value_width and device == "cpu":
        return FLASH
    if width == value_width and device == "cuda" and half and width % 8 == 0 and width <= 256:
        return VARLEN
    return PRODUCTS
