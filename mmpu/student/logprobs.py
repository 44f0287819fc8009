"""log p(token), and entropies, straight from hidden states: logits exist for a chunk of tokens at a time.

Autograd through logits → log-softmax → gather holds several matrices of tokens × vocabulary and passes over each many
times. Here the forward pass keeps one number per token, log Σ exp, and the backward pass makes a chunk's logits again,
turns them into their own gradient in place, and multiplies them away:

    ∂ log p_t / ∂l = e_t − p        ∂H / ∂l = −p (log p + H)

Up to a fixed amount of probabilities is kept from one pass to the other, which spares the first tokens the repetition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmpu.student import products

FLOOR = -1e4
"""Stands for log 0 where 0 · log 0 must be 0."""
CACHED = 2**19
"""Logits that a CPU's caches keep while a softmax goes over them several times."""


def log_softmax(logits: Tensor) -> Tensor:
    """log p over the last axis, in the type of the logits.

    Torch's own adds a row up in one float32 per lane of a vector: with 8 lanes (AVX2) and 150k tokens about as likely,
    its error is up to 2e-4, and that of `logsumexp`, which adds in a tree, 1e-6.
    """
    return logits - logits.logsumexp(-1, keepdim=True)


@dataclass(frozen=True)
class Room:
    """How much memory is spent on speed."""

    chunk: int = 2**23
    """Logits made at once: tokens × vocabulary."""
    rows: int = 512
    """The least number of tokens at once. With fewer, going over a large vocabulary's weights and their gradient costs
    more than multiplying."""
    held: int = 2**27
    """Probabilities kept for the backward pass, 512 MiB: tokens × vocabulary."""
    adds: bool = False
    """Add the gradient of the weights to their `grad`, instead of handing it to autograd, which would hold both for a
    moment. For `backward()`; `torch.autograd.grad` would not see it."""


AMPLE = Room()
TRAINING = Room(adds=True)
SPARE = Room(2**22, 128, 0, True)
"""For a pass over a part of what there is no room for: activations and gradients of earlier parts fill the memory."""


@dataclass(frozen=True)
class Logits:
    """How logits come from products with the head's weights: l = c · tanh(s · z / c) / temperature."""

    banned: tuple[int, ...] = ()
    """Tokens whose logit is minus infinity."""
    softcap: float | None = None
    temperature: float = 1.0
    scale: float = 1.0


def exact(tensor: Tensor) -> torch.dtype:
    """The type of what is computed from a tensor to be compared or summed: float32, or float64 where the tensor is."""
    return torch.promote_types(tensor.dtype, torch.float32)


def log_probs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    form: Logits,
    entropy: bool = False,
    room: Room = AMPLE,
) -> tuple[Tensor, Tensor | None]:
    """log p(target) and, if wanted, the entropy of each token's distribution, nats, each (N,) in float32, in float64
    where the weights are.

    Under autocast, products are of its type, added up in float32. The backward pass can be made once.
    """
    if torch.is_autocast_enabled(hidden_NH.device.type):
        dtype = torch.get_autocast_dtype(hidden_NH.device.type)
        hidden_NH = hidden_NH.to(dtype)
    trains = torch.is_grad_enabled() and (hidden_NH.requires_grad or weight_VH.requires_grad)
    if not trains or entropy or form.softcap is not None:
        room = replace(room, held=0)
    logp, found = _LogProbs.apply(hidden_NH, weight_VH, bias_V, target_N, form, entropy, room)  # pyright: ignore
    return logp, found if entropy else None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        form: Logits,
        entropy: bool,
        room: Room,
    ) -> tuple[Tensor, Tensor]:
        logp, log_sum, found = (hidden.new_zeros(len(hidden), dtype=exact(weight)) for _ in range(3))
        held: list[Tensor] = []
        spare = room.held
        buffer: Tensor | None = None
        for rows in _chunks(len(hidden), weight, room):
            logits, _ = _logits(buffer, hidden[rows], weight, bias, form)
            logp[rows] = logits.gather(1, target[rows, None])[:, 0]
            log_sum[rows], found[rows] = _softmax(logits, entropy)
            spare -= logits.numel()
            if spare >= 0:
                held.append(logits)
            else:
                buffer = logits
        logp -= log_sum
        ctx.save_for_backward(hidden, weight, bias, target, log_sum, found, *held)
        ctx.form, ctx.entropy, ctx.room = form, entropy, room
        return logp, found

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, log_sum, entropy, *held = ctx.saved_tensors
        d_logp, d_entropy = gradients
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        adds = wants_weight and ctx.room.adds and weight.is_leaf and weight.dtype == exact(weight)
        d_weight: Tensor | None = weight.grad if adds else None
        d_bias = torch.zeros_like(bias, dtype=exact(weight)) if wants_bias else None
        buffer: Tensor | None = None
        for number, rows in enumerate(_chunks(len(hidden), weight, ctx.room)):
            given, slope = d_logp[rows, None], None
            if number < len(held):
                d_logits = held[number].mul_(-given)
            else:
                logits, slope = _logits(buffer, hidden[rows], weight, bias, ctx.form)
                buffer = log_p = logits.sub_(log_sum[rows, None])
                if ctx.entropy:
                    rate = log_p.clamp_(min=FLOOR).add(entropy[rows, None]).mul_(d_entropy[rows, None]).add_(given)
                    d_logits = log_p.exp_().mul_(rate).neg_()
                else:
                    d_logits = log_p.exp_().mul_(-given)
            d_logits.scatter_add_(1, target[rows, None], given)
            if ctx.form.banned:
                d_logits.index_fill_(1, torch.tensor(ctx.form.banned, device=hidden.device), 0.0)
            if slope is not None:
                d_logits.mul_(slope)
            if ctx.form.temperature != 1.0:
                d_logits.div_(ctx.form.temperature)
            if ctx.form.scale != 1.0:
                d_logits.mul_(ctx.form.scale)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            plain = hidden.dtype == weight.dtype == exact(weight)
            if wants_weight and d_weight is None and not plain:
                d_weight = torch.zeros_like(weight, dtype=exact(weight))
            d_logits = d_logits.to(hidden.dtype)
            if d_hidden is not None and plain:
                torch.mm(d_logits, weight, out=d_hidden[rows])
            elif d_hidden is not None:
                d_hidden[rows] = products.from_vocabulary(d_logits, weight)
            if wants_weight and d_weight is None:
                d_weight = d_logits.T @ hidden[rows]
            elif d_weight is not None and plain:
                d_weight.addmm_(d_logits.T, hidden[rows])
            elif d_weight is not None:
                products.add_outer(d_weight, d_logits, hidden[rows])
        if wants_weight and d_weight is None:  # no tokens
            d_weight = torch.zeros_like(weight)
        if adds:
            weight.grad, d_weight = d_weight, None
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            *[None] * 4,
        )


def _chunks(tokens: int, weight: Tensor, room: Room) -> Iterator[slice]:
    """Slices of the tokens whose logits are made at once."""
    size = max(1, room.rows, room.chunk // len(weight))
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _softmax(logits: Tensor, entropy: bool) -> tuple[Tensor, Tensor | float]:
    """Turns logits (n, V) into probabilities in place; log Σ exp and, if wanted, the entropy, each (n,)."""
    few = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    log_sums: list[Tensor] = []
    entropies: list[Tensor] = []
    for part in logits.split(few):
        highest = part.amax(1, keepdim=True)
        weighed = part.clamp(min=FLOOR) if entropy else None
        mass = part.sub_(highest).exp_()
        total = mass.sum(1, keepdim=True)
        mass.div_(total)
        log_sums.append((highest + total.log())[:, 0])
        if weighed is not None:
            entropies.append(log_sums[-1] - weighed.mul_(mass).sum(1))
    return torch.cat(log_sums), torch.cat(entropies) if entropy else 0.0


def _logits(
    buffer: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None, form: Logits
) -> tuple[Tensor, Tensor | None]:
    """Logits (n, V), in `buffer` if there is one, and with soft-capping their derivative."""
    if buffer is None:
        buffer = weight.new_empty(len(hidden), len(weight), dtype=exact(weight))
    buffer = buffer[: len(hidden)]
    if hidden.dtype == weight.dtype == exact(weight):
        torch.mm(hidden, weight.T, out=buffer)
    else:
        products.to_vocabulary(hidden, weight, buffer)
    if bias is not None:
        buffer.add_(bias)
    slope = None
    if form.scale != 1.0:
        buffer.mul_(form.scale)
    if form.softcap is not None:
        buffer.div_(form.softcap).tanh_()
        slope = 1 - buffer.square()
        buffer.mul_(form.softcap)
    if form.temperature != 1.0:
        buffer.div_(form.temperature)
    if form.banned:
        buffer.index_fill_(1, torch.tensor(form.banned, device=buffer.device), float("-inf"))
    return buffer, slope
