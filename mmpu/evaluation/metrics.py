"""What several graded answers to one prompt are worth: Avg@k, maj@k and pass@k.

Avg@k   mean over prompts of the mean grade of k answers (not majority, not best of k)
maj@k   grade of the answer that most of the k agree on, the earliest of them in a tie; no answer is no vote
pass@k  1 - C(n-c, k) / C(n, k) for c right ones of n answers (Chen et al. 2021, arXiv 2107.03374)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from mmpu.core import Grader, Response, Sample
from mmpu.statistics import Interval, interval


def intervals(found: Mapping[str, Mapping[str, float]], clusters: Mapping[str, str]) -> dict[str, Interval]:
    """Means of what `by_sample` found, with 95% intervals over the samples that can be graded.

    Args:
        clusters: Which samples belong together, by id.
    """
    return {name: interval(list(v.values()), [clusters[sample] for sample in v]) for name, v in found.items()}


def by_sample(
    grader: Grader, samples: Sequence[Sample], answers: Sequence[Sequence[Response]]
) -> dict[str, dict[str, float]]:
    """What each sample that can be graded adds to the metrics of k answers, by metric and sample: two systems' values
    on the same samples make a paired difference.

    Returns:
        By name, such as `avg@12`. `maj@k` is missing where the grader cannot tell which answers are the same.
    """
    k = len(answers[0])
    average: dict[str, float] = {}
    majority: dict[str, float] = {}
    passed: dict[str, float] = {}
    for sample, responses in zip(samples, answers, strict=True):
        grades = [g for g in (grader.grade(sample, r.text) for r in responses) if g is not None]
        if len(grades) < k:
            continue
        average[sample.id] = sum(grades) / k
        passed[sample.id] = pass_at(k, k, sum(grade >= 1 for grade in grades))
        majority[sample.id] = _majority([grader.key(sample, r.text) for r in responses], grades)
    named = {f"avg@{k}": average, f"pass@{k}": passed}
    if type(grader).key is not Grader.key:
        named[f"maj@{k}"] = majority
    return {name: values for name, values in named.items() if values}


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that k of n answers, drawn without replacement, hold one of the `right` ones."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def _majority(keys: Sequence[str | None], grades: Sequence[float]) -> float:
    votes = Counter(key for key in keys if key is not None)
    return grades[keys.index(votes.most_common(1)[0][0])] if votes else 0.0
