"""AdamW and its schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from mmpu.knobs import MAY_CHANGE, Count, CountOrZero, Momentum, NotNegative, Parallel, Rate, Ratio, Share

if TYPE_CHECKING:
    import torch

    from mmpu.student import Student


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule."""

    lr: Rate = 1e-6
    """The peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """After the warm-up, down to 0, or `constant`."""
    warmup: Share = 0.03
    """Share of the stage's steps."""
    warmup_steps: CountOrZero | None = None
    """The same as a number of steps, which then counts."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """Decoupled, per step times lr."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """Of AdamW's two moments."""
    clip: NotNegative = 1.0
    """Largest gradient norm; 0 does not clip."""
    updates: Parallel = 1
    """Optimiser steps on each rollout; more than 1 needs a method that knows how far it has moved, such as ppo."""
    importance_cap: Ratio | None = 2.0
    """Where a method compares with old log-probabilities, a token counts p_trainer / p_sampler times, at most so often;
    None counts all alike. Where the sampler computes as the trainer does, it changes nothing."""
    tokens_per_pass: Annotated[Count, MAY_CHANGE] = 16384
    """Padded tokens of one forward and backward pass; bounds memory, changes nothing else."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, a pure function, so that resuming needs no scheduler state."""
        warm = max(1, round(self.warmup * steps) if self.warmup_steps is None else self.warmup_steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
        return self.lr * shape[self.schedule]

    def build(self, student: Student) -> torch.optim.Optimizer:
        import torch

        trainable = [p for p in student.parameters() if p.requires_grad]
        return torch.optim.AdamW(trainable, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)
