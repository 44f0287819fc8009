"""A step's groups and rows: take prompts, make groups, let the method say what to train on; where a method wants only
groups that teach, go on until the step is full."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from mmpu.core import Failed, Group, Sample, UserError
from mmpu.learning import Row

if TYPE_CHECKING:
    from mmpu.train.stage import Stage

NOTES = (
    "cut_anchors",
    "damaged_anchors",
    "low_anchors",
    "infinite_scores",
    "cut_contexts",
    "dropped_thoughts",
    "overlong_groups",
)
"""What groups may have notes of, each counted under its name."""


@dataclass(frozen=True)
class Collected:
    """What a step trains on, in this process."""

    groups: list[Group]
    rows: list[list[Row]]
    position: int
    """Prompts of the stage's order that have been taken, over all processes."""
    metrics: dict[str, float]
    dropped: list[Group]
    """Groups that were made and not trained on: left out, or what a method with `refill` had no use for."""
    examples: dict[str, str]
    """A note of each kind."""


@dataclass
class _Step:
    """A step while it is collected."""

    kept: list[tuple[Group, list[Row]]] = field(default_factory=list[tuple[Group, list[Row]]])
    dropped: list[Group] = field(default_factory=list[Group])
    counts: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    generate: float = 0.0
    score: float = 0.0
    """Seconds."""
    fallen: Counter[str] = field(default_factory=Counter[str])
    """Groups that were not scored as the scorer was asked to, by metric."""

    def note(self, notes: Mapping[str, str]) -> None:
        self.counts.update(notes.keys())
        self.examples = {**notes, **self.examples}


def collect(stage: Stage, step: int, position: int) -> Collected:
    """The groups of a step.

    Raises:
        UserError: the teacher left too many prompts unanswered, too many do not fit, the scorer abstained everywhere,
            or the step could not be filled.
    """
    accelerator, refill = stage.accelerator, stage.rollout.method.refill
    wanted = len(range(accelerator.process_index, stage.size, accelerator.num_processes))
    found = _Step()
    batches = idle = 0
    while True:
        made = _batch(stage, step, batches, position, found)
        batches, position = batches + 1, position + stage.size
        if not refill:
            found.kept = made
            break
        idle += sum(not rows for _, rows in made)
        found.dropped += [group for group, rows in made if not rows]
        found.kept += [(group, rows) for group, rows in made if rows]  # in order of arrival
        missing = _total(accelerator, max(0, wanted - len(found.kept)))
        if missing == 0:
            found.dropped += [group for group, _ in found.kept[wanted:]]
            found.kept = found.kept[:wanted]
            break
        if batches >= refill:
            raise UserError(
                f"stage {stage.config.name}: after {batches} batches of {stage.size} prompts, {missing} of "
                f"{stage.size} groups still have equal scores throughout; the prompts are too easy or too hard for "
                "this student. Train on others, sample more candidates (`k`), or set the method's `batches: 0` to "
                "train on what there is"
            )
    metrics = {"seconds_generate": found.generate, "seconds_score": found.score}
    if refill:
        metrics |= {"generation_batches": batches, "dropped_groups": idle}
    scorer = stage.rollout.scorer
    rows = [
        [replace(row, group=g, part=scorer.part(group.sample) if scorer else 0) for row in rows]
        for g, (group, rows) in enumerate(found.kept)
    ]
    groups = [group for group, _ in found.kept]
    metrics |= _shares(stage, found.counts, batches) | {name: float(n) for name, n in found.fallen.items()}
    for name in found.fallen:
        found.examples.setdefault(
            name, "less than `min_mass` was on the options; `scorer.mode: auto` finds another way"
        )
    return Collected(groups, rows, position, metrics, found.dropped, found.examples)


def _batch(stage: Stage, step: int, batch: int, position: int, found: _Step) -> list[tuple[Group, list[Row]]]:
    """The groups of one generation batch that may be trained on, with their rows."""
    rollout = stage.rollout
    began = time.perf_counter()
    anchored, left_out = _anchored(stage, stage.prompts(position), found)
    groups = _sampled(stage, anchored, step, batch)
    sampled = time.perf_counter()
    before = Counter(rollout.scorer.tally) if rollout.scorer else Counter[str]()
    groups = rollout.scored(groups)
    found.fallen += Counter(rollout.scorer.tally) - before if rollout.scorer else Counter[str]()
    found.generate += sampled - began
    found.score += time.perf_counter() - sampled
    if rollout.fitting is not None:
        groups = [rollout.fitting.masked(group) for group in groups]
    if "scores" in rollout.method.needs:
        _refuse_silence(stage, groups)
    made: list[tuple[Group, list[Row]]] = []
    for group in groups:
        group, rows, reason = _supervised(stage, group)
        found.note(group.notes)
        if reason is None:
            made.append((group, rows))
        else:
            left_out.append(reason)
            found.dropped.append(group)
    way_out = "ask the teacher for whole answers (`teacher_sampling`), shorten prompts or answers, change `leave_out`"
    _left_out(stage, left_out, "{} are left out of a step", way_out)
    return made


def _anchored(stage: Stage, prompts: Sequence[Sample], found: _Step) -> tuple[list[tuple[Group, int]], list[str]]:
    """This process's groups with an anchor to train on, each with how often its prompt stands earlier in the batch; and
    why others are left out by the stage's wish."""
    mine = slice(stage.accelerator.process_index, None, stage.accelerator.num_processes)
    anchored = stage.rollout.anchored(prompts[mine])
    fit: list[tuple[Group, int]] = []
    unanswered: list[str] = []
    left_out: list[str] = []
    for group, repeat in zip(anchored, _repeats(prompts)[mine], strict=True):
        if isinstance(group, Failed):
            unanswered.append(group.reason)
            found.examples.setdefault("unanchored_groups", group.reason)
        elif "cut" in stage.config.leave_out and not group.anchor_finished:
            left_out.append(group.notes["cut_anchors"])
            found.note(group.notes)
        else:
            fit.append((group, repeat))
    way_out = "complete its answers, train on a smaller split"
    found.counts["unanchored_groups"] += _left_out(stage, unanswered, "the teacher left {} unanswered", way_out)
    return fit, left_out


def _supervised(stage: Stage, group: Group) -> tuple[Group, list[Row], str | None]:
    """A group with its rows, or with the reason that it is left out for."""
    if "low" in stage.config.leave_out and "low_anchors" in group.notes:
        return group, [], group.notes["low_anchors"]
    rows = stage.rollout.method.supervise(group)
    fitting = stage.rollout.fitting
    reason = fitting.overlong(rows) if fitting else None
    if reason is None:
        return fitting.thoughtless(group, rows) if fitting else group, rows, None
    return replace(group, notes={**group.notes, "overlong_groups": reason}), [], reason


def _repeats(prompts: Sequence[Sample]) -> list[int]:
    """How often each prompt stands earlier among these."""
    seen: Counter[str] = Counter()
    result: list[int] = []
    for sample in prompts:
        result.append(seen[sample.id])
        seen[sample.id] += 1
    return result


def _sampled(stage: Stage, anchored: Sequence[tuple[Group, int]], step: int, batch: int) -> list[Group]:
    """The groups with candidates, in order, those of a repeated prompt from another stream."""
    result = [group for group, _ in anchored]
    for repeat in sorted({repeat for _, repeat in anchored}):
        places = [i for i, (_, each) in enumerate(anchored) if each == repeat]
        seed = stage.sample_seed(step, batch, repeat)
        for i, group in zip(places, stage.rollout.sampled([result[i] for i in places], seed), strict=True):
            result[i] = group
    return result


def _shares(stage: Stage, counts: Mapping[str, int], batches: int) -> dict[str, float]:
    """Counts of notes over all processes, as shares of the prompts that were taken; what can occur here is reported
    where it did not, too."""
    totals = _totals(stage.accelerator, [counts.get(name, 0) for name in NOTES])
    taken = batches * stage.size
    shares = {name: total / taken for name, total in zip(NOTES, totals, strict=True)}
    expected = set[str]()
    if "anchor" in stage.rollout.needs:
        shares["unanchored_groups"] = counts.get("unanchored_groups", 0) / taken
        expected |= {"unanchored_groups", "cut_anchors"}
    if "anchor_score" in stage.rollout.method.needs:
        expected.add("low_anchors")
    return {name: share for name, share in shares.items() if share or name in expected}


def _left_out(stage: Stage, reasons: Sequence[str], what: str, way_out: str) -> int:
    """How many prompts are left out of a batch for these reasons, over all processes.

    Args:
        what: What happened to «n of m prompts».

    Raises:
        UserError: they are too many.
    """
    count = _total(stage.accelerator, len(reasons))
    if count > stage.config.max_skipped * stage.size:
        example = f", for example: {reasons[0]}" if reasons else ""
        prompts = f"{count} of {stage.size} prompts"
        raise UserError(
            f"stage {stage.config.name}: {what.format(prompts)}{example}; {way_out}, or raise `max_skipped`"
        )
    return count


def _refuse_silence(stage: Stage, groups: Sequence[Group]) -> None:
    scores = [score for group in groups for score in group.scores]
    asked = _total(stage.accelerator, len(scores))
    if asked and _total(stage.accelerator, sum(map(math.isnan, scores))) == asked:
        noted = [group.notes["masked_candidates"] for group in groups if "masked_candidates" in group.notes]
        example = f" (for example, {noted[0]})" if noted else ""
        raise UserError(
            f"stage {stage.config.name}: the scorer abstained on all {asked} candidates{example}, so nothing can be "
            "learned from them; `rule` needs a task with a grader and answers, a model's replies must be readable. The "
            "weights are as they were"
        )


def _total(accelerator: Any, value: int) -> int:
    return _totals(accelerator, [value])[0]


def _totals(accelerator: Any, values: Sequence[int]) -> list[int]:
    if accelerator.num_processes == 1:
        return list(values)
    summed = accelerator.reduce(torch.tensor(values, device=accelerator.device), "sum")
    return [int(value) for value in summed.tolist()]
