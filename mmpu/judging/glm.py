"""`lc_glm`: what the win rate would be if both answers had the same length (AlpacaEval 2, arXiv 2404.04475).

    P(win) = σ(φ · tanh(Δlength / std) + ψ · difficulty_i + θ),    LC = mean_i σ(ψ · difficulty_i + θ)

Three variants, each a scale of its own, never to be mixed:

* `minimal`: length and θ only; for any task.
* `noreg`: with the difficulty of each item, from a calibration file.
* `v1`: also with the rows of two gamed baselines, weighted 0.1 each, that keep φ and ψ from absorbing θ. With
  AlpacaEval's calibration and the published C this gives the published numbers.

`minimal` and `noreg` leave θ without penalty (`logistic.py`). `v1` is AlpacaEval's fit with its penalty on all three
(`liblinear.py`); its variance is that of refits inside a bootstrap over items or clusters of items, C held. The
standard error of fitted probabilities, as usually published, is two to six times too small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mmpu import files
from mmpu.core import UserError
from mmpu.judging.liblinear import Targets, fit
from mmpu.judging.logistic import at_equal_length
from mmpu.statistics import Floats, Interval, Spread, interval_of, members, resample_counts

Variant = Literal["minimal", "noreg", "v1"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
GRID = np.logspace(-4, 4, 10)
FOLDS = 5
GAMED_WEIGHT = 0.1
MIN_ITEMS = 20
RESAMPLES = 1_000


@dataclass(frozen=True)
class Outcome:
    """One duel: who won, and how long the answers were, in characters."""

    item: str
    win: float | None
    """Ours, 0..1; None if unread. Unread ones keep their place in `Fit.draws`, so that those of several systems on the
    same items belong together."""
    ours: int
    theirs: int
    cluster: str


@dataclass(frozen=True)
class Calibration:
    """What `noreg` and `v1` know of a set of items beforehand."""

    difficulty: Mapping[str, float]
    """By item id."""
    gamed_items: tuple[str, ...] = ()
    gamed_lengths: tuple[float, ...] = ()
    """Standardised length differences of the gamed baselines' rows."""
    gamed_wins: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fit:
    """A length-controlled win rate and the model behind it."""

    rate: Interval
    c: float | None
    """Inverse strength of the L1 penalty of `v1`."""
    weights: tuple[float, float, float]
    """Of tanh(length), difficulty (0 in `minimal`) and θ."""
    spread: Spread
    draws: Floats
    """What the rate would be, (draws,), on each resample of the items (`v1`) or without each of their clusters: paired
    with those of another system on the same items and seed."""
    scale: float
    """The variance is this times the sum of squared deviations of the draws."""
    saved: float | None
    """Nats per duel by which the fit predicts better than a coin: duels of clusters that it did not see, in `v1` its
    own; None where there is one cluster."""
    saved_by_length: float | None
    """The same against the win rate alone; None in `v1`."""


class Refused(Exception):
    """Why a length-controlled win rate would mean nothing here."""


@dataclass(frozen=True)
class _Rows:
    """A design: features (n, 3), labels (n,), weights (n,); rows of the calibration come first."""

    features: Floats
    wins: Floats
    weights: Floats


def read_calibration(path: Path) -> Calibration:
    """A JSON file with `instruction_difficulty`, a list by index or a mapping by item id, and for `v1` with `gamed`:
    for each gamed baseline `std_delta_len` and `preference` (0..1), one value per item.

    Raises:
        UserError: unreadable, or not of this form.
    """
    try:
        values: Any = files.value_in(path)
        raw = values["instruction_difficulty"]
        keyed = cast(dict[str, float], raw if isinstance(raw, dict) else {str(i): d for i, d in enumerate(raw)})
        difficulty = {str(k): float(v) for k, v in keyed.items()}
        items: list[str] = []
        lengths: list[float] = []
        wins: list[float] = []
        for rows in values.get("gamed", {}).values():
            if not len(rows["std_delta_len"]) == len(rows["preference"]) == len(difficulty):
                raise ValueError(f"a gamed baseline must have {len(difficulty)} rows, one per item")
            items.extend(difficulty)
            lengths.extend(map(float, rows["std_delta_len"]))
            wins.extend(map(float, rows["preference"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a calibration file ({type(error).__name__}: {error}); it needs `instruction_difficulty` "
            "and, for v1, `gamed`"
        ) from None
    return Calibration(difficulty, tuple(items), tuple(lengths), tuple(wins))


def length_controlled(
    outcomes: Sequence[Outcome],
    variant: Variant,
    calibration: Calibration | None = None,
    c: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit:
    """The win rate at equal length, with its 95% interval. The order of `outcomes` does not matter.

    Args:
        c: Inverse strength of the penalty of `v1`; None chooses it by five-fold cross-validation.
        resamples: Of `v1`.

    Raises:
        Refused: too few items, no difference in length, or no calibration for the variant.
    """
    outcomes = sorted(outcomes, key=lambda o: (o.item.zfill(12), o.item))
    known = np.array([o.win is not None for o in outcomes], dtype=bool)
    read = [o for o in outcomes if o.win is not None]
    lengths = np.array([o.theirs - o.ours for o in read], dtype=np.float64)
    _check(read, lengths, variant, calibration)
    difficulty = np.zeros(len(read))
    if variant != "minimal" and calibration is not None:
        difficulty = np.array([calibration.difficulty[o.item] for o in read])
    wins = np.array([o.win for o in read], dtype=np.float64)
    clusters = [o.cluster for o in outcomes]
    if variant != "v1" or calibration is None:
        return _unpenalised(lengths, difficulty if variant == "noreg" else None, wins, members(clusters), known)
    rows = _design(lengths, difficulty, wins, np.ones(len(read)), calibration)
    chosen = c if c is not None else choose_c(rows)
    draws: list[float] = []
    for drawn in resample_counts(clusters, resamples, seed):
        counts = drawn[known]
        if counts.sum() >= 2:
            again = _fit(_design(lengths, difficulty, wins, counts, calibration), chosen)
            draws.append(_predict(again, difficulty, counts))
    weights = _fit(rows, chosen)
    value = _predict(weights, difficulty, np.ones(len(read)))
    logits = (rows.features @ weights)[-len(read) :]
    saved = math.log(2) - float((np.logaddexp(0, logits) - wins * logits).mean())
    return _published(value, chosen, weights, np.array(draws), len(set(clusters)) - 1, len(read), saved)


def _published(value: float, c: float, weights: Floats, draws: Floats, freedom: int, n: int, saved: float) -> Fit:
    """`v1` with the variance of its draws."""
    scale = 1 / max(1, len(draws) - 1)
    spread = Spread(float(np.square(draws - draws.mean()).sum()) * scale, freedom)
    length, hard, theta = map(float, weights)
    return Fit(interval_of(value, spread, n), c, (length, hard, theta), spread, draws, scale, saved, None)


def _unpenalised(
    lengths: Floats, difficulty: Floats | None, wins: Floats, member: NDArray[np.intp], known: NDArray[np.bool_]
) -> Fit:
    """`minimal`, or `noreg` where the items' difficulty is given. `member` is of all outcomes, `known` or not."""
    ones = np.ones_like(lengths)
    x = np.tanh(lengths / lengths.std(ddof=1))
    given = () if difficulty is None else (difficulty,)
    features, neutral = np.stack([ones, x, *given], axis=1), np.stack([ones, 0 * x, *given], axis=1)
    present, index = np.unique(member[known], return_inverse=True)
    found = at_equal_length(features, neutral, wins, index)
    draws = np.full(int(member.max()) + 1, found.rate)
    draws[present] = found.without
    theta, length, *rest = map(float, found.weights)
    n, saved = len(wins), (None, None) if found.spread.freedom == 0 else (found.saved, found.saved_by_length)
    rate = interval_of(found.rate, found.spread, n)
    weights = (length, rest[0] if rest else 0.0, theta)
    return Fit(rate, None, weights, found.spread, draws, (len(present) - 1) / len(present), *saved)


def choose_c(rows: _Rows) -> float:
    """The grid's C with the least cross-validated log-loss; folds are dealt out from the last row to the first."""
    count = len(rows.wins)
    fold = (count - 1 - np.arange(count)) % FOLDS
    losses = np.zeros(len(GRID))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        part = _Rows(rows.features[train], rows.wins[train], rows.weights[train])
        for i, c in enumerate(GRID):
            p = np.clip(_sigmoid(rows.features[test] @ _fit(part, float(c))), 1e-15, 1 - 1e-15)
            loss = rows.wins[test] * np.log(p) + (1 - rows.wins[test]) * np.log(1 - p)
            losses[i] -= (loss * rows.weights[test]).mean() / FOLDS
    return float(GRID[losses.argmin()])


def _check(outcomes: Sequence[Outcome], lengths: Floats, variant: Variant, calibration: Calibration | None) -> None:
    if len(outcomes) < MIN_ITEMS:
        raise Refused(f"{len(outcomes)} items are too few to fit; at least {MIN_ITEMS} are needed")
    if not lengths.any():
        raise Refused("all pairs of answers are of equal length, so there is no length to control for")
    if np.ptp(lengths) == 0:
        raise Refused("the answers differ by the same length in all pairs, so what length does cannot be told")
    if variant == "minimal":
        return
    if calibration is None:
        raise Refused(f"{variant} needs a calibration file with the items' difficulty")
    unknown = [o.item for o in outcomes if o.item not in calibration.difficulty]
    if unknown:
        raise Refused(f"the calibration knows nothing of {len(unknown)} items, the first is {unknown[0]!r}")
    if variant == "v1" and not calibration.gamed_items:
        raise Refused("v1 needs a calibration file with `gamed` rows")


def _design(lengths: Floats, difficulty: Floats, wins: Floats, counts: Floats, gamed: Calibration) -> _Rows:
    """Rows of `v1`, with the length difference standardised over the items as often as they were drawn."""
    total = counts.sum()
    mean = counts @ lengths / total
    spread = np.sqrt(counts @ (lengths - mean) ** 2 / (total - 1))
    z = lengths / spread if spread > 0 else np.zeros_like(lengths)
    features = np.stack([np.tanh(z), difficulty, np.ones_like(z)], axis=1)
    known = np.array([gamed.difficulty[item] for item in gamed.gamed_items])
    before = np.stack([np.tanh(gamed.gamed_lengths), known, np.zeros_like(known)], axis=1)
    return _Rows(
        np.concatenate([before, features]),
        np.concatenate([gamed.gamed_wins, wins]),
        np.concatenate([np.full(len(known), GAMED_WEIGHT), counts]),
    )


def _fit(rows: _Rows, c: float) -> Floats:
    return fit(rows.features, Targets(rows.wins * rows.weights, (1 - rows.wins) * rows.weights), c)


def _predict(weights: Floats, difficulty: Floats, counts: Floats) -> float:
    return float(counts @ _sigmoid(weights[2] + weights[1] * difficulty) / counts.sum())


def _sigmoid(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -z))
