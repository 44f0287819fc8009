"""A step's groups and rows: take prompts, make groups, let the method say what to train on; where a method wants only
groups that teach, go on until the step is full."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mmpu.core import Failed, Group, UserError
from mmpu.learning import Row

if TYPE_CHECKING:
    from mmpu.train.stage import Stage


@dataclass(frozen=True)
class Collected:
    """What a step trains on, in this process."""

    groups: list[Group]
    rows: list[list[Row]]
    position: int
    """Prompts of the stage's order that have been taken, over all processes."""
    metrics: dict[str, float]


def collect(stage: Stage, step: int, position: int) -> Collected:
    """The groups of a step.

    Raises:
        UserError: the teacher left too many prompts unanswered, the scorer abstained everywhere, or the step could
            not be filled.
    """
    rollout, accelerator = stage.rollout, stage.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    size, refill = stage.config.prompts_per_step, rollout.method.refill
    wanted = len(range(rank, size, world))
    kept: list[tuple[Group, list[Row]]] = []
    seconds = {"seconds_generate": 0.0, "seconds_score": 0.0}
    batches = dropped = unanchored = 0
    while True:
        began = time.perf_counter()
        anchored = rollout.anchored(stage.prompts(position)[rank::world])
        groups = [group for group in anchored if isinstance(group, Group)]
        unanchored += _unanswered(stage, anchored)
        # Candidates of the stage's start are drawn once per prompt, however often it comes round.
        fixed = rollout.method.offline and rollout.method.shadow is not None and rollout.method.shadow.kind == "start"
        groups = rollout.sampled(groups, stage.step_seed(f"sample{batches or ''}", 0 if fixed else step))
        sampled = time.perf_counter()
        groups = rollout.scored(groups)
        seconds["seconds_generate"] += sampled - began
        seconds["seconds_score"] += time.perf_counter() - sampled
        batches, position = batches + 1, position + size
        if "scores" in rollout.method.needs:
            _refuse_silence(stage, groups)
        made = [(group, rollout.method.supervise(group)) for group in groups]
        if not refill:
            kept = made
            break
        teaching = [(group, rows) for group, rows in made if rows]
        dropped += len(made) - len(teaching)
        kept = (kept + teaching)[:wanted]  # in order of arrival
        missing = _total(accelerator, wanted - len(kept))
        if missing == 0:
            break
        if batches >= refill:
            raise UserError(
                f"stage {stage.config.name}: after {batches} batches of {size} prompts, {missing} of {size} groups "
                "still have equal scores throughout; the prompts are too easy or too hard for this student. Train on "
                "others, sample more candidates (`k`), or set the method's `batches: 0` to train on what there is"
            )
    metrics = {**seconds, **({"generation_batches": batches, "dropped_groups": dropped} if refill else {})}
    if "anchor" in rollout.needs:
        metrics["unanchored_groups"] = unanchored / (batches * size)
    scorer = rollout.scorer
    rows = [
        [replace(row, group=g, part=scorer.part(group.sample) if scorer else 0) for row in rows]
        for g, (group, rows) in enumerate(kept)
    ]
    return Collected([group for group, _ in kept], rows, position, metrics)


def _unanswered(stage: Stage, anchored: Sequence[Group | Failed]) -> int:
    """How many prompts the teacher has no answer to, over all processes; such a prompt is left out of the step.

    Raises:
        UserError: they are too many.
    """
    size = stage.config.prompts_per_step
    reasons = [failed.reason for failed in anchored if isinstance(failed, Failed)]
    count = _total(stage.accelerator, len(reasons))
    if count > stage.config.max_skipped * size:
        example = f", for example: {reasons[0]}" if reasons else ""
        raise UserError(
            f"stage {stage.config.name}: the teacher left {count} of {size} prompts unanswered{example}; complete its "
            "answers, train on a smaller split, or raise `max_skipped`"
        )
    return count


def _refuse_silence(stage: Stage, groups: Sequence[Group]) -> None:
    scores = [score for group in groups for score in group.scores]
    asked = _total(stage.accelerator, len(scores))
    if asked and _total(stage.accelerator, sum(map(math.isnan, scores))) == asked:
        raise UserError(
            f"stage {stage.config.name}: the scorer abstained on all {asked} candidates, so nothing can be learned "
            "from them; `rule` needs a task with a grader and answers, a model's replies must be readable. The weights "
            "are as they were"
        )


def _total(accelerator: Any, value: int) -> int:
    return int(accelerator.reduce(torch.tensor(value, device=accelerator.device), "sum"))
