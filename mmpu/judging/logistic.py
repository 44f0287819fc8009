"""The win rate at equal length by logistic regression whose intercept θ bears no penalty, and how surely it is known.

    P(win_i) = σ(β · x_i),   x_i = (1, tanh(length_i), …),   rate = mean_i σ(β · x_i with length 0)

Only slopes are penalised, by a log-F(1, 1) prior (Greenland & Mansournia, Statistics in Medicine 2015): half a win and
half a loss at x = 1. So they are finite, and the mean of the fitted probabilities is the win rate. Where length alone
decides every duel, θ would be whatever fits between the closest win and the closest loss; a steeper penalty of the
length keeps it at what the bulk of the duels says.

What the estimate is off by to second order in 1/n, the penalty's share included, is taken from the rate's logit (Cox &
Snell, JRSS B 1968, for the logistic model; times the variance of the residuals over the model's, since ties and soft
verdicts vary less than wins and losses).

Whoever won all has a rate of 1, whoever lost all of 0: there θ is infinite, and no other data reach that.

The variance is that of a jackknife over clusters, each left out by one Newton step, and no less than the model's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpu.statistics import Floats, Spread, freedom_of

STEPS = 200
HALVINGS = 30
ENOUGH = 1e-10
"""Of the Newton decrement, at which steps end."""
STEEP = 4.0
"""Of the added penalty: times half the square of the length's slope."""
BY_CHANCE = 1e-3
"""That wins and losses are parted by length is a finding if fewer of all orders of theirs do so."""
FAR = 35.0
"""Logit that stands for an infinite one."""
ALL = 1e-12
"""A win rate as near as this to 0 or 1 is one of all losses or all wins."""


@dataclass(frozen=True)
class Controlled:
    """A rate at equal length and what is known of it. k is the number of features, the intercept first."""

    rate: float
    weights: Floats
    """(k,)."""
    spread: Spread
    without: Floats
    """The rate without each cluster, (clusters,), to first order; spread to give the variance."""
    saved: float
    """Nats per duel by which predictions of the fit for a cluster that it did not see are better than a coin's."""
    saved_by_length: float
    """The same against the win rate of the other clusters."""


@dataclass(frozen=True)
class _Model:
    """A fit and its derivatives."""

    features: Floats
    weights: Floats
    fitted: Floats
    """(n,)."""
    hessian: Floats
    """Of the penalised loss, (k, k)."""
    penalty: Floats
    """The penalty's gradient, (k,)."""

    @property
    def variances(self) -> Floats:
        """Of each duel according to the model, (n,)."""
        return self.fitted * (1 - self.fitted)


def at_equal_length(features: Floats, neutral: Floats, wins: Floats, member: NDArray[np.intp]) -> Controlled:
    """The mean of P(win) at the features `neutral` instead of `features`.

    Args:
        features: (n, k): ones, tanh(length), what else there is.
        neutral: The same at equal lengths, (n, k).
        wins: (n,), in 0..1.
        member: The cluster of each duel, counted from zero, (n,).
    """
    clusters = int(member.max()) + 1
    sizes = np.bincount(member, minlength=clusters)
    alike = float(np.square(sizes).sum() / len(wins))
    """The number of items that tell as much as one, if those of a cluster are all the same."""
    if not ALL < wins.mean() < 1 - ALL:
        return _one_sided(features, neutral, wins, clusters, alike)
    model = _fit(features, wins, STEEP if _parted(features[:, 1], wins) else 0.0)
    inverse = np.linalg.inv(model.hessian).astype(np.float64)
    residuals = wins - model.fitted
    binary = bool(np.isin(wins, (0, 1)).all())
    dispersion = 1.0 if binary else float(np.square(residuals).sum() / model.variances.sum())
    steps = _left_out(model, residuals, member, clusters)
    plain, slope = _mean(neutral, model.weights)
    by_chance = plain * (1 - plain)
    rate = _sigmoid(_logit(plain) - _bias(model, neutral, inverse, dispersion) / by_chance)
    moved = rate * (1 - rate) / by_chance
    apart = _sigmoids(neutral @ model.weights) - plain
    gaps = -steps @ slope
    if clusters > 1:
        gaps -= np.bincount(member, apart) / (len(wins) - sizes)
    gaps = (gaps - gaps.mean()) * math.sqrt(moved)
    by_model = float(slope @ inverse @ slope) * moved
    by_items = float(np.square(apart).mean()) / len(wins) * moved
    spread = Spread(math.inf, 0)
    if clusters > 1:
        alone = dispersion * by_model + by_items
        between = float((clusters - 1) / clusters * np.square(gaps).sum())
        freedom = freedom_of(clusters, len(wins), alone, between) if clusters < len(wins) else len(wins) - 1
        spread = Spread(max(alone, between), freedom, rate * (1 - rate) / (by_model + by_items) / alike)
        gaps *= math.sqrt(spread.variance / between) if between > 0 else 1.0
    saved = _saved(features, wins, model.weights - steps[member], member) if clusters > 1 else (math.nan, math.nan)
    return Controlled(rate, model.weights, spread, rate + gaps, *saved)


def _one_sided(features: Floats, neutral: Floats, wins: Floats, clusters: int, alike: float) -> Controlled:
    """All won or all lost. What length could hide is then that of the design alone."""
    won = float(np.rint(wins.mean()))
    weights = np.zeros(features.shape[1])
    weights[0] = FAR if won else -FAR
    middle = neutral.mean(axis=0)
    inverse = np.linalg.inv(features.T @ features + _penalty(weights, 0.0)[2])
    freedom = len(wins) - 1 if clusters > 1 else 0
    spread = Spread(0.0, freedom, 1 / float(middle @ inverse @ middle) / alike)
    saved = (math.log(2), 0.0) if clusters > 1 else (math.nan, math.nan)
    return Controlled(won, weights, spread, np.full(clusters, won), *saved)


def _parted(x: Floats, wins: Floats) -> bool:
    """True if all wins lie on one side of some length difference, and all losses on the other, and not by chance."""
    won, lost = x[wins > 0.5], x[wins < 0.5]
    if not won.size or not lost.size:
        return False
    apart = won.max() <= lost.min() or lost.max() <= won.min()
    return bool(apart) and 2 / math.comb(won.size + lost.size, won.size) < BY_CHANCE


def _fit(features: Floats, wins: Floats, steep: float) -> _Model:
    """Newton's method from the fit without slopes; steps that lose are halved."""
    weights = np.zeros(features.shape[1])
    weights[0] = _logit(float(wins.mean()))
    loss = _loss(features, wins, weights, steep)
    for _ in range(STEPS):
        model = _at(features, weights, steep)
        gradient = features.T @ (model.fitted - wins) + model.penalty
        step = np.linalg.solve(model.hessian, gradient)
        if float(gradient @ step) < ENOUGH:
            break
        moved = _loss(features, wins, weights - step, steep)
        for _ in range(HALVINGS):
            if moved <= loss:
                break
            step = step / 2
            moved = _loss(features, wins, weights - step, steep)
        weights, loss = weights - step, moved
    return _at(features, weights, steep)


def _at(features: Floats, weights: Floats, steep: float) -> _Model:
    fitted = _sigmoids(features @ weights)
    _, gradient, curvature = _penalty(weights, steep)
    hessian = features.T @ (features * (fitted * (1 - fitted))[:, None]) + curvature
    return _Model(features, weights, fitted, hessian, gradient)


def _loss(features: Floats, wins: Floats, weights: Floats, steep: float) -> float:
    logits = features @ weights
    return float((np.logaddexp(0, logits) - wins * logits).sum()) + _penalty(weights, steep)[0]


def _penalty(weights: Floats, steep: float) -> tuple[float, Floats, Floats]:
    """Of the slopes: value, gradient (k,) and curvature (k, k)."""
    half = _sigmoids(weights)
    gradient, curvature = half - 0.5, half * (1 - half)
    gradient[0] = curvature[0] = 0
    gradient[1] += steep * weights[1]
    curvature[1] += steep
    value = float((np.logaddexp(0, weights) - weights / 2)[1:].sum()) + steep * float(weights[1]) ** 2 / 2
    return value, gradient, np.diag(curvature)


def _left_out(model: _Model, residuals: Floats, member: NDArray[np.intp], clusters: int) -> Floats:
    """What the weights lose by each cluster, (clusters, k): one Newton step of the fit without it."""
    x, variances = model.features, model.variances
    width = x.shape[1]
    gradient = np.empty((clusters, width))
    for i in range(width):
        gradient[:, i] = np.bincount(member, residuals * x[:, i], clusters)
    if clusters == 1:
        return np.zeros_like(gradient)
    own = np.empty((clusters, width, width))
    for i in range(width):
        for j in range(width):
            own[:, i, j] = np.bincount(member, variances * x[:, i] * x[:, j], clusters)
    return np.linalg.solve(model.hessian - own, gradient[:, :, None])[:, :, 0].astype(np.float64)


def _bias(model: _Model, neutral: Floats, inverse: Floats, dispersion: float) -> float:
    """What the mean of P(win) at `neutral` is off by, to second order in 1/n."""
    covariance = dispersion * inverse
    x, p = model.features, model.fitted
    bend = model.variances * (1 - 2 * p) * np.einsum("ij,jk,ik->i", x, covariance, x)
    of_weights = -inverse @ (x.T @ bend / 2 + model.penalty)
    p = _sigmoids(neutral @ model.weights)
    bend = p * (1 - p) * (1 - 2 * p) * np.einsum("ij,jk,ik->i", neutral, covariance, neutral)
    return float(_mean(neutral, model.weights)[1] @ of_weights + bend.mean() / 2)


def _mean(neutral: Floats, weights: Floats) -> tuple[float, Floats]:
    """The mean of P(win), and its gradient in the weights, (k,)."""
    p = _sigmoids(np.clip(neutral @ weights, -FAR, FAR))
    return float(p.mean()), neutral.T @ (p * (1 - p)) / len(p)


def _saved(features: Floats, wins: Floats, weights: Floats, member: NDArray[np.intp]) -> tuple[float, float]:
    """Nats per duel, against a coin and against the other clusters' win rate; `weights` are each duel's own, (n, k)."""
    logits = np.clip((features * weights).sum(axis=1), -FAR, FAR)
    loss = float((np.logaddexp(0, logits) - wins * logits).mean())
    rest = len(wins) - np.bincount(member)[member]
    rate = np.clip((wins.sum() - np.bincount(member, wins)[member]) / rest, math.exp(-FAR), 1 - 1e-15)
    by_rate = -float((wins * np.log(rate) + (1 - wins) * np.log(1 - rate)).mean())
    return math.log(2) - loss, by_rate - loss


def _sigmoids(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -z))


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-min(max(z, -FAR), FAR)))


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)
