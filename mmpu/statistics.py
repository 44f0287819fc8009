"""The few statistics that claims rest on. Seeded, so the same data give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval over n items."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over items.

    Raises:
        ValueError: no value.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no value to take a mean of")
    # A resample is a count of each distinct value, so the cost does not grow with n.
    distinct, counts = np.unique(data, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(data.size, counts / data.size, size=RESAMPLES)
    means = drawn @ distinct / data.size
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(data.mean()), float(low), float(high), int(data.size))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs (Mann-Whitney); NaN if either side is empty."""
    pos, neg = np.asarray(positive, dtype=np.float64), np.sort(np.asarray(negative, dtype=np.float64))
    if pos.size == 0 or neg.size == 0:
        return float("nan")
    below = np.searchsorted(neg, pos, side="left")
    up_to = np.searchsorted(neg, pos, side="right")
    return float((below + up_to).mean() / (2 * neg.size))
