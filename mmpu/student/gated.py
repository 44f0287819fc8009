"""Gated MLPs that keep two of the four widths of their inner side: down(a(gate) · up).

Autograd keeps gate, a(gate), up and their product, each as wide as the MLP, and these are most of what a pass keeps.
From gate and up the others are made again where the backward pass wants them, for two operations per element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.llama.modeling_llama import LlamaMLP


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            gated = ctx.act(leaf)
        (d_gate,) = torch.autograd.grad(gated, leaf, gradients[0] * up)
        return d_gate, gradients[0] * gated.detach(), None


class _Gated(nn.Module):
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: Callable[[Tensor], Tensor]
    _layer: list[Any]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        again = getattr(self._layer[0], "gradient_checkpointing", False) and self.training
        if again or not torch.is_grad_enabled() or not (gate.requires_grad and up.requires_grad):
            return self.down_proj(self.act_fn(gate) * up)  # which is made again anyway, or not kept
        product = _Product.apply(gate, up, self.act_fn)  # pyright: ignore
        place, size, kind = product.data_ptr(), product.numel(), product.dtype
        gate, up = gate.detach(), up.detach()

        def pack(x: Tensor) -> Tensor | torch.Size:
            same = x.data_ptr() == place and x.numel() == size and x.dtype == kind and x.is_contiguous()
            return x.shape if same else x

        def unpack(kept: Tensor | torch.Size) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            with torch.no_grad():
                return (self.act_fn(gate) * up).view(kept)

        with saved_tensors_hooks(pack, unpack):
            return self.down_proj(product)


def install(model: nn.Module) -> None:
    """Lets a model's gated MLPs compute so: those whose forward is, instruction by instruction, Llama's."""
    kinds: dict[type, type] = {}
    for layer in list(model.modules()):
        mlp: Any = getattr(layer, "mlp", None)
        if isinstance(mlp, nn.Module) and not isinstance(mlp, _Gated) and _alike(type(mlp)):
            kind = type(mlp)
            mlp.__class__ = kinds.setdefault(kind, type(kind.__name__, (_Gated, kind), {}))
            vars(mlp)["_layer"] = [layer]  # a list hides it from modules()


def keeps_half(model: nn.Module) -> bool:
    """Whether a model's MLPs keep two widths of their inner side, not four; those without a gate keep two anyhow."""
    layers = [m for m in model.modules() if hasattr(m, "gate_proj") and hasattr(m, "down_proj")]
    return all(isinstance(layer, _Gated) for layer in layers)


def _alike(kind: type[nn.Module]) -> bool:
    known, own = LlamaMLP.forward.__code__, getattr(kind.forward, "__code__", None)
    return own is not None and (own.co_code, own.co_names, own.co_consts) == (
        known.co_code,
        known.co_names,
        known.co_consts,
    )
