"""Statistics against brute force, and against the distribution that they are about."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mmpu.statistics import auc, bootstrap, holm, mcnemar, minimum_detectable_effect, paired, resample_counts

pytestmark = pytest.mark.numerical


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


def test_a_resampling_of_many_values_is_held_in_pieces() -> None:
    import tracemalloc

    data = np.random.default_rng(0).normal(size=20_000).tolist()
    tracemalloc.start()
    interval = bootstrap(data[:4000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6, "10,000 resamples of 4,000 values would be 320 MB at once"
    assert interval.low < interval.value < interval.high


def test_clusters_are_resampled_whole() -> None:
    rng = np.random.default_rng(2)
    heads = rng.integers(2, size=50).astype(float)
    values, clusters = np.repeat(heads, 8).tolist(), [str(i // 8) for i in range(400)]
    alone, together, plain = bootstrap(values), bootstrap(values, clusters), bootstrap(heads.tolist())
    assert together.value == alone.value
    assert (together.low, together.high) == (plain.low, plain.high), "eight copies of an item tell no more than one"
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert bootstrap(values, [str(i) for i in range(400)]) == alone


def test_unequal_clusters_weigh_by_their_size() -> None:
    values, clusters = [1.0] * 9 + [0.0], ["a"] * 9 + ["b"]
    assert bootstrap(values, clusters).value == 0.9
    assert (bootstrap(values, clusters).low, bootstrap(values, clusters).high) == (0, 1)


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
    rate = bootstrap(ours.tolist())
    assert found.high - found.low < (rate.high - rate.low) / 2
    assert found.p < 0.01
    mirrored = paired(theirs.tolist(), ours.tolist())
    assert mirrored.value == -found.value
    same = paired(theirs.tolist(), theirs.tolist())
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_p_values_of_no_difference_are_uniform() -> None:
    rng = np.random.default_rng(5)
    found = [paired(rng.normal(size=80).tolist(), rng.normal(size=80).tolist()).p for _ in range(100)]
    assert np.mean(np.array(found) < 0.05) < 0.12
    assert 0.4 < np.mean(found) < 0.6


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
