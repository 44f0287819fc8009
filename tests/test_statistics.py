"""Statistics against brute force, and against the distribution that they are about."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpu import statistics
from mmpu.statistics import (
    Spread,
    auc,
    difference_of,
    difference_of_rates,
    freedom_of,
    holm,
    interval,
    mcnemar,
    minimum_detectable_effect,
    paired,
    resample_counts,
)


def covers(values: Sequence[float], truth: float, clusters: Sequence[str] | None = None) -> bool:
    found = interval(values, clusters)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    return found.low <= truth <= found.high


pytestmark = pytest.mark.numerical


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    wins, truth = (0.0, 0.5, 1.0), 0.3 * 0.5 + 0.5
    covered = np.mean([covers(rng.choice(wins, 150, p=(0.2, 0.3, 0.5)).tolist(), truth) for _ in range(2000)])
    assert 0.935 < covered < 0.965, "0.95 up to three standard errors of this many"


def test_wins_and_losses_have_wilsons_interval() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for wins, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = interval([1.0] * wins + [0.0] * (n - wins))
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    data = np.random.default_rng(1).beta(3, 2, 400)
    found = interval(data.tolist())
    error = 1.96 * data.std() / 20
    assert found.value == pytest.approx(data.mean())
    assert (found.low, found.high) == pytest.approx((data.mean() - error, data.mean() + error), abs=1e-3)


def test_the_same_data_give_the_same_interval_in_any_order() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 1.0]
    assert interval(values) == interval(sorted(values))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0] * 3, 0.4385, 1),
        ([1.0] * 20, 0.8389, 1),
        ([0.0] * 20, 0, 0.1611),
        ([0.9999] * 20, 0.8387, 1),
        ([0.5] * 20, 0.4488, 0.5512),
        ([0.5, 0.5], 0.1, 0.9),
    ],
)
def test_values_that_are_all_the_same_still_have_an_interval(values: list[float], low: float, high: float) -> None:
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 0.09


def test_one_cluster_has_no_interval() -> None:
    for values, clusters in (([0.7], None), ([1.0, 0.0, 1.0], ["a"] * 3)):
        found = interval(values, clusters)
        assert (found.value, found.low, found.high) == (pytest.approx(np.mean(values)), None, None)
        gap = paired(values, [0.0] * len(values), clusters)
        assert (gap.low, gap.high, gap.p) == (None, None, 1)
    with pytest.raises(ValueError, match="no value"):
        interval([])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), min_size=2, max_size=40), st.data())
def test_an_interval_is_never_a_point_and_holds_its_mean(values: list[float], data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.sampled_from("abcd"), min_size=len(values), max_size=len(values)))
    for names in (None, clusters):
        if names is None or len(set(names)) > 1:
            assert covers(values, float(np.mean(values)), names)
            gap = paired(values, values[::-1], names)
            assert gap.low is not None
            assert gap.high is not None
            assert -1 <= gap.low < gap.high <= 1
            assert gap.low <= gap.value <= gap.high


def test_fewer_clusters_tell_less() -> None:
    values = [1.0] * 20
    lows = [interval(values, [str(i // size) for i in range(20)]).low for size in (1, 2, 4, 10)]
    assert lows == sorted(lows, reverse=True)  # pyright: ignore
    assert lows[2] == interval([1.0] * 5).low, "all alike, four questions about an image may tell no more than one"


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


def test_clusters_vary_whole() -> None:
    rng = np.random.default_rng(2)
    heads = rng.integers(2, size=50).astype(float)
    values, clusters = np.repeat(heads, 8).tolist(), [str(i // 8) for i in range(400)]
    alone, together, plain = (interval(v, c) for v, c in ((values, None), (values, clusters), (heads.tolist(), None)))
    assert together.value == alone.value
    assert (together.low, together.high) == pytest.approx((plain.low, plain.high)), "eight copies tell no more than one"
    assert width(together) > 2 * width(alone)
    assert interval(values, [str(i) for i in range(400)]) == alone


def width(found: Any) -> float:
    return found.high - found.low


def test_unequal_clusters_weigh_by_their_size() -> None:
    values, clusters = [1.0] * 9 + [0.0], ["a"] * 9 + ["b"]
    found = interval(values, clusters)
    assert found.value == 0.9
    assert width(found) > 0.6


@pytest.mark.parametrize(("p", "size"), [(0.1, 3), (0.5, 3), (0.8, 5)])
def test_an_interval_of_clusters_covers_as_often_as_it_says(p: float, size: int) -> None:
    rng = np.random.default_rng(11)
    a = p * 3  # a beta distribution of the clusters' rates, of which the items of one share a quarter of the variance
    covered = 0
    for _ in range(1000):
        rates = rng.beta(a, 3 - a, 40)
        values = (rng.random((40, size)) < rates[:, None]).astype(float).ravel()
        covered += covers(values.tolist(), p, [str(i // size) for i in range(values.size)])
    assert 0.93 < covered / 1000 < 0.975


def test_counts_of_a_resample_add_up_and_keep_clusters() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    for counts in resample_counts(clusters, 50, seed=1):
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert [c.tolist() for c in resample_counts(clusters, 5, 1)] == [
        c.tolist() for c in resample_counts(clusters, 5, 1)
    ]


def test_a_paired_difference_is_known_better_than_either_rate() -> None:
    rng = np.random.default_rng(4)
    theirs = rng.integers(2, size=300).astype(float)
    ours = np.where(rng.random(300) < 0.08, 1.0, theirs)
    found = paired(ours.tolist(), theirs.tolist())
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert width(found) < width(interval(ours.tolist())) / 2
    assert found.p < 0.01
    mirrored = paired(theirs.tolist(), ours.tolist())
    assert mirrored.value == -found.value
    same = paired(theirs.tolist(), theirs.tolist())
    assert (same.value, same.p) == (0, 1)
    assert 0.002 < width(same) < 0.02, "no difference in 300 items leaves room for one in other items"


def test_p_values_of_no_difference_are_uniform() -> None:
    rng = np.random.default_rng(5)
    found = [paired(rng.beta(2, 2, 80).tolist(), rng.beta(2, 2, 80).tolist()).p for _ in range(1000)]
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.07
    assert 0.47 < np.mean(found) < 0.53


@given(st.floats(-0.9, 0.9), st.floats(1e-6, 0.1), st.integers(1, 60), st.integers(0, 40))
def test_p_is_below_a_twentieth_where_the_interval_leaves_out_zero(
    gap: float, variance: float, freedom: int, least: int
) -> None:
    found = difference_of(gap, Spread(variance, freedom, least), 100)
    assert found.low is not None
    assert found.high is not None
    if min(abs(found.low), abs(found.high)) > 1e-9:
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_a_difference_of_rates_is_newcombes() -> None:
    """Statistics in Medicine 17 (1998) 873, table II (a), method 10: 56/70 − 48/80, independent."""
    ours, theirs = ((p, Spread(math.inf, 2000, n)) for p, n in ((56 / 70, 70), (48 / 80, 80)))
    found = difference_of_rates(ours, theirs, 0.0, 80)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert 0.001 < found.p < 0.01


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-6, 0.1), st.floats(-1, 1), st.integers(0, 60))
def test_a_difference_of_rates_has_the_p_of_its_interval(
    a: float, b: float, variance: float, correlation: float, freedom: int
) -> None:
    spread = Spread(variance, freedom, 5)
    found = difference_of_rates((a, spread), (b, spread), correlation, 50)
    if freedom == 0:
        assert (found.low, found.high, found.p) == (None, None, 1)
        return
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 1e-3
    if min(abs(found.low), abs(found.high)) > 1e-9:
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 29, 198, 1999])
def test_tails_are_those_of_students_distribution(freedom: int) -> None:
    scipy = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    assert statistics._quantile(freedom) == pytest.approx(scipy.t.ppf(0.975, freedom), rel=1e-9)
    for t in (0.1, 1.0, 3.0, 6.0):
        assert statistics._tails(t, freedom) == pytest.approx(2 * scipy.t.sf(t, freedom), abs=1e-13)


def test_degrees_of_freedom_are_of_what_only_clusters_tell() -> None:
    assert freedom_of(10, 100, alone=1.0, between=0.5) == 99
    assert freedom_of(10, 100, alone=1.0, between=2.0) == 18
    assert freedom_of(10, 100, alone=0.0, between=2.0) == 9
    assert freedom_of(100, 100, alone=1.0, between=1.0) == 99


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 0), (3, 9), (40, 60), (700, 600)])
def test_mcnemar_is_the_exact_binomial(better: int, worse: int) -> None:
    ours, theirs = [1.0] * better + [0.0] * worse + [0.5] * 7, [0.0] * better + [1.0] * worse + [0.5] * 7
    n, k = better + worse, min(better, worse)
    expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(ours, theirs) == pytest.approx(expected, rel=1e-9)


def test_holm_adjusts_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_detectable_effect_is_detected_as_often_as_it_says() -> None:
    effect = minimum_detectable_effect(199)
    assert effect == pytest.approx(0.0993, abs=1e-4)
    rng = np.random.default_rng(6)
    wins = rng.binomial(199, 0.5 + effect, 20_000) / 199
    assert np.mean(np.abs(wins - 0.5) > 1.96 * 0.5 / math.sqrt(199)) == pytest.approx(0.8, abs=0.03)
