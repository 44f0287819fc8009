"""The statistics that claims rest on. Seeded, so the same data give the same interval.

Items that share a cluster, such as questions about one image, are resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CELLS = 1 << 22
"""Numbers of a resampling that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval over n items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95% interval over n items, and the two-sided p-value against no difference."""

    value: float
    low: float
    high: float
    n: int
    p: float


def bootstrap(values: Sequence[float], clusters: Sequence[str] | None = None, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over items, or over clusters of items (each with all of its items).

    Raises:
        ValueError: no value.
    """
    data = np.asarray(values, dtype=np.float64)
    return interval_of(float(data.mean()) if data.size else 0.0, _means(data, clusters, seed), data.size)


def paired(
    ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[str] | None = None, seed: int = 0
) -> Difference:
    """Mean of ours − theirs on the same items, by paired bootstrap.

    Raises:
        ValueError: no item.
    """
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    draws = _means(gaps, clusters, seed)
    return difference_of(float(gaps.mean()), draws, gaps.size)


def interval_of(value: float, draws: NDArray[np.float64], n: int) -> Interval:
    """A value with the central 95% of its resamples."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, float(low), float(high), n)


def difference_of(value: float, draws: NDArray[np.float64], n: int) -> Difference:
    """As `interval_of`, with p from the resamples on either side of zero, never below 1 / (resamples + 1)."""
    bounds = interval_of(value, draws, n)
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (draws.size + 1))
    return Difference(value, bounds.low, bounds.high, n, p)


def resample_counts(clusters: Sequence[str], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each item is drawn, shape (n,), once per resample of the clusters."""
    _, member = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    groups = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.multinomial(groups, np.full(groups, 1 / groups))[member].astype(np.float64)


def _means(data: NDArray[np.float64], clusters: Sequence[str] | None, seed: int) -> NDArray[np.float64]:
    """Means of resamples, (RESAMPLES,). Equal clusters are drawn as one with a count, so n costs little."""
    if data.size == 0:
        raise ValueError("no value to take a mean of")
    if clusters is None:
        units = np.stack([data, np.ones_like(data)], axis=1)
    else:
        _, member = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
        units = np.stack([np.bincount(member, data), np.bincount(member)], axis=1).astype(np.float64)
    distinct, counts = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    step = max(1, CELLS // len(distinct))
    for start in range(0, RESAMPLES, step):
        drawn = rng.multinomial(len(units), counts / len(units), size=min(step, RESAMPLES - start))
        total, size = (drawn @ distinct).T
        means.append(total / size)
    return np.concatenate(means)


def mcnemar(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided exact p-value of McNemar's test: the items on which one is better, as flips of a fair coin."""
    better = sum(a > b for a, b in zip(ours, theirs, strict=True))
    worse = sum(a < b for a, b in zip(ours, theirs, strict=True))
    n, k = better + worse, min(better, worse)
    log_tail = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(term - n * math.log(2)) for term in log_tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: the chance of any false claim among them stays below alpha."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def minimum_detectable_effect(n: int, spread: float = 0.5, alpha: float = 0.05, power: float = 0.8) -> float:
    """The least distance from one half that a win rate over n independent items is found with probability `power`.

    Args:
        spread: Standard deviation of one item's win; 0.5 is the largest there can be.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * spread / math.sqrt(n)


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs (Mann-Whitney); NaN if either side is empty."""
    pos, neg = np.asarray(positive, dtype=np.float64), np.sort(np.asarray(negative, dtype=np.float64))
    if pos.size == 0 or neg.size == 0:
        return float("nan")
    below = np.searchsorted(neg, pos, side="left")
    up_to = np.searchsorted(neg, pos, side="right")
    return float((below + up_to).mean() / (2 * neg.size))
