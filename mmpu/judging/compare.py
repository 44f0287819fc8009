"""Systems against each other: paired differences under one baseline, and a ranking where they met.

Both answered the same prompts, so what they differ by is far better known than either rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mmpu.boards import Comparison
from mmpu.judging.glm import Fit
from mmpu.judging.measure import Measured
from mmpu.statistics import Difference, Interval, Spread, difference_of_rates, holm, interval_of, mcnemar, paired

RESAMPLES = 1_000
PRIOR = 0.5
"""Ties with an imaginary average player, in games: without them a system that only won has no finite strength."""


def comparisons(measured: Sequence[Measured]) -> list[Comparison]:
    """All pairs of systems that met the same baseline on the same prompts, by every metric that both have; with the
    baseline itself, by those that are no duels with it."""
    found = [c for a, b in combinations(measured, 2) if _comparable(a, b) for c in _pair(a, b)]
    adjusted = holm([c.difference.p for c in found])
    return [replace(c, holm=p) for c, p in zip(found, adjusted, strict=True)]


def _comparable(a: Measured, b: Measured) -> bool:
    left, right = a.match, b.match
    same = left.baseline == right.baseline and left.split == right.split and left.task == right.task
    return same and left.provenance.judge_identity == right.provenance.judge_identity


def _pair(a: Measured, b: Measured) -> list[Comparison]:
    found: list[Comparison] = []
    clusters = {item.sample: item.cluster for item in a.match.items}
    met = all(m.match.system != m.match.baseline for m in (a, b))
    for metric in (m for m in a.wins if m in b.wins and (met or m in a.match.metrics)):
        common = [s for s in a.wins[metric] if s in b.wins[metric]]
        if common:
            ours, theirs = ([m.wins[metric][s] for s in common] for m in (a, b))
            shared = [clusters[s] for s in common] if a.match.clustered else None
            found.append(_comparison(a, b, metric, paired(ours, theirs, shared), mcnemar(ours, theirs)))
    same_items = [i.sample for i in a.match.items] == [i.sample for i in b.match.items]
    for metric in (m for m in a.fits if m in b.fits and same_items and met):
        left, right = a.fits[metric], b.fits[metric]
        if len(left.draws) == len(right.draws):
            found.append(_comparison(a, b, metric, difference(left, right), None))
    return found


def difference(left: Fit, right: Fit) -> Difference:
    """Of two regressions on the same items, whose draws belong together."""
    a, b = (fit.draws - fit.draws.mean() for fit in (left, right))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    correlation = float(a @ b) / scale if scale > 0 else 0.0
    n = min(left.rate.n, right.rate.n)
    return difference_of_rates((left.rate.value, left.spread), (right.rate.value, right.spread), correlation, n)


def _comparison(a: Measured, b: Measured, metric: str, gap: Difference, exact: float | None) -> Comparison:
    left = a.match
    return Comparison(
        left.system.name,
        b.match.system.name,
        left.baseline.name,
        left.split,
        left.provenance.judge_identity,
        metric,
        gap,
        exact,
        gap.p,
    )


@dataclass(frozen=True)
class Game:
    """One item on which two systems met."""

    ours: str
    theirs: str
    win: float
    cluster: str


def bradley_terry(games: Sequence[Game], seed: int = 0) -> dict[str, Interval]:
    """Each system's chance to beat the average one, by the Bradley–Terry model, P(a beats b) = σ(s_a − s_b).

    Ties count half a win. Intervals resample items, together with all games on them. Systems that never met, not even
    by way of others, are told apart by the prior alone.

    Raises:
        ValueError: no game.
    """
    if not games:
        raise ValueError("no game to rank by")
    names = sorted({name for game in games for name in (game.ours, game.theirs)})
    clusters = sorted({game.cluster for game in games})
    row = {name: i for i, name in enumerate(names)}
    place = {cluster: i for i, cluster in enumerate(clusters)}
    size = len(names)
    wins = np.zeros((len(clusters), size * size))
    for game in games:
        a, b, c = row[game.ours], row[game.theirs], place[game.cluster]
        wins[c, a * size + b] += game.win
        wins[c, b * size + a] += 1 - game.win
    rng = np.random.default_rng(seed)
    value = _strengths(wins.sum(axis=0).reshape(size, size))
    share = np.full(len(clusters), 1 / len(clusters))
    resampled = (rng.multinomial(len(clusters), share) @ wins for _ in range(RESAMPLES))
    variances = np.var([_strengths(drawn.reshape(size, size)) for drawn in resampled], axis=0, ddof=1)
    met, freedom = _games_of(games), len(clusters) - 1
    return {n: interval_of(float(value[i]), Spread(float(variances[i]), freedom), met[n]) for n, i in row.items()}


def _strengths(wins: np.ndarray) -> np.ndarray:
    """σ(s) of each system, shape (k,), where wins[a, b] counts a's wins over b.

    Newton's method; the prior is PRIOR games won and lost against a system of strength 0.
    """
    played, strength = wins + wins.T, np.zeros(len(wins))
    for _ in range(100):
        beats = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        prior = 1 / (1 + np.exp(-strength))
        gradient = wins.sum(axis=1) - (played * beats).sum(axis=1) + PRIOR * (1 - 2 * prior)
        weight = played * beats * (1 - beats)
        hessian = np.diag(weight.sum(axis=1) + 2 * PRIOR * prior * (1 - prior)) - weight
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))  # far from the top, no step is trusted beyond 2
        strength = strength + step
        if np.abs(step).max() < 1e-10:
            break
    return 1 / (1 + np.exp(strength.mean() - strength))


def _games_of(games: Sequence[Game]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for game in games:
        for name in (game.ours, game.theirs):
            counts[name] = counts.get(name, 0) + 1
    return counts


def games_of(measured: Sequence[Measured]) -> list[Game]:
    """The duels of several matches, by their raw wins; a system's match with itself is none."""
    return [
        Game(m.match.system.name, m.match.baseline.name, m.wins["raw"][item.sample], item.cluster)
        for m in measured
        if m.match.system != m.match.baseline
        for item in m.match.items
        if item.sample in m.wins["raw"]
    ]
