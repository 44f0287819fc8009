"""A stage: what its config says, and everything that it works with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from accelerate import Accelerator

from mmpu.core import Sample, Sampling, Scorer, Task, digest
from mmpu.knobs import MAY_CHANGE, Count, CountOrZero, Parallel, Positive, Share
from mmpu.learning import Method
from mmpu.specs import Spec
from mmpu.student import Student
from mmpu.train import evaluator
from mmpu.train.optim import Optim
from mmpu.train.preflight import Preflight
from mmpu.train.rollout import Rollout


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run. `method` and `scorer` are components: a name, or a mapping with `name` and their own keys."""

    name: str
    method: Spec[Method]
    split: str
    """Prompts to train on, such as `train[400:1400]`."""
    scorer: Spec[Scorer] | None = None
    k: Parallel = 8
    """Candidates sampled per prompt."""
    sampling: Sampling | None = None
    """None takes the task's, at temperature 1 and untruncated."""
    prompts_per_step: Count = 32
    epochs: Positive = 1.0
    steps: Count | None = None
    """None follows from `epochs`."""
    optim: Optim = field(default_factory=Optim)
    preflight: Annotated[Preflight, MAY_CHANGE] = field(default_factory=Preflight)
    checkpoint_every: Annotated[Count, MAY_CHANGE] = 50
    max_refused: Annotated[Count, MAY_CHANGE] = 5
    """Updates with a non-finite gradient before the stage gives up."""
    max_skipped: Annotated[Share, MAY_CHANGE] = 0.5
    """Largest share of a step's groups that may be without an anchor, left out, or without a usable score, before the
    stage gives up."""
    leave_out: tuple[Literal["long", "unreadable", "cut", "low"], ...] = ()
    """What to do without. Before the first step, prompts that with their answer or what a scorer shows are too `long`
    for the model, or `unreadable` by it; otherwise the stage does not begin. In a step, prompts whose anchor is `cut`
    by the teacher's length limit, or has a `low` s*; otherwise a cut one is trained on without an end of sequence.
    All are counted, the first two in the stage's `left_out.json`, the others as `cut_anchors` and `low_anchors`."""
    low_anchor: float = 0.5
    """An s* below this is low: the evaluator does not think much of the teacher's answer."""
    length_alarm: Annotated[Positive, MAY_CHANGE] = 0.5
    """Warn when the mean response length has moved by more than this share since the stage's start."""
    kl_every: Annotated[CountOrZero, MAY_CHANGE] = 10
    """Steps between two measurements of the KL to the stage's start, for methods that sample and do not need it at
    every step; 0 never. Under full training it takes a frozen copy of the weights."""
    hacking_window: Annotated[Count, MAY_CHANGE] = 10
    """Steps whose mean score and accuracy are compared with the window before."""
    hacking_rises: Annotated[Count, MAY_CHANGE] = 3
    """Warn when over so many windows in a row the score rose and the accuracy fell."""
    alarms: Annotated[dict[str, float], MAY_CHANGE] = field(
        default_factory=lambda: {
            "flat_groups": 0.8,
            "truncated": 0.5,
            "skipped_groups": 0.1,
            "unanchored_groups": 0.0,
            "cut_anchors": 0.0,
            "damaged_anchors": 0.0,
            "low_anchors": 0.5,
            "fallback_groups": 0.0,
            "infinite_scores": 0.0,
            "cut_contexts": 0.0,
            "dropped_thoughts": 0.0,
            "overlong_groups": 0.0,
            "masked_candidates": 0.1,
            "kl_ref": 5.0,
            "sampler_gap": 0.1,
            "sampler_kl": 0.02,
        }
    )
    """Warn, once per metric, when a step's value is above this."""


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

    @property
    def size(self) -> int:
        """Prompts of a step, over all processes: no more than there are."""
        return min(self.config.prompts_per_step, len(self.samples))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        if self.config.steps is not None:
            return self.config.steps
        return max(1, round(self.config.epochs * len(self.samples) / self.size))

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
    rollout = evaluator.settled(
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
    return replace(stage, rollout=rollout)
