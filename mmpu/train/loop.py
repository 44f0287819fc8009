"""A training stage, top to bottom: take prompts, make groups, let the method say what to train on, update, write down.

Sample ─Teacher→ anchor ─Engine→ candidates ─Scorer→ scores ─Method.supervise→ rows ─Updater→ new weights
"""

from __future__ import annotations

import time
from functools import partial

from mmpu.train import alarms, checkpoint, sharding
from mmpu.train.collect import collect
from mmpu.train.diagnostics import describe
from mmpu.train.record import Record
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

    with record.progress(config.name, state["step"], stage.steps) as progress:
        for step in range(state["step"], stage.steps):
            if checks_evaluator(rollout) and config.preflight.prompts and step % config.preflight.every == 0:
                found = config.preflight(
                    rollout, stage.samples, stage.task, stage.step_seed("preflight", step), record.say
                )
                record.preflight(config.name, step, found)

            step_of = collect(stage, step, state["position"])
            began = time.perf_counter()
            measures_kl = stage.has_reference and config.kl_every > 0 and step % config.kl_every == 0
            losses = update(step_of.rows, step, stage.steps, state["mean_score"] or 0.0, measures_kl)
            if shadow is not None:
                shadow.follow(step + 1)

            seen = describe(step_of.groups, step_of.rows, stage.task, step_of.dropped)
            seen |= step_of.metrics | {"seconds_update": time.perf_counter() - began} | alarms.drift(state, seen)
            metrics = record.step(config.name, step, losses, seen, step_of.groups, step_of.rows, step_of.dropped)
            progress(step + 1, metrics)
            state = alarms.watch(config, state, metrics, record, step_of.examples)
            state |= {"step": step + 1, "position": step_of.position}
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < stage.steps:
                moments = sharding.whole_state(optimizer, keep=accelerator.is_main_process)
                if accelerator.is_main_process:
                    checkpoint.save(stage.folder, step + 1, stage.student, moments, state, shadow)
                accelerator.wait_for_everyone()
    sharding.release(accelerator, wrapped, optimizer)
