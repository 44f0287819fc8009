"""The statistics that claims rest on.

Intervals are Wilson's (1927), with the number of wins and losses that would vary as much as the values do: for wins and
losses themselves it is their number, ties and soft verdicts count for more, items of one cluster for less (Korn &
Graubard 1998 do so for surveys, with Clopper and Pearson's interval). So an interval is right at the edges, where a
bootstrap has none: of three wins in three it is [43.9, 100], and it is never a point.

Items that share a cluster, such as questions about one image, vary together. A single cluster has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
NO_BOUNDS = "[–]"
LARGE = 2_000
"""Degrees of freedom from which Student's distribution is taken to be the normal one."""
LEAST_P = 1e-12
"""No p-value is given below: the sum that it is one minus of is rounded."""


@dataclass(frozen=True)
class Interval:
    """A mean over n items with its 95% interval."""

    value: float
    low: float | None
    """None, as `high`, if all items are of one cluster, which says nothing of others."""
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95% interval over n items, and the two-sided p-value against no difference."""

    value: float
    low: float | None
    """None, as `high`, if all items are of one cluster; p is 1 then."""
    high: float | None
    n: int
    p: float


@dataclass(frozen=True)
class Spread:
    """How surely a mean is known."""

    variance: float
    """Of the mean."""
    freedom: int
    """Degrees of freedom that the variance was estimated with; 0 if it could not be."""
    least: float = 0.0
    """The number of independent wins and losses that the data are worth at the least."""

    def size(self, p: float, width: float, n: int) -> float:
        """The number of wins and losses whose share p would vary as much, of n values in a span of some width. The
        variance is taken to be no less than if one value more lay at the far end, so that values which are all the same
        still leave room."""
        least = (max(p, 1 - p) / n) ** 2
        return p * (1 - p) / max(self.variance / width**2, least)


def interval(values: Sequence[float], clusters: Sequence[str] | None = None) -> Interval:
    """The mean of values in 0..1, such as wins or grades, with its interval.

    Args:
        clusters: Of each value; without them each stands for itself.

    Raises:
        ValueError: no value.
    """
    data = np.asarray(values, dtype=np.float64)
    spread = spread_of(data, clusters)
    span = (min(0.0, float(data.min())), max(1.0, float(data.max())))
    return interval_of(float(data.mean()), spread, data.size, span)


def paired(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[str] | None = None) -> Difference:
    """Mean of ours − theirs on the same items, both in 0..1.

    Raises:
        ValueError: no item.
    """
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    spread = spread_of(gaps, clusters)
    return difference_of(float(gaps.mean()), spread, gaps.size, max(1.0, float(np.abs(gaps).max())))


def spread_of(data: Floats, clusters: Sequence[str] | None = None) -> Spread:
    """Of the mean of values: their variance over clusters, but no less than if each value stood for itself.

    The latter is well known, so degrees of freedom are those of the clusters over the share that only they tell.

    Raises:
        ValueError: no value.
    """
    if data.size == 0:
        raise ValueError("no value to take a mean of")
    member = members(clusters) if clusters is not None else np.arange(data.size)
    sizes = np.bincount(member)
    count = sizes.size
    if count < 2:
        return Spread(math.inf, 0)
    gaps = (data - data.mean()) / data.size
    between = float(np.square(np.bincount(member, gaps)).sum()) * count / (count - 1)
    alone = float(np.square(gaps).sum()) * data.size / (data.size - 1)
    freedom = freedom_of(count, data.size, alone, between)
    return Spread(max(between, alone), freedom, float(data.size**2 / np.square(sizes).sum()))


def freedom_of(clusters: int, n: int, alone: float, between: float) -> int:
    """Degrees of freedom of a variance between clusters of n values, that is `alone` if each stands for itself."""
    share = 1 - alone / between if between > alone else 0.0
    return n - 1 if share * (n - 1) <= clusters - 1 else round((clusters - 1) / share)


def around(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of values, and how far its 95% interval reaches on both sides (Student's); None for a single value."""
    data = np.asarray(values, dtype=np.float64)
    spread = spread_of(data)
    reach = None if spread.freedom < 1 else _quantile(spread.freedom) * math.sqrt(spread.variance)
    return float(data.mean()), reach


def bounds(found: Interval | Difference, scale: float = 100, form: str = ".1f") -> str:
    """`[58.9, 63.8]`, in percent unless told otherwise."""
    if found.low is None or found.high is None:
        return NO_BOUNDS
    return f"[{scale * found.low:{form}}, {scale * found.high:{form}}]"


def members(clusters: Sequence[str]) -> NDArray[np.intp]:
    """Each item's cluster as a number from zero, shape (n,)."""
    return np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)[1]


def interval_of(value: float, spread: Spread, n: int, span: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """A mean of values within `span`, with its interval."""
    if spread.freedom == 0:
        return Interval(value, None, None, n)
    low, high = span
    width = high - low
    p = min(max((value - low) / width, 0.0), 1.0)
    below, above = _wilson(p, _effective(p, spread, n, width), Z)
    return Interval(value, min(value, low + width * below), max(value, low + width * above), n)


def _effective(p: float, spread: Spread, n: int, width: float = 1.0) -> float:
    """The number of wins and losses to take Wilson's interval of, with the normal distribution in Student's stead."""
    return max(spread.size(p, width, n) * (Z / _quantile(spread.freedom)) ** 2, spread.least)


def _wilson(p: float, size: float, z: float) -> tuple[float, float]:
    if size == 0:
        return 0.0, 1.0
    middle = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(p * (1 - p) / size + (z / (2 * size)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference_of(value: float, spread: Spread, n: int, bound: float = 1.0) -> Difference:
    """A mean of differences within ±`bound`; p is the least one whose interval leaves out zero."""
    found = interval_of(value, spread, n, (-bound, bound))
    if spread.freedom == 0:
        return Difference(value, None, None, n, 1.0)
    p = min(max((value / bound + 1) / 2, 0.0), 1.0)
    off = 2 * abs(p - 0.5)
    by_variance = _tails(off * math.sqrt(spread.size(p, 2 * bound, n)), spread.freedom)
    by_number = _tails(off * math.sqrt(spread.least), LARGE)
    return Difference(value, found.low, found.high, n, max(min(by_variance, by_number), LEAST_P))


def difference_of_rates(
    ours: tuple[float, Spread], theirs: tuple[float, Spread], correlation: float, n: int
) -> Difference:
    """Of two rates that are known each by itself, as ours − theirs (Newcombe, Statistics in Medicine 17, 1998, method
    10; Zou 2007): the distances to their Wilson limits add up as errors that are correlated do.

    Args:
        correlation: Of the two rates. It is taken to be below one: what agrees on n items may differ on others.
    """
    (a, spread_a), (b, spread_b) = ours, theirs
    freedom = min(spread_a.freedom, spread_b.freedom)
    if freedom == 0:
        return Difference(a - b, None, None, n, 1.0)
    r = min(correlation, 1 - 2 / n)
    sizes = _effective(a, spread_a, n), _effective(b, spread_b, n)

    def limits(z: float) -> tuple[float, float]:
        (low_a, high_a), (low_b, high_b) = _wilson(a, sizes[0], z), _wilson(b, sizes[1], z)
        below, above = (a - low_a, high_b - b), (high_a - a, b - low_b)
        down, up = (math.sqrt(max(0.0, x * x + y * y - 2 * r * x * y)) for x, y in (below, above))
        return max(-1.0, a - b - down), min(1.0, a - b + up)

    low, high = limits(Z)
    nearest, farthest = 0.0, 40.0
    for _ in range(60):
        z = (nearest + farthest) / 2
        nearest, farthest = (nearest, z) if limits(z)[0] <= 0 <= limits(z)[1] else (z, farthest)
    p = max(_tails(nearest * _quantile(freedom) / Z, freedom), LEAST_P)
    return Difference(a - b, low, high, n, p)


@cache
def _quantile(freedom: int) -> float:
    """Of Student's distribution: what its absolute value stays below with probability LEVEL."""
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _tails(middle, freedom) > 1 - LEVEL else (low, middle)
    return high


def _tails(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's distribution (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    if freedom >= LARGE:
        return math.erfc(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    inside = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + inside) if odd else inside)


def resample_counts(clusters: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each item is drawn, shape (n,), once per resample of the clusters."""
    member = members(clusters)
    groups = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.multinomial(groups, np.full(groups, 1 / groups))[member].astype(np.float64)


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


def auc_limits(value: float, positive: int, negative: int) -> tuple[float, float]:
    """The 95% interval of an AUC over independent values: those θ with |θ - value| ≤ z sd(θ), Hanley and McNeil's
    variance taken at θ itself (Newcombe 2006, Statistics in Medicine 25:559, method 5). As Wilson's it has a width
    where all pairs are told apart.

    Args:
        positive: Values on the one side, and `negative` on the other; at least one each.
    """
    thetas = np.linspace(0.0, 1.0, 4001)
    more = (positive + negative) / 2 - 1
    spread = 1 + more * ((1 - thetas) / (2 - thetas) + thetas / (1 + thetas))
    variance = thetas * (1 - thetas) * spread / (positive * negative)
    fits = thetas[np.abs(thetas - value) <= Z * np.sqrt(variance) + 1e-9]
    return float(min(fits.min(initial=1.0), value)), float(max(fits.max(initial=0.0), value))
