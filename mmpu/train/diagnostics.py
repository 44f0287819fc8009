"""What a run says about itself each step, under the same names for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmpu.core import Group, Row, Task
from mmpu.statistics import auc
from mmpu.train.rollout import flat


def describe(groups: Sequence[Group], rows: Sequence[Sequence[Row]], task: Task) -> dict[str, float]:
    """Means over this step's groups: lengths, scores, grades, and everything that was left out.

    `score_auc` is how well the scores tell the task's right answers from wrong ones, where the task can grade.
    """
    if not groups:
        return {}
    result = {"skipped_groups": _mean([not r for r in rows])}
    responses = [(group, r) for group in groups for r in group.responses]
    if responses:
        result |= {
            "length": _mean([len(r.tokens or ()) for _, r in responses]),
            "truncated": _mean([not r.finished for _, r in responses]),
            "duplicates": _mean(
                [1 - len({r.tokens for r in g.responses}) / len(g.responses) for g in groups if g.responses]
            ),
            "unsampled_groups": _mean([not g.responses for g in groups]),
        }
        grades = [task.grade(group.sample, r.text) for group, r in responses]
        known = [g for g in grades if g is not None]
        if known:
            result["accuracy"] = _mean(known)
    if any(group.scores for group in groups):
        scores = [s for group in groups for s in group.scores]
        seen = [s for s in scores if not math.isnan(s)]
        result |= {
            "score": _mean(seen),
            "masked_candidates": _mean([math.isnan(s) for s in scores]),
            "flat_groups": _mean([flat(group) for group in groups]),
        }
        anchors = [g.anchor_score for g in groups if not math.isnan(g.anchor_score)]
        if anchors:
            result["anchor_score"] = _mean(anchors)
        result |= _agreement(groups, task)
    return result


def _agreement(groups: Sequence[Group], task: Task) -> dict[str, float]:
    right: list[float] = []
    wrong: list[float] = []
    for group in groups:
        for response, score in zip(group.responses, group.scores, strict=True):
            grade = task.grade(group.sample, response.text)
            if grade is not None and not math.isnan(score):
                (right if grade >= 0.5 else wrong).append(score)
    value = auc(right, wrong)
    return {} if math.isnan(value) else {"score_auc": value}


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else math.nan
