"""Length control: against published numbers and their solver, and on data where the right answer is known."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import b6_coverage
from mmpu.core import UserError
from mmpu.judging.equalise import FACTOR, equalise, words
from mmpu.judging.glm import GRID, Calibration, Fit, Outcome, Refused, length_controlled, read_calibration
from mmpu.judging.liblinear import Targets, fit
from mmpu.task import load_task

pytestmark = pytest.mark.numerical

ORACLES = Path(__file__).parent.parent.parent / "shared/oracles/length_controlled"
MODELS = sorted(p.stem for p in ORACLES.glob("*.json") if p.stem != "calibration")
needs_oracles = pytest.mark.skipif(not MODELS, reason="the optional folder ../shared/oracles is not there")


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return read_calibration(ORACLES / "calibration.json")


def oracle(model: str) -> dict[str, Any]:
    return json.loads((ORACLES / f"{model}.json").read_text())


def outcomes(values: Mapping[str, Any], index: str = "index_positional") -> list[Outcome]:
    columns = (values[index], values["preference"], values["len_model"], values["len_baseline"])
    return [Outcome(str(i), p - 1, ours, theirs, str(i)) for i, p, ours, theirs in zip(*columns, strict=True)]


@needs_oracles
@pytest.mark.parametrize("model", MODELS)
def test_v1_gives_the_published_number_at_the_published_c(model: str, calibration: Calibration) -> None:
    values = oracle(model)
    rows = outcomes(values)
    published = values["published"]
    assert 100 * np.mean([o.win for o in rows]) == pytest.approx(published["win_rate"], abs=1e-9)
    found = length_controlled(rows, "v1", calibration, values["inferred_C"], resamples=2)
    assert 100 * found.rate.value == pytest.approx(published["length_controlled_winrate"], abs=1e-3)
    random.Random(7).shuffle(rows)
    again = length_controlled(rows, "v1", calibration, values["inferred_C"], resamples=2)
    assert again.rate == found.rate, "rows are joined by item, not by place"


@needs_oracles
def test_cross_validation_chooses_the_published_c(calibration: Calibration) -> None:
    for model in ("FuseChat-Llama-3.2-1B-Instruct", "NullModel"):
        values = oracle(model)
        rows = outcomes(values)
        random.Random(3).shuffle(rows)
        assert length_controlled(rows, "v1", calibration, resamples=2).c == pytest.approx(values["inferred_C"])


@needs_oracles
def test_an_item_is_who_it_says_it_is(calibration: Calibration) -> None:
    """The published number of this model joined 804 rows by place; by item it is another number."""
    values = oracle("gpt35_turbo_instruct")
    by_item = length_controlled(outcomes(values, "index"), "v1", calibration, values["inferred_C"], resamples=2)
    assert 100 * by_item.rate.value - values["published"]["length_controlled_winrate"] == pytest.approx(-2.76, abs=0.01)


@needs_oracles
def test_an_interval_by_refitting_is_wide_and_quick(calibration: Calibration) -> None:
    values = oracle("FuseChat-Llama-3.2-1B-Instruct")
    start = time.process_time()
    found = length_controlled(outcomes(values), "v1", calibration, values["inferred_C"])
    assert time.process_time() - start < 30
    assert len(found.draws) == 1000
    assert low(found) < found.rate.value < high(found)
    published_error = values["recomputed_with_pip_alpaca_eval_0_6_6"]["lc_standard_error"] / 100
    assert 1.5 * published_error < found.draws.std() < 6 * published_error


@pytest.mark.filterwarnings("ignore:.*penalty.*")  # its newer name is not in the versions that alpaca-eval takes
def test_weights_are_those_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(5)
    for c in GRID[::2]:
        features = np.stack([np.tanh(rng.normal(size=300)), rng.normal(size=300), np.ones(300)], axis=1)
        share = rng.choice([0.0, 0.3, 1.0], 300)
        weight = rng.choice([0.1, 1.0, 2.0], 300)
        reference = linear_model.LogisticRegression(
            C=c, penalty="l1", solver="liblinear", fit_intercept=False, random_state=123
        )
        labels, weights = np.repeat([1, 0], 300), np.concatenate([share * weight, (1 - share) * weight])
        with pytest.warns(FutureWarning):
            reference.fit(np.concatenate([features, features]), labels, sample_weight=weights)
        ours = fit(features, Targets(share * weight, (1 - share) * weight), float(c))
        assert ours == pytest.approx(reference.coef_[0], abs=1e-9)


def test_a_fit_is_at_the_optimum_up_to_its_tolerance() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([rng.normal(size=500), rng.normal(size=500), np.ones(500)], axis=1)
    p = 1 / (1 + np.exp(-features @ np.array([1.5, 0.0, -0.5])))
    yes = (rng.random(500) < p).astype(float)
    w = fit(features, Targets(yes, 1 - yes), 1.0)

    def objective(w: np.ndarray) -> float:
        z = features @ w
        return float(np.abs(w).sum() + (yes @ np.logaddexp(0, -z) + (1 - yes) @ np.logaddexp(0, z)))

    for _ in range(200):
        assert objective(w) <= objective(w + rng.normal(size=3) * 0.02) + 1e-4
    assert w == pytest.approx([1.5, 0.0, -0.5], abs=0.35)


def test_separable_and_one_sided_data_are_fitted() -> None:
    z = np.linspace(-1, 1, 40)
    features = np.stack([z, np.ones(40)], axis=1)
    for wins in ((z > 0).astype(float), np.ones(40), np.zeros(40)):
        assert np.isfinite(fit(features, Targets(wins, 1 - wins), 1e4)).all()


# ----------------------------------------------------------------------------------------------------------------
# what it must find out


def low(found: Fit) -> float:
    assert found.rate.low is not None
    return found.rate.low


def high(found: Fit) -> float:
    assert found.rate.high is not None
    return found.rate.high


def rows_of(wins: Sequence[float], lengths: Sequence[int]) -> list[Outcome]:
    """Duels in which ours is longer by `lengths`."""
    return [Outcome(str(i), w, 2000 + d, 2000, str(i)) for i, (w, d) in enumerate(zip(wins, lengths, strict=True))]


def drawn(rng: np.random.Generator, n: int, rate: float, phi: float, longer: float, readings: int = 1) -> list[Outcome]:
    """Verdicts with P(win) = σ(logit(rate) + φ · tanh(length)), the mean of some readings each."""
    gaps = rng.normal(longer, 1, n)
    p = 1 / (1 + np.exp(-(math.log(rate / (1 - rate)) + phi * np.tanh(gaps))))
    wins = (rng.random((readings, n)) < p).mean(axis=0)
    return rows_of(wins.tolist(), np.round(400 * gaps).astype(int).tolist())


@pytest.mark.parametrize(
    ("n", "rate", "phi", "longer", "readings"),
    [
        (30, 0.1, 0.0, 0.0, 1),
        (30, 0.8, 1.0, 0.5, 1),
        (100, 0.05, 1.0, 0.5, 1),
        (199, 0.55, 0.0, 0.0, 1),
        (100, 0.3, 1.0, 0.5, 2),
        (100, 0.9, -1.0, 0.5, 1),
    ],
)
def test_the_rate_is_unbiased_and_its_interval_holds_the_truth(
    n: int, rate: float, phi: float, longer: float, readings: int
) -> None:
    rng = np.random.default_rng(n)
    found = [length_controlled(drawn(rng, n, rate, phi, longer, readings), "minimal") for _ in range(600)]
    off = np.array([f.rate.value for f in found]) - rate
    assert abs(off.mean()) < 0.005 + 2 * off.std() / math.sqrt(600)
    covered = np.mean([low(f) <= rate <= high(f) for f in found])
    assert 0.92 < covered < 0.98, "0.93 to 0.97, and what 600 data sets leave open"


def test_ordinary_data_are_not_a_coin() -> None:
    """199 items, rate 55%, no effect of length: a penalty on θ made half of these exactly one half."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = drawn(rng, 199, 0.55, 0.0, 0.0)
        found = length_controlled(rows, "minimal")
        assert found.rate.value == pytest.approx(np.mean([o.win for o in rows]), abs=0.01)
        assert low(found) < found.rate.value < high(found)


def test_one_sided_data() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(-1800, 1800, 20).tolist()
    won, all_but_one, half_tied = (
        length_controlled(rows_of(w, lengths), "minimal") for w in ([1.0] * 20, [0.0] + [1.0] * 19, [1.0, 0.5] * 10)
    )
    assert won.rate.value == 1
    assert 0.8 < low(won) < 0.84, "Wilson's for 20 of 20 is 83.9; that length could hide something costs a little"
    assert 0.9 < all_but_one.rate.value < 1
    assert half_tied.rate.value == pytest.approx(0.75, abs=0.02)
    assert low(half_tied) < 0.75 < high(half_tied)


VERDICTS = st.sampled_from([0.0, 0.5, 1.0, 1 - 2**-53, 1e-300, 1 - 1e-9]) | st.floats(0, 1)


@given(st.lists(st.tuples(VERDICTS, st.integers(-2000, 4000)), min_size=20, max_size=60), st.sampled_from([1, 2, 5]))
@settings(deadline=None)
def test_no_data_beat_all_wins_and_no_interval_is_a_point(pairs: list[tuple[float, int]], size: int) -> None:
    wins, lengths = [w for w, _ in pairs], [d for _, d in pairs]
    assume(len(set(lengths)) > 1)
    rows = [replace(o, cluster=str(i // size)) for i, o in enumerate(rows_of(wins, lengths))]
    best, found, worst = (
        length_controlled([replace(o, win=w) for o, w in zip(rows, given, strict=True)], "minimal")
        for given in ([1.0] * len(rows), wins, [0.0] * len(rows))
    )
    assert worst.rate.value == 0 <= found.rate.value <= 1 == best.rate.value
    assert found.rate.value < 1 or min(wins) > 1 - 1e-9
    for one in (best, found, worst):
        assert 0 <= low(one) <= one.rate.value <= high(one) <= 1
        assert low(one) < high(one)
    mirrored = [Outcome(o.item, 1 - (o.win or 0), o.theirs, o.ours, o.cluster) for o in rows]
    assert length_controlled(mirrored, "minimal").rate.value == pytest.approx(1 - found.rate.value, abs=1e-6)


@given(st.lists(VERDICTS, min_size=20, max_size=40), st.integers(0, 39), st.floats(0, 1), st.randoms())
@settings(deadline=None)
def test_where_lengths_balance_a_better_verdict_is_no_worse(
    wins: list[float], place: int, better: float, order: random.Random
) -> None:
    """Each length difference occurs with both signs and the same verdict; then length tells nothing, and the rate is
    one function of the sum of the wins."""
    assume(place < len(wins))
    sizes = [order.randint(1, 2000) for _ in wins]
    lengths = [*sizes, *(-d for d in sizes)]
    improved = [max(w, better) if i == place else w for i, w in enumerate(wins)]
    before, after = (length_controlled(rows_of([*w, *w], lengths), "minimal").rate.value for w in (wins, improved))
    assert after >= before - 1e-9


def test_a_fit_that_predicts_nothing_says_so() -> None:
    rng = np.random.default_rng(3)
    coin = length_controlled(rows_of([0.0, 1.0] * 50, rng.integers(-900, 900, 100).tolist()), "minimal")
    plain = length_controlled(rows_of([0.0, 1.0, 1.0, 1.0] * 50, rng.integers(-900, 900, 200).tolist()), "minimal")
    telling = length_controlled(drawn(rng, 300, 0.5, 3.0, 0.0), "minimal")
    assert coin.saved is not None
    assert coin.saved <= 0
    assert plain.saved is not None
    assert plain.saved_by_length is not None
    assert plain.saved > 0 >= plain.saved_by_length
    assert telling.saved_by_length is not None
    assert telling.saved_by_length > 0.1


def test_one_cluster_has_a_rate_and_no_interval() -> None:
    rows = [replace(o, cluster="video") for o in drawn(np.random.default_rng(1), 40, 0.6, 0.0, 0.0)]
    found = length_controlled(rows, "minimal")
    assert (found.rate.low, found.rate.high, found.saved) == (None, None, None)
    assert 0.3 < found.rate.value < 0.9


def invented(rng: random.Random, n: int, by_length: bool) -> list[Outcome]:
    """Answers of which ours are usually longer, small differences being balanced; the judge goes by length, or tosses
    a coin with P = 0.7."""
    made: list[Outcome] = []
    for i in range(n):
        theirs = rng.randint(300, 800)
        small = rng.randint(1, 100) * (1 if i % 2 else -1)
        ours = theirs + (small if i % 5 < 2 else rng.randint(100, 300))
        win = float(ours > theirs) if by_length else float(rng.random() < 0.7)
        made.append(Outcome(f"q{i}", win, ours, theirs, f"q{i}"))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_judge_that_goes_by_length_is_seen_through(seed: int) -> None:
    rows = invented(random.Random(seed), 400, by_length=True)
    assert np.mean([o.win for o in rows]) > 0.75
    found = length_controlled(rows, "minimal", resamples=50)
    assert found.rate.value == pytest.approx(0.5, abs=0.03)
    assert low(found) <= 0.5 <= high(found)


def test_a_judge_that_does_not_is_left_alone() -> None:
    rows = invented(random.Random(2), 800, by_length=False)
    raw = np.mean([o.win for o in rows])
    found = length_controlled(rows, "minimal", resamples=50)
    assert found.rate.value == pytest.approx(raw, abs=0.04)


def test_swapping_the_systems_mirrors_the_rate() -> None:
    rows = [o for o in invented(random.Random(3), 200, by_length=False) if o.win is not None]
    mirrored = [Outcome(o.item, 1 - (o.win or 0), o.theirs, o.ours, o.cluster) for o in rows]
    rates = [length_controlled(r, "minimal", resamples=2).rate.value for r in (rows, mirrored)]
    assert sum(rates) == pytest.approx(1, abs=1e-6)


def test_clusters_widen_the_interval() -> None:
    rng = random.Random(4)
    rows: list[Outcome] = []
    for cluster in range(40):
        win = float(rng.random() < 0.6)  # one image decides all of its ten questions
        rows += [Outcome(f"{cluster}-{i}", win, rng.randint(90, 200), 150, f"{cluster}") for i in range(10)]
    alone = [Outcome(o.item, o.win, o.ours, o.theirs, o.item) for o in rows]
    wide, narrow = (length_controlled(r, "minimal") for r in (rows, alone))
    assert wide.rate.value == narrow.rate.value
    assert high(wide) - low(wide) > 2 * (high(narrow) - low(narrow))


def test_unread_duels_take_no_part_but_keep_draws_together() -> None:
    rows = invented(random.Random(5), 100, by_length=False)
    lost = [Outcome(o.item, None if i % 10 == 0 else o.win, o.ours, o.theirs, o.item) for i, o in enumerate(rows)]
    read = [o for o in lost if o.win is not None]
    found, without = (length_controlled(r, "minimal", resamples=20) for r in (lost, read))
    assert (found.rate.value, found.rate.n) == (without.rate.value, 90)
    assert len(found.draws) == len(length_controlled(rows, "minimal", resamples=20).draws)


@pytest.mark.parametrize(
    ("rows", "variant", "reason"),
    [
        ([Outcome(str(i), 1.0, 10, 10, str(i)) for i in range(50)], "minimal", "equal length"),
        ([Outcome(str(i), 1.0, 15, 10, str(i)) for i in range(50)], "minimal", "differ by the same length"),
        ([Outcome(str(i), 1.0, 10 + i, 10, str(i)) for i in range(19)], "minimal", "19 items are too few"),
        ([Outcome(str(i), 1.0, 10 + i, 10, str(i)) for i in range(50)], "v1", "v1 needs a calibration file"),
        ([], "minimal", "0 items are too few"),
    ],
)
def test_what_cannot_be_controlled_is_refused_with_the_reason(rows: list[Outcome], variant: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        length_controlled(rows, variant)


def test_a_calibration_must_know_the_items(tmp_path: Path) -> None:
    rows = [Outcome(str(i), i % 2, 10 + i, 10, str(i)) for i in range(30)]
    (tmp_path / "c.json").write_text(json.dumps({"instruction_difficulty": [0.1] * 29}))
    known = read_calibration(tmp_path / "c.json")
    with pytest.raises(Refused, match="knows nothing of 1 items, the first is '29'"):
        length_controlled(rows, "noreg", known)
    with pytest.raises(Refused, match="`gamed` rows"):
        length_controlled(rows[:29], "v1", known)
    with_difficulty = length_controlled(rows[:29], "noreg", known, resamples=2)
    assert with_difficulty.rate.n == 29


@pytest.mark.parametrize(
    "text", ["", "[]", '{"instruction_difficulty": 3}', '{"instruction_difficulty": [1], "gamed": {"x": {}}}']
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=r"c\.json is not a calibration file"):
        read_calibration(tmp_path / "c.json")


# ----------------------------------------------------------------------------------------------------------------
# equalised answers


def sentences(rng: random.Random, count: int) -> str:
    return " ".join(" ".join(["word"] * rng.randint(3, 9)).capitalize() + "." for _ in range(count))


def test_the_simulation_of_coverage_knows_the_truth() -> None:
    setting = b6_coverage.SETTINGS[2]
    rates = [b6_coverage.marginal(0.4, setting, with_length=given) for given in (True, False)]
    rng = np.random.default_rng(0)
    gaps, hard = rng.normal(setting.longer, 1, 400_000), rng.normal(size=400_000)
    for rate, phi in zip(rates, (setting.length, 0.0), strict=True):
        p = 1 / (1 + np.exp(-(0.4 + phi * np.tanh(gaps) + setting.difficulty * hard)))
        assert rate == pytest.approx(p.mean(), abs=1e-3)
    tallies = b6_coverage.cell(30, b6_coverage.SETTINGS[4], 0.5, sets=5, seed=0)
    assert {name: len(t.errors) for name, t in tallies.items()} == dict.fromkeys(b6_coverage.COLUMNS, 5)


@pytest.mark.parametrize("alias", ["CFCW", "PBFG", "CountProb", "Geometry", "A-OKVQA-MC", "A-OKVQA-RG"])
def test_the_tasks_of_the_paper_are_equalised(alias: str) -> None:
    assert load_task(alias).config.equalise


def test_lengths_become_comparable_at_sentences() -> None:
    rng = random.Random(6)
    hows: set[str] = set()
    for _ in range(500):
        ours, theirs = sentences(rng, rng.randint(1, 12)), sentences(rng, rng.randint(1, 12))
        found = equalise(ours, theirs, graded=False)
        hows.add(found.how)
        a, b = words(found.ours), words(found.theirs)
        assert max(a, b) <= FACTOR * min(a, b)
        assert ours.startswith(found.ours)
        assert theirs.startswith(found.theirs)
        if found.how == "one":
            assert found.theirs == theirs or found.ours == ours
        if found.how in ("one", "both"):
            assert found.ours.endswith(".")
            assert found.theirs.endswith(".")
        mirrored = equalise(theirs, ours, graded=False)
        assert (mirrored.ours, mirrored.theirs) == (found.theirs, found.ours)
    assert hows == {"unchanged", "one", "both", "inside"}


def test_neither_side_stays_the_longer_one() -> None:
    """A judge that goes by length must find nothing left to go by: ours were longer in nearly all."""
    rng = random.Random(8)
    raw, controlled = [], []
    for _ in range(2000):
        theirs, ours = sentences(rng, rng.randint(3, 9)), sentences(rng, rng.randint(8, 16))
        found = equalise(ours, theirs, graded=False)
        raw.append(np.sign(words(ours) - words(theirs)))
        controlled.append(np.sign(words(found.ours) - words(found.theirs)))
    assert 0.5 + np.mean(raw) / 2 > 0.75
    assert 0.5 + np.mean(controlled) / 2 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            r"First we add. Then we halve it all. So \boxed{\frac{1}{2}} it is. And more words follow here.",
            r"\boxed{\frac{1}{2}}",
        ),
        ("We add them up. We carry one over. #### 42\nThat was a long sum to do.", "#### 42"),
        ("We add them up at length. The final answer is 12. I checked it twice by hand.", "The final answer is 12."),
        ("We add them up at length. We carry one over. So there are twelve apples.", "So there are twelve apples."),
    ],
)
def test_the_final_answer_is_kept(text: str, kept: str) -> None:
    for short in ("It is 12 or so, perhaps.", "We get 3. That is all."):
        found = equalise(text, short, graded=True)
        assert kept in found.ours
        assert words(found.ours) < words(text)


@pytest.mark.parametrize(
    ("ours", "theirs", "how"),
    [
        ("", "", "unchanged"),
        ("", "two words", "empty"),
        ("one two three", "three two one", "unchanged"),
        ("我喜欢猫。我也喜欢狗。", "我喜欢鸟。", "one"),
        ("a b c d e f g h", "x y", "inside"),
        ("x " * 200_000, "short answer here", "inside"),
    ],
)
def test_edges(ours: str, theirs: str, how: str) -> None:
    found = equalise(ours, theirs, graded=False)
    assert found.how == how
    if how in ("unchanged", "empty"):
        assert (found.ours, found.theirs) == (ours, theirs)


def test_an_answer_longer_than_the_other_is_kept_nevertheless() -> None:
    found = equalise("Long talk first. The answer is the second of the two shops.", "12", graded=True)
    assert found.ours == "The answer is the second of the two shops."
