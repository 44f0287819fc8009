"""Log-probabilities, entropies and divergences without logits.

From the hidden states that predict completion tokens: logits are made for a chunk of tokens at a time, reduced to one
number per token in float32 (float64 where the weights are), and made again in the backward pass. Nothing of size
tokens × vocabulary is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from mmpu.learning import Divergence
from mmpu.student.divergence import divergence, log_softmax
from mmpu.student.form import Form
from mmpu.student.logprobs import AMPLE, Logits, Room, exact, log_probs

CHUNK = 2**22
"""Logits that a divergence holds at once: completion tokens × vocabulary."""
FEW, BLOCK = 12, 128
"""Up to `FEW` tokens a CPU is faster if it takes the head's weights `BLOCK` rows at a time."""
Measured = Mapping[str, Tensor]
"""Quantities of tokens by name."""


def project(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    """`linear`, (N, V), for a large V.

    A matrix product rearranges its operands first, which for a few tokens is most of the work: the weights travel to
    memory and back. In blocks they stay in the caches: 44 instead of 109 ms for 8 tokens and V = 152k.
    """
    vocabulary = len(weight_VH)
    plain = hidden_NH.dtype == weight_VH.dtype == torch.float32 and hidden_NH.device.type == "cpu"
    if not plain or not 1 < len(hidden_NH) <= FEW or vocabulary < 8192 or torch.is_autocast_enabled("cpu"):
        return linear(hidden_NH, weight_VH, bias_V)
    whole = vocabulary - vocabulary % BLOCK
    blocks = weight_VH[:whole].unflatten(0, (-1, BLOCK))
    found = (hidden_NH.expand(len(blocks), -1, -1) @ blocks.mT).transpose(0, 1).flatten(1)
    logits = found if whole == vocabulary else torch.cat([found, linear(hidden_NH, weight_VH[whole:])], 1)
    return logits if bias_V is None else logits + bias_V


@dataclass(frozen=True, eq=False)
class Head:
    """The projection from hidden states to logits."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    banned: tuple[int, ...] = ()
    """Tokens that only prompts may hold; their logit is minus infinity."""
    softcap: float | None = None
    """c · tanh(logits / c), as Gemma does; None leaves logits as they are."""
    scale: float = 1.0
    """Of products, before they are capped."""

    @property
    def exact(self) -> torch.dtype:
        """The type of what it measures."""
        return exact(self.weight_VH)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """(N, V) in float32, in float64 where the weights are."""
        logits = project(hidden_NH, self.weight_VH, self.bias_V)
        logits = Form(self.scale, self.softcap).of(logits.to(exact(logits)))
        if self.banned:
            logits = logits.index_fill(1, torch.tensor(self.banned, device=logits.device), float("-inf"))
        return logits

    def fixed(self) -> Head:
        """The same weights as they are now, without gradient, whatever becomes of the model they belong to."""
        bias = None if self.bias_V is None else self.bias_V.detach()
        return replace(self, weight_VH=self.weight_VH.detach(), bias_V=bias)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher's side of a divergence."""

    head: Head
    hidden_MH: Tensor
    at_M: Tensor
    """Which of the student's tokens these hidden states predict."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What is wanted of a pass, besides log-probabilities."""

    temperature: float = 1.0
    """Logits are divided by it, a teacher's too."""
    entropy: bool = False
    value: bool = False
    divergence: Divergence | None = None
    teacher: Teacher | None = None
    room: Room = AMPLE


def measure(head: Head, hidden_NH: Tensor, target_N: Tensor, ask: Ask) -> dict[str, Tensor]:
    """`logp`, and `entropy` and `divergence` where asked for, each (N,) as exact as `log_probs`; a divergence is zero
    where the teacher does not read."""

    form = Logits(head.banned, head.softcap, ask.temperature, head.scale)
    logp_N, entropy_N = log_probs(hidden_NH, head.weight_VH, head.bias_V, target_N, form, ask.entropy, ask.room)
    found = {"logp": logp_N} | ({} if entropy_N is None else {"entropy": entropy_N})
    if ask.divergence is not None and ask.teacher is not None:
        kind, teacher = ask.divergence, ask.teacher
        width = min(head.weight_VH.shape[0], teacher.head.weight_VH.shape[0])  # beyond it lies padding of either

        def distance(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
            student = head.logits(student_hidden)[:, :width] / ask.temperature
            with torch.no_grad():
                other = log_softmax(teacher.head.logits(teacher_hidden)[:, :width] / ask.temperature)
            return divergence(log_softmax(student), other, kind)

        size = max(1, CHUNK // (2 * head.weight_VH.shape[0]))
        value_M = _chunked(distance, size, hidden_NH[teacher.at_M], teacher.hidden_MH)
        found["divergence"] = value_M.new_zeros(len(target_N)).index_put((teacher.at_M,), value_M)
    return found


def _chunked(function: Callable[[Tensor, Tensor], Tensor], size: int, *inputs: Tensor) -> Tensor:
    """`function` over chunks of its inputs' first dimension, recomputed in backward."""
    if len(inputs[0]) <= size:
        return function(*inputs)
    parts = zip(*(i.split(size) for i in inputs), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([cast(Tensor, checkpoint(function, *part, use_reentrant=False)) for part in parts])
    return torch.cat([function(*part) for part in parts])
