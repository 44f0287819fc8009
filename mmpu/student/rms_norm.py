"""RMSNorm in few passes over its input, and keeping nothing else for the backward pass.

transformers composes it of seven operations, each of which autograd answers with more, and keeps what they make. With
y = w x r, r = (mean x² + ε)^-½ over H components:

    ∂/∂x = r w d − x r³ / H · Σ w d x        ∂/∂w = Σ_tokens d x r
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PLAIN = frozenset(
    f"{family}RMSNorm" for family in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen2_5_VL", "Qwen3", "Qwen3VLText")
)
"""Modules of transformers that compute x r in float32 (here in float64 if x is), round it to the type of x, and
multiply by w."""


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        r = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return weight * (x * r).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, r = ctx.saved_tensors
        d, w = gradients[0].to(r.dtype), weight.to(r.dtype)
        dx = d * x
        d_weight = (r.flatten() @ dx.flatten(0, -2)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, d_weight, None
        slope = (dx @ w)[..., None].mul_(r.pow(3)).div_(-x.shape[-1])
        return (d * w).mul_(r).addcmul_(x, slope).to(x.dtype), d_weight, None


class _RMSNorm(nn.Module):
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _Normalised.apply(hidden_states, self.weight, self.variance_epsilon)  # pyright: ignore


def restore(model: nn.Module) -> bool:
    """Gives norms back what their class computes; True if there was one that computed otherwise."""
    found = [module for module in model.modules() if isinstance(module, _RMSNorm)]
    for module in found:
        module.__class__ = type(module).__mro__[2]
    return bool(found)


def install(model: nn.Module) -> None:
    """Lets a model's norms compute so, if they are known to mean the same."""
    kinds: dict[type, type] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in PLAIN and not isinstance(module, _RMSNorm):
            module.__class__ = kinds.setdefault(kind, type(kind.__name__, (_RMSNorm, kind), {}))
