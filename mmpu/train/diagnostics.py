"""What a run says about itself each step, under the same names for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmpu.core import Group, Task
from mmpu.learning import Row
from mmpu.statistics import auc
from mmpu.train.rollout import flat


def describe(
    groups: Sequence[Group], rows: Sequence[Sequence[Row]], task: Task, dropped: Sequence[Group] = ()
) -> dict[str, float]:
    """Means over this step's groups: lengths, scores, grades, and everything that was left out.

    `accuracy` is over every candidate that was sampled for the step and that the task can grade, a share `graded` of
    them. Where groups were dropped, `accuracy_trained` is over the candidates of the others, as all other means are.

    `entropy` is −log p of the sampled tokens, an unbiased estimate of the sampler's mean entropy per token in nats.
    `score_auc` is how well the scores tell the task's right answers from wrong ones, where the task can grade.
    """
    if not groups:
        return {"unusable_groups": 0.0}
    skipped = [not r for r in rows]
    result = {
        "skipped_groups": _mean(skipped),
        "unusable_groups": _mean([s and bool(g.scores) and not flat(g) for s, g in zip(skipped, groups, strict=True)]),
    }
    responses = [(group, r) for group in groups for r in group.responses]
    if responses:
        lengths = [len(r.tokens or ()) for _, r in responses]
        result |= {
            "length": _mean(lengths),
            "truncated": _mean([not r.finished for _, r in responses]),
            "duplicates": _mean(
                [1 - len({r.tokens for r in g.responses}) / len(g.responses) for g in groups if g.responses]
            ),
            "unsampled_groups": _mean([not g.responses for g in groups]),
            "entropy": -sum(sum(r.logp) for _, r in responses) / max(1, sum(lengths)),
        }
        result |= _accuracy(groups, dropped, task)
    if any(group.scores for group in groups):
        result |= _scores(groups, task)
    return result


def _scores(groups: Sequence[Group], task: Task) -> dict[str, float]:
    scores = [score for group in groups for score in group.scores]
    seen = [score for score in scores if not math.isnan(score)]
    spreads = [float(np.std(known)) for g in groups if (known := [s for s in g.scores if not math.isnan(s)])]
    result = {
        "score": _mean(seen),
        "score_std": float(np.std(seen)) if seen else math.nan,
        "score_std_in_group": _mean(spreads),
        "masked_candidates": _mean([math.isnan(score) for score in scores]),
        "flat_groups": _mean([flat(group) for group in groups]),
        "score_length_correlation": _within_groups(groups),
    }
    anchors = [g.anchor_score for g in groups if not math.isnan(g.anchor_score)]
    if anchors:
        result["anchor_score"] = _mean(anchors)
    graded = [(s, g) for s, g in zip(scores, _grades(groups, task), strict=True) if g is not None and not math.isnan(s)]
    agreement = auc([s for s, g in graded if g >= 0.5], [s for s, g in graded if g < 0.5])
    return result if math.isnan(agreement) else {**result, "score_auc": agreement}


def _accuracy(groups: Sequence[Group], dropped: Sequence[Group], task: Task) -> dict[str, float]:
    trained, others = _grades(groups, task), _grades(dropped, task)
    known = [[grade for grade in grades if grade is not None] for grades in (trained, [*trained, *others])]
    if not known[1]:
        return {}
    result = {"accuracy": _mean(known[1]), "graded": len(known[1]) / len([*trained, *others])}
    return result | ({"accuracy_trained": _mean(known[0])} if others and known[0] else {})


def _grades(groups: Sequence[Group], task: Task) -> list[float | None]:
    return [task.grade(group.sample, response.text) for group in groups for response in group.responses]


def _within_groups(groups: Sequence[Group]) -> float:
    """Pearson correlation of score and length, each as its difference from the group's mean; NaN where either is
    constant within all groups."""
    pairs: list[tuple[float, float]] = []
    for group in groups:
        known = [
            (s, len(r.tokens or ())) for r, s in zip(group.responses, group.scores, strict=True) if not math.isnan(s)
        ]
        centre = np.mean(known, axis=0) if known else (0.0, 0.0)
        pairs += [(s - centre[0], n - centre[1]) for s, n in known]
    if not pairs:
        return math.nan
    data = np.asarray(pairs)
    norms = np.sqrt((data**2).sum(0))
    return float(data[:, 0] @ data[:, 1] / norms.prod()) if norms.min() > 1e-12 else math.nan


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else math.nan
