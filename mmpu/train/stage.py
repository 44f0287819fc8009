"""A stage with everything that it works with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import Accelerator

from mmpu.core import Sample, Task, digest
from mmpu.learning import Method
from mmpu.student import Student
from mmpu.train import evaluator
from mmpu.train.rollout import Rollout
from mmpu.train.stage_config import StageConfig


@dataclass(frozen=True)
class Stage:
    """A stage with everything it works with."""

    config: StageConfig
    folder: Path
    samples: Sequence[Sample]
    task: Task
    rollout: Rollout
    student: Student
    accelerator: Accelerator
    seed: int
    checked: Mapping[str, float] = field(default_factory=dict[str, float])
    """How good its evaluator was found to be when it was chosen, which is the check before the first step."""

    @property
    def size(self) -> int:
        """Prompts of a step, over all processes: no more than there are."""
        return steps_of(self.config, len(self.samples))[1]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return steps_of(self.config, len(self.samples))[0]

    @property
    def described(self) -> str:
        """What is about to be trained, on what and where, in one line."""
        weights = list(self.student.parameters())
        trained = sum(w.numel() for w in weights if w.requires_grad)
        held = self.student.config
        return (
            f"stage {self.config.name}: {len(self.samples):,} prompts, {self.steps:,} steps of {self.size}; "
            f"{trained:,} of {sum(w.numel() for w in weights):,} parameters trained on {self.student.device} in "
            f"{held.computes_in}; {self.folder}"
        )

    @property
    def has_reference(self) -> bool:
        """True if the weights of the stage's start are kept."""
        return keeps_reference(self.config, self.rollout.method)

    def prompts(self, position: int) -> list[Sample]:
        """The next samples of the stage's order, as many as a step takes: epochs, each in an order of its own, end to
        end. A pure function of seed and position."""
        size, n = self.size, len(self.samples)
        orders: dict[int, list[int]] = {}
        chosen: list[Sample] = []
        for each in range(position, position + size):
            epoch, place = divmod(each, n)
            if epoch not in orders:
                orders[epoch] = list(range(n))
                random.Random(self.step_seed("order", epoch)).shuffle(orders[epoch])
            chosen.append(self.samples[orders[epoch][place]])
        return chosen

    def sample_seed(self, step: int, batch: int, repeat: int) -> int:
        """The seed of a step's candidates.

        Args:
            batch: Generation batches of the step before this one.
            repeat: How often the prompt stands earlier in the batch, as where an epoch ends within it: it gets other
                candidates, not a copy. Candidates of the stage's start are drawn once, however often a prompt comes.
        """
        method = self.rollout.method
        fixed = method.offline and method.shadow is not None and method.shadow.kind == "start"
        purpose = f"sample{batch or ''}" + (f" again {repeat}" if repeat and not fixed else "")
        return self.step_seed(purpose, 0 if fixed else step)

    def step_seed(self, purpose: str, step: int) -> int:
        return seed_of(self.seed, self.config.name, purpose, step)


def steps_of(config: StageConfig, prompts: int) -> tuple[int, int]:
    """Optimiser steps of a stage with so many prompts, and prompts of a step."""
    size = min(config.prompts_per_step, prompts)
    return config.steps or max(1, round(config.epochs * prompts / size)), size


def seed_of(seed: int, stage: str, purpose: str, step: int = 0) -> int:
    """What a stage draws depends on the run's seed, its own name and the step, and on nothing that was drawn before."""
    return int(digest([seed, stage, purpose, step]), 16) % 2**31


def keeps_reference(config: StageConfig, method: Method) -> bool:
    """True if the weights of the stage's start are needed during it."""
    measured = config.kl_every > 0 and "responses" in method.needs
    started = method.shadow is not None and method.shadow.kind == "start"
    return measured or started or "reference" in method.needs or config.scorer is not None


def checks_evaluator(rollout: Rollout) -> bool:
    """True if training trusts a scorer that reads the anchor."""
    return "scores" in rollout.method.needs and "anchor" in rollout.needs


def with_evaluator(stage: Stage, say: Callable[[str], None]) -> Stage:
    """The stage with an evaluator that was chosen, where its config leaves open how it reads."""
    rollout, checked = evaluator.settled(
        stage.rollout,
        stage.samples,
        stage.task,
        stage.config.preflight.trial,
        stage.folder,
        stage.accelerator,
        lambda: stage.student.tokens_read,
        say,
        stage.step_seed("evaluator", 0),
    )
    return replace(stage, rollout=rollout, checked=checked)
