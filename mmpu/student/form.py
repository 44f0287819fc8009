"""What a model's forward does around its head: l = c · tanh(s · z / c) of the head's products z = W h + b.

Granite divides its logits, Cohere multiplies them, MiniCPM3 divides the hidden states, Gemma caps: so it is not read
off names of a configuration but off the forward itself. It is run on hidden states and products that are given to it,
with the layers left out, which costs two products with the head's weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from mmpu.core import UserError

PLACES = 4
LIMIT = 1e-5
"""Largest error of a logit, relative to its size or 1, that rounding explains in float32."""


@dataclass(frozen=True)
class Form:
    """How logits come from products with the head's weights."""

    scale: float = 1.0
    softcap: float | None = None

    def of(self, z: Tensor) -> Tensor:
        """Logits of products."""
        scaled = z if self.scale == 1 else z * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


class Unknown(UserError):
    """A forward whose logits are none of the forms that are computed."""


class _Output(BaseModelOutputWithPast):
    def __getattr__(self, name: str) -> None:
        """Of other things that a backbone may return there are none."""
        if name.startswith("__"):
            raise AttributeError(name)


def measured(model: Any) -> Form:
    """The form of a model's logits.

    Raises:
        Unknown: its forward does something else, or does not lead through the backbone and the head that it names.
    """
    name = type(model).__name__
    backbone, head = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if not isinstance(backbone, nn.Module) or backbone is model or not isinstance(head, nn.Linear):
        raise Unknown(f"{name} has no backbone with a linear head; it is not a decoder that mmpu can train")
    bias: Tensor | None = getattr(head, "bias", None)
    width, vocabulary = head.in_features, len(head.weight)
    generator = torch.Generator().manual_seed(0)
    device = head.weight.device
    hidden = torch.randn(1, PLACES, width, generator=generator).to(device)
    size = torch.logspace(-4, 6, PLACES)[:, None]
    products = (torch.randn(1, PLACES, vocabulary, generator=generator) * size).to(device)
    with _given(model, backbone, head, hidden, products) as fed, torch.no_grad():
        try:
            out = model(input_ids=torch.zeros(1, PLACES, dtype=torch.long, device=device), use_cache=False).logits
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise Unknown(f"{name}: its forward wants more than hidden states ({error})") from error
    if len(fed) != 1:
        raise Unknown(f"{name}: its forward uses the head that it names {len(fed)} times, not once")
    before = float((fed[0] * hidden).sum() / hidden.square().sum())
    if before == 0 or fed[0].shape != hidden.shape or _error(fed[0], before * hidden) > LIMIT:
        raise Unknown(f"{name} transforms hidden states before its head, which mmpu does not compute")
    if before != 1 and bias is not None:
        raise Unknown(
            f"{name} scales hidden states by {before:g} before a head with a bias, which mmpu does not compute"
        )
    if out.shape != products.shape:
        raise Unknown(f"{name} gives {tuple(out.shape)} logits for {tuple(products.shape)} products of its head")
    form = _fitted(products.double(), out.double())
    error = _error(out.double(), form.of(products.double()))
    if not error <= LIMIT:
        raise Unknown(
            f"{name}: logits are no scaled or capped products of its head (off by {error:.2g}), which mmpu "
            "does not compute"
        )
    return Form(_rounded(form.scale * (before if abs(before - 1) > LIMIT else 1.0)), form.softcap)


def _fitted(z: Tensor, logits: Tensor) -> Form:
    """From products whose sizes span ten orders of magnitude."""
    small, found = z[0, 0], logits[0, 0]
    scale = float((small * found).sum() / small.square().sum())
    largest = float(logits.abs().max())
    capped = largest < abs(scale) * float(z.abs().max()) * 0.5
    if not capped:
        scale = float((z * logits).sum() / z.square().sum())
        return Form(_rounded(scale))
    return Form(_rounded(scale), _rounded(largest))


def _rounded(number: float) -> float:
    """A number that a configuration may hold, where one is as near as float32 tells."""
    for candidate in (float(f"{number:.5g}"), 1 / float(f"{1 / number:.5g}") if number else number):
        if abs(candidate - number) <= 1e-6 * abs(number):
            return candidate
    return number


def _error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1.0)).max())


@contextlib.contextmanager
def _given(model: Any, backbone: Any, head: nn.Module, hidden: Tensor, products: Tensor) -> Generator[list[Tensor]]:
    """Inside, the backbone, or the decoder in it, returns `hidden` and the head `products`; what the head is fed is
    kept."""
    fed: list[Tensor] = []

    def feed(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        fed.append(args[0].detach().float())
        return (torch.zeros(1, 1, args[0].shape[-1], dtype=next(head.parameters()).dtype, device=args[0].device),)

    def said(*_: Any, **__: Any) -> _Output:
        return _Output(last_hidden_state=cast(torch.FloatTensor, hidden))

    def made(*_: Any) -> Tensor:
        return products

    layers = {id(m): m for m in (backbone, getattr(backbone, "decoder", None)) if isinstance(m, nn.Module)}
    own = {key: module.__dict__.get("forward") for key, module in layers.items()}
    hooks = [head.register_forward_pre_hook(feed), head.register_forward_hook(made)]
    training = model.training
    model.eval()
    for module in layers.values():
        module.forward = said
    try:
        yield fed
    finally:
        for key, module in layers.items():
            del module.forward
            if (before := own[key]) is not None:
                module.forward = before
        for hook in hooks:
            hook.remove()
        model.train(training)
