"""L1-regularised logistic regression with few features, as liblinear solves it.

newGLMNET (Yuan, Ho & Lin, «An improved GLMNET for L1-regularized logistic regression», JMLR 2012): outer Newton steps
on `|w|_1 + C Σ_i s_i log(1 + exp(-y_i w·x_i))`, each a quadratic solved by coordinate descent in random order, then a
line search.

Published length-controlled win rates rest on where liblinear stops: its stopping point lies up to 0.012 points from
the optimum, more than the 0.001 to which they are reproduced. So the order of coordinates and the stopping rules are
those of liblinear as scikit-learn calls it (`tol` 1e-4, `max_iter` 100), and weights agree to rounding
(`tests/test_length.py`). With few features the quadratic is a small matrix, so that the whole is a page of NumPy:
nothing here needs SciPy, and no number moves with a library that is retiring this solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul

import numpy as np

from mmpu.statistics import Floats

TOLERANCE = 1e-4
NEWTON_STEPS = 100
INNER_STEPS = 1000
LINE_SEARCHES = 20
RIDGE = 1e-12
SUFFICIENT = 0.01
"""Share of the predicted decrease that a step must achieve."""


@dataclass(frozen=True)
class Targets:
    """Rows whose label is uncertain: row i counts `yes[i]` times as 1 and `no[i]` times as 0. Both of shape (n,)."""

    yes: Floats
    no: Floats


def fit(features: Floats, targets: Targets, c: float, seed: int = 123) -> Floats:
    """The weights, shape (d,); there is no intercept but what a feature gives.

    Args:
        features: Shape (n, d), d small.
        c: Inverse strength of the penalty.
        seed: scikit-learn's `random_state`.
    """
    yes, no = c * targets.yes, c * targets.no
    used = (yes > 0) | (no > 0)
    features, yes, no = features[used], yes[used], no[used]
    counted = (int((yes > 0).sum()), int((no > 0).sum()))
    rows, width = sum(counted), features.shape[1]
    tolerance = TOLERANCE * max(min(counted), 1) / rows
    draw = _Draw(int(np.random.RandomState(seed).randint(np.iinfo("i").max)))
    order = list(range(width))
    w = np.zeros(width)
    at = _loss(np.zeros(len(features)), yes, no)
    both = yes + no
    violation_0 = gmax = np.inf
    inner_tolerance = 1.0
    for step in range(NEWTON_STEPS):
        gradient = features.T @ (at.p * both - yes)
        hessian = features.T @ (features * (at.p * (1 - at.p) * both)[:, None])
        active, total, gmax = _violations(w, gradient, order, gmax / rows)
        if step == 0:
            violation_0 = total
        if total <= tolerance * violation_0:
            break
        goal, inner = _quadratic(w, gradient, hessian, order, active, inner_tolerance * violation_0, rows, draw)
        w, at = _line_search(w, goal, at, features, yes, no, gradient)
        if inner == 1:
            inner_tolerance *= 0.25
    return w


@dataclass(frozen=True)
class _At:
    """The model at some weights: margins z and probabilities p, both (n,), and the summed loss."""

    z: Floats
    p: Floats
    loss: float


def _loss(z: Floats, yes: Floats, no: Floats) -> _At:
    e = np.exp(-np.abs(z))
    p = np.where(z > 0, 1.0, e) / (1 + e)
    return _At(z, p, float((yes + no) @ np.log1p(e) - yes @ np.minimum(z, 0) + no @ np.maximum(z, 0)))


def _violations(w: Floats, gradient: Floats, order: list[int], slack: float) -> tuple[int, float, float]:
    """How many coordinates stay active (they come first in `order`), and sum and maximum of the KKT violations."""
    active, total, largest, s = len(w), 0.0, 0.0, 0
    while s < active:
        j = order[s]
        violation = _violation(w[j], gradient[j], slack)
        if violation is None:
            active -= 1
            order[s], order[active] = order[active], order[s]
            continue
        total += violation
        largest = max(largest, violation)
        s += 1
    return active, total, largest


def _violation(w: float, gradient: float, slack: float) -> float | None:
    """Of one coordinate; None if it rests at zero so firmly that it may be left out."""
    up, down = gradient + 1, gradient - 1
    if w > 0:
        return abs(up)
    if w < 0:
        return abs(down)
    if up < 0:
        return -up
    if down > 0:
        return down
    return None if up > slack and down < -slack else 0.0


def _quadratic(
    w: Floats,
    gradient: Floats,
    hessian: Floats,
    order: list[int],
    active: int,
    enough: float,
    rows: int,
    draw: _Draw,
) -> tuple[Floats, int]:
    """Coordinate descent on the quadratic model; returns its minimum and the passes taken."""
    # Plain floats: the matrix is so small that NumPy's calls would cost more than its arithmetic.
    goal, slope, rows_h = w.tolist(), gradient.tolist(), hessian.tolist()
    step = [0.0] * len(goal)
    left, gmax = active, math.inf
    for done in range(1, INNER_STEPS + 1):
        total, largest, s = 0.0, 0.0, 0
        for i in range(left):
            k = i + draw.below(left - i)
            order[i], order[k] = order[k], order[i]
        while s < left:
            j = order[s]
            g = slope[j] + step[j] * RIDGE + sum(map(mul, rows_h[j], step))
            violation = _violation(goal[j], g, gmax / rows)
            if violation is None:
                left -= 1
                order[s], order[left] = order[left], order[s]
                continue
            s += 1
            total += violation
            largest = max(largest, violation)
            h = rows_h[j][j] + RIDGE
            if g + 1 < h * goal[j]:
                change = -(g + 1) / h
            elif g - 1 > h * goal[j]:
                change = -(g - 1) / h
            else:
                change = -goal[j]
            if abs(change) >= 1e-12:
                change = min(max(change, -10.0), 10.0)
                goal[j] += change
                step[j] += change
        if total <= enough:
            if left == active:
                return np.array(goal), done
            left, gmax = active, math.inf
        else:
            gmax = largest
    return np.array(goal), INNER_STEPS


def _line_search(
    w: Floats, goal: Floats, at: _At, features: Floats, yes: Floats, no: Floats, gradient: Floats
) -> tuple[Floats, _At]:
    """Halves the way to `goal` until the objective falls enough."""
    before = np.abs(w).sum()
    along = features @ (goal - w)
    delta = gradient @ (goal - w) + np.abs(goal).sum() - before
    for _ in range(LINE_SEARCHES):
        moved = _loss(at.z + along, yes, no)
        if np.abs(goal).sum() - before + moved.loss - at.loss <= SUFFICIENT * delta:
            return goal, moved
        goal, along, delta = (w + goal) / 2, along / 2, delta / 2
    return w, at


class _Draw:
    """The bounded integers that scikit-learn's liblinear draws: mt19937 with Lemire's multiplication."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        self._bits._legacy_seeding(seed)  # pyright: ignore[reportPrivateUsage]

    def below(self, bound: int) -> int:
        while True:
            product = int(self._bits.random_raw()) * bound
            if product & 0xFFFFFFFF >= (-bound & 0xFFFFFFFF) % bound:
                return product >> 32
