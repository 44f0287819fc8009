"""A training stage, top to bottom: take prompts, make groups, let the method say what to train on, update, write down.

Sample ─Teacher→ anchor ─Engine→ candidates ─Scorer→ scores ─Method.supervise→ rows ─Updater→ new weights
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmpu.core import Row, Sample, Sampling, Task, UserError, digest
from mmpu.student import Student
from mmpu.train import checkpoint
from mmpu.train.diagnostics import describe
from mmpu.train.preflight import Preflight
from mmpu.train.record import Record
from mmpu.train.rollout import Rollout
from mmpu.train.update import Optim, Updater


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run. `method` and `scorer` are components: a name, or a mapping with `name` and their own keys."""

    name: str
    method: str | dict[str, Any]
    split: str
    """Prompts to train on, such as `train[400:1400]`."""
    scorer: str | dict[str, Any] | None = None
    k: int = 8
    """Candidates sampled per prompt."""
    sampling: Sampling | None = None
    """None takes the task's, at temperature 1 and untruncated."""
    prompts_per_step: int = 32
    epochs: float = 1.0
    steps: int | None = None
    """None follows from `epochs`."""
    optim: Optim = field(default_factory=Optim)
    preflight: Preflight = field(default_factory=Preflight)
    checkpoint_every: int = 50
    max_refused: int = 5
    """Updates with a non-finite gradient before the stage gives up."""
    max_skipped: float = 0.5
    """Largest share of a step's groups that may be without a usable score before the stage gives up."""
    length_alarm: float = 0.5
    """Warn when the mean response length has moved by more than this share since the stage's start."""
    alarms: dict[str, float] = field(
        default_factory=lambda: {"flat_groups": 0.8, "truncated": 0.5, "skipped_groups": 0.1, "kl_ref": 5.0}
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
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        if self.config.steps is not None:
            return self.config.steps
        return max(1, round(self.config.epochs * len(self.samples) / self.config.prompts_per_step))

    def prompts(self, step: int) -> list[Sample]:
        """The samples of a step: epochs, each in an order of its own, end to end. A pure function of seed and step."""
        size, n = self.config.prompts_per_step, len(self.samples)
        orders: dict[int, list[int]] = {}
        chosen: list[Sample] = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, n)
            if epoch not in orders:
                orders[epoch] = list(range(n))
                random.Random(self.step_seed("order", epoch)).shuffle(orders[epoch])
            chosen.append(self.samples[orders[epoch][place]])
        return chosen

    def step_seed(self, purpose: str, step: int) -> int:
        return int(digest([self.seed, self.config.name, purpose, step]), 16) % 2**31


def run(stage: Stage, record: Record) -> None:
    """Trains the stage from its newest checkpoint, or its start, to its end."""
    config, rollout, accelerator = stage.config, stage.rollout, stage.accelerator
    optimizer = config.optim.build(stage.student)
    wrapped, optimizer = accelerator.prepare(stage.student, optimizer)
    update = Updater(stage.student, wrapped, optimizer, rollout.method, config.optim, accelerator)
    state = checkpoint.restore(stage.folder, stage.student, optimizer)
    state = state or {"step": 0, "refused": 0, "first_length": None, "warned": []}
    record.rewind(config.name, state["step"])
    rank, world = accelerator.process_index, accelerator.num_processes

    with record.progress(config.name, state["step"], stage.steps) as progress:
        for step in range(state["step"], stage.steps):
            if checks_evaluator(rollout) and config.preflight.prompts and step % config.preflight.every == 0:
                found = config.preflight(rollout, stage.samples, stage.task, stage.step_seed("preflight", step))
                record.preflight(config.name, step, found)

            began = time.perf_counter()
            groups = rollout.anchored(stage.prompts(step)[rank::world])
            groups = rollout.sampled(groups, stage.step_seed("sample", step))
            sampled = time.perf_counter()
            groups = rollout.scored(groups)
            scored = time.perf_counter()
            rows = [numbered(rollout.method.supervise(group), g) for g, group in enumerate(groups)]
            losses = update(rows, step, stage.steps)
            ended = time.perf_counter()

            seconds = {
                "seconds_generate": sampled - began,
                "seconds_score": scored - sampled,
                "seconds_update": ended - scored,
            }
            metrics = record.step(config.name, step, losses, describe(groups, rows, stage.task) | seconds, groups, rows)
            progress(step + 1, metrics)
            state = watch(config, state, metrics, record)
            state["step"] = step + 1
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < stage.steps:
                if accelerator.is_main_process:
                    checkpoint.save(stage.folder, step + 1, stage.student, optimizer, state)
                accelerator.wait_for_everyone()
    accelerator.free_memory(wrapped, optimizer)


def checks_evaluator(rollout: Rollout) -> bool:
    """True if training trusts a scorer that reads the anchor."""
    return "scores" in rollout.method.needs and "anchor" in rollout.needs


def numbered(rows: Sequence[Row], group: int) -> list[Row]:
    return [Row(row.sample, row.response, row.weight, group) for row in rows]


def watch(config: StageConfig, state: dict[str, Any], metrics: dict[str, float], record: Record) -> dict[str, Any]:
    """Keeps an eye on what goes wrong: refused updates, unusable groups, answers that grow or shrink.

    Raises:
        UserError: too many updates were refused, or too many groups had to be skipped.
    """
    state = {**state, "warned": list(state["warned"])}

    def warn_once(about: str, text: str) -> None:
        if about not in state["warned"]:
            state["warned"].append(about)
            record.warn(f"stage {config.name}: {text}")

    if metrics.get("refused"):
        state["refused"] += 1
        record.warn(f"stage {config.name}: the gradient was not finite; the update was refused")
        if state["refused"] >= config.max_refused:
            raise UserError(
                f"stage {config.name}: {state['refused']} updates had a non-finite gradient; lower optim.lr, or look "
                "at the groups of those steps in the run folder"
            )
    if metrics["skipped_groups"] > config.max_skipped:
        raise UserError(
            f"stage {config.name}: {metrics['skipped_groups']:.0%} of the groups had fewer than two usable scores; "
            "look at the scorer's replies, or raise `max_skipped`"
        )
    for name, limit in config.alarms.items():
        if metrics.get(name, 0.0) > limit:
            warn_once(name, f"{name} is {metrics[name]:.3f}, above {limit}")
    if "length" in metrics:
        if state["first_length"] is None:
            state["first_length"] = metrics["length"]
        drift = metrics["length"] / max(state["first_length"], 1e-9) - 1
        if abs(drift) > config.length_alarm:
            warn_once("length", f"response length moved by {drift:+.0%}; see `form` and `beta` of ldl_grpo")
    return state
