"""A training stage, top to bottom: take prompts, make groups, let the method say what to train on, update, write down.

Sample ─Teacher→ anchor ─Engine→ candidates ─Scorer→ scores ─Method.supervise→ rows ─Updater→ new weights
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpu.train import alarms, checkpoint, importance, sharding
from mmpu.train.collect import collect
from mmpu.train.diagnostics import describe
from mmpu.train.record import Record
from mmpu.train.shadow import Shadow
from mmpu.train.signals import Interrupted
from mmpu.train.stage import Stage, checks_evaluator, with_evaluator
from mmpu.train.update import Updater


def run(stage: Stage, record: Record) -> None:
    """Trains the stage from its newest checkpoint, or its start, to its end."""
    config, accelerator, shadow = stage.config, stage.accelerator, stage.rollout.shadow
    if checks_evaluator(stage.rollout):
        stage = with_evaluator(stage, record.say)
    rollout = stage.rollout
    wrapped, optimizer = sharding.prepare(accelerator, stage.student, config.optim.build(stage.student))
    update = Updater(
        stage.student,
        wrapped,
        optimizer,
        rollout.method,
        config.optim,
        accelerator,
        shadow,
        rollout.sampling.temperature,
        rollout.scorer.shares if rollout.scorer else (1.0,),
        partial(record.refused, config.name),
    )
    state = checkpoint.restore(stage.folder, stage.student, optimizer, shadow, wrapped, stage.steps, record.warn)
    state = state or alarms.START
    record.rewind(config.name, state["step"])
    if stage.size < config.prompts_per_step:
        record.say(
            f"stage {config.name}: its split holds {len(stage.samples)} prompts, so a step takes {stage.size}, not "
            f"prompts_per_step={config.prompts_per_step}"
        )

    at = _Place(stage, record, optimizer, shadow, state, state["step"])
    with at.kept_when_interrupted(), record.progress(config.name, state["step"], stage.steps) as progress:
        for step in range(state["step"], stage.steps):
            if checks_evaluator(rollout) and config.preflight.prompts and step % config.preflight.every == 0:
                found = stage.checked if step == 0 else {}
                seed = stage.step_seed("preflight", step)
                found = found or config.preflight(rollout, stage.samples, stage.task, seed, record.say)
                record.preflight(config.name, step, found)

            step_of = collect(stage, step, at.state["position"])
            record.signals.wait()
            rollout.student.rest()
            began, read = time.perf_counter(), stage.student.tokens_read
            measures_kl = stage.has_reference and config.kl_every > 0 and step % config.kl_every == 0
            losses = update(step_of.rows, step, stage.steps, at.state["mean_score"] or 0.0, measures_kl)
            losses["tokens"] = float(stage.student.tokens_read - read)
            if shadow is not None:
                shadow.follow(step + 1)

            seen = describe(step_of.groups, step_of.rows, stage.task, step_of.dropped)
            seen |= step_of.metrics | {"seconds_update": time.perf_counter() - began} | alarms.drift(at.state, seen)
            seen["lr"] = config.optim.rate(step, stage.steps)
            metrics = record.step(config.name, step, losses, seen, step_of.groups, step_of.rows, step_of.dropped)
            progress(step + 1, metrics)
            state = alarms.watch(config, at.state, metrics, record, importance.ADVISED | step_of.examples)
            at.state = state | {"step": step + 1, "position": step_of.position}
            if step + 1 < stage.steps:  # after the last one the weights are saved before anything stops
                if (step + 1) % config.checkpoint_every == 0:
                    at.save()
                record.signals.go()
    sharding.release(accelerator, wrapped, optimizer)


@dataclass
class _Place:
    """Where a stage is, and what of it is on disk."""

    stage: Stage
    record: Record
    optimizer: Any
    shadow: Shadow | None
    state: checkpoint.State
    """After the last whole step."""
    saved: int
    """The step that the newest checkpoint holds."""

    def save(self) -> None:
        accelerator, self.saved = self.stage.accelerator, self.state["step"]
        moments = sharding.whole_state(self.optimizer, keep=accelerator.is_main_process)
        if accelerator.is_main_process:
            checkpoint.save(self.stage.folder, self.saved, self.stage.student, moments, self.state, self.shadow)
        accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def kept_when_interrupted(self) -> Generator[None]:
        """Saves the last whole step where a signal stops the stage; a second signal stops that too."""
        student, signals = self.stage.student, self.record.signals
        model, own = student.model, [(p, p.data) for p in student.parameters() if p.requires_grad]
        if signals.several:
            signals.wait()
        try:
            yield
        except Interrupted:
            if signals.insisted:
                raise
            student.model = model  # others may have been in their place
            for parameter, tensor in own:
                parameter.data = tensor
            if self.state["step"] > self.saved:
                self.save()
            name, step = self.stage.config.name, self.state["step"]
            self.record.say(f"stage {name} stops after {step} of {self.stage.steps} steps, which are kept")
            raise
