"""Statistics against brute force, and against the distribution that they are about."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mmpu.statistics import auc, bootstrap


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    wins, truth = (0.0, 0.5, 1.0), 0.3 * 0.5 + 0.5
    drawn = [bootstrap(rng.choice(wins, 150, p=(0.2, 0.3, 0.5)).tolist()) for _ in range(400)]
    covered = sum(i.low <= truth <= i.high for i in drawn) / len(drawn)
    assert 0.92 < covered < 0.98
    assert all(i.low <= i.value <= i.high and i.n == 150 for i in drawn)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    data = np.random.default_rng(1).normal(3, 2, 400)
    interval = bootstrap(data.tolist())
    error = 1.96 * data.std() / 20
    assert interval.value == pytest.approx(data.mean())
    assert (interval.low, interval.high) == pytest.approx((data.mean() - error, data.mean() + error), abs=0.02)


def test_the_same_data_give_the_same_interval_in_any_order() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 1.0]
    assert bootstrap(values) == bootstrap(sorted(values))
    assert bootstrap(values, seed=1) != bootstrap([0.1 * v for v in values], seed=1)


def test_edges() -> None:
    one = bootstrap([0.7])
    assert (one.value, one.low, one.high, one.n) == (0.7, 0.7, 0.7, 1)
    assert bootstrap([1.0] * 50).low == 1
    with pytest.raises(ValueError, match="no value"):
        bootstrap([])


def brute(positive: list[float], negative: list[float]) -> float:
    pairs = list(itertools.product(positive, negative))
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_auc_counts_pairs(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for sizes in ((1, 1), (3, 8), (40, 25)):
        positive, negative = (rng.integers(levels, size=size).tolist() for size in sizes)
        assert auc(positive, negative) == pytest.approx(brute(positive, negative), abs=1e-12)


def test_auc_of_the_plain_cases() -> None:
    assert auc([2, 3], [0, 1]) == 1
    assert auc([0, 1], [2, 3]) == 0
    assert auc([1, 1], [1, 1, 1]) == 0.5
    assert math.isnan(auc([], [1]))
    assert math.isnan(auc([1], []))
