"""Products with the head's weights in a half type, added up in float32, a block of the vocabulary at a time.

Rounded to a half type, a logit of 20 is off by up to 0.06. And a head whose weights are float32 is cast block by block:
no second matrix as large as the vocabulary exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 8192
"""Rows of the vocabulary at once."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of half types in float32; torch's own product of that kind is for CUDA alone."""
    if a.device.type == "cuda" and "dtype" in torch.ops.aten.mm.overloads():
        return torch.mm(a, b, out_dtype=torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def to_vocabulary(hidden_NH: Tensor, weight_VH: Tensor, out_NV: Tensor) -> None:
    """hidden · weightᵀ, the weights cast to the type of the hidden states."""
    for rows in _blocks(weight_VH):
        out_NV[:, rows] = product(hidden_NH, weight_VH[rows].to(hidden_NH.dtype).T)


def from_vocabulary(slope_NV: Tensor, weight_VH: Tensor) -> Tensor:
    """slope · weight, (N, H) in float32."""
    total = slope_NV.new_zeros(len(slope_NV), weight_VH.shape[1], dtype=torch.float32)
    for rows in _blocks(weight_VH):
        total += product(slope_NV[:, rows], weight_VH[rows].to(slope_NV.dtype))
    return total


def add_outer(total_VH: Tensor, slope_NV: Tensor, hidden_NH: Tensor) -> None:
    """total += slopeᵀ · hidden."""
    for rows in _blocks(total_VH):
        total_VH[rows] += product(slope_NV[:, rows].T, hidden_NH)


def _blocks(weight_VH: Tensor) -> Iterator[slice]:
    for start in range(0, len(weight_VH), BLOCK):
        yield slice(start, start + BLOCK)
