"""Avg@k, maj@k and pass@k of several answers to a prompt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpu.boards import read
from mmpu.boards.tables import markdown
from mmpu.core import Grader, Response, Sample, user
from mmpu.evaluation.answers import answers_of
from mmpu.evaluation.clusters import clusters_of
from mmpu.evaluation.metrics import by_sample, intervals, pass_at
from mmpu.graders.final_answer import FinalAnswer
from mmpu.graders.ifeval import IfEval
from mmpu.graders.number import Number
from mmpu.judging.archive import recompute
from mmpu.recipes import evaluation as assess
from mmpu.statistics import Interval, paired


def over_attempts(
    grader: Grader, samples: Sequence[Sample], answers: Sequence[Sequence[Response]]
) -> dict[str, Interval]:
    return intervals(by_sample(grader, samples, answers), clusters_of(samples))


def values(grader: Grader, gold: list[str], answers: list[list[str]]) -> dict[str, float]:
    samples = [Sample(str(i), user("?"), answer=g) for i, g in enumerate(gold)]
    found = over_attempts(grader, samples, [[Response(text) for text in each] for each in answers])
    return {name: interval.value for name, interval in found.items()}


def test_three_metrics_of_three_answers() -> None:
    found = values(Number(), ["1", "2"], [["1", "1", "5"], ["5", "7", "2"]])
    assert found == pytest.approx({"avg@3": (2 / 3 + 1 / 3) / 2, "pass@3": 1, "maj@3": 0.5})


@pytest.mark.parametrize(
    ("answers", "majority"),
    [
        (["#### 1", "so 1.0", "2"], 1),
        (["2", "1"], 0),
        (["1", "2"], 1),
        (["none", "nothing", "1"], 1),
        (["none", "nothing"], 0),
    ],
)
def test_the_majority_counts_equal_answers_and_no_missing_ones(answers: list[str], majority: float) -> None:
    assert values(Number(), ["1"], [answers])[f"maj@{len(answers)}"] == majority


def test_words_vote_too_and_a_grader_without_keys_has_no_majority() -> None:
    found = values(FinalAnswer(), ["blue"], [["It is blue.", "The answer is: It is blue.", "red"]])
    assert found["avg@3"] == pytest.approx(2 / 3)
    assert found["maj@3"] == 1
    assert IfEval.key is Grader.key


def test_samples_that_cannot_be_graded_are_left_out() -> None:
    assert values(Number(), ["1", "no number"], [["1", "1"], ["1", "1"]])["avg@2"] == 1


def test_questions_of_one_cluster_count_as_one_and_systems_are_paired_by_prompt() -> None:
    samples = [Sample(str(i), user("?"), answer="1", meta={"cluster": f"video {i // 10}"}) for i in range(20)]
    ours = [[Response("1" if i < 10 else "2"), Response("1" if i < 13 else "2")] for i in range(20)]
    apart = [replace(sample, meta={}) for sample in samples]
    wide, narrow = (over_attempts(Number(), s, ours)["avg@2"] for s in (samples, apart))
    assert wide.value == narrow.value == pytest.approx(23 / 40)
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low < narrow.value
    one = over_attempts(Number(), samples[:10], ours[:10])["avg@2"]
    assert (one.value, one.low, one.high) == (1, None, None)
    theirs = [[Response("1" if i < 10 else "2"), Response("2")] for i in range(20)]
    a, b = (by_sample(Number(), apart, answers)["avg@2"] for answers in (ours, theirs))
    gap = paired([a[s] for s in a], [b[s] for s in a])
    assert gap.value == pytest.approx(13 / 40)
    assert gap.low is not None
    assert 0 < gap.low < gap.value


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations(range(n), k))
    assert pass_at(k, n, right) == pytest.approx(sum(min(d) < right for d in draws) / len(draws))


def test_an_evaluation_of_several_attempts_publishes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text('[{"q": "1+1?", "a": "2"}, {"q": "1+2?", "a": "3"}]')
    Path("sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nreference: "{{ a }}"\nsource: rows.json\ngrader: number\n'
        "attempts: 3\njudge: rule\nbaseline: reference\n"
    )
    answers = {"test-1": ["2", "2", "5"], "test-2": ["4", "4", "3"]}
    Path("ours.jsonl").write_text("".join(json.dumps({"id": i, "output": o}) + "\n" for i, o in answers.items()))
    assess.evaluate(assess.EvalOptions(("ours=ours.jsonl",), "sums.yaml"))
    ours, theirs = sorted(read(Path("leaderboards/sums.rule.json")).entries, key=lambda e: e.system.name)
    assert {name: m.value for name, m in ours.metrics.items()} == {"avg@3": 0.5, "pass@3": 1, "maj@3": 0.5}
    assert (ours.accuracy.value if ours.accuracy else None) == 0.5, "the first answer is the one that is judged"
    assert theirs.system.model == "reference"
    assert {m.value for m in theirs.metrics.values()} == {1}
    rows = [json.loads(line) for line in Path("leaderboards/sums.test/ours.outputs.jsonl").read_text().splitlines()]
    assert {row["id"]: row["output"] for row in rows} == answers
    ((board, _),) = recompute(Path("leaderboards/verdicts.sqlite"), None, None, None, 0.02)
    again = {entry.system.name: entry.metrics for entry in board.entries}
    assert again == {ours.system.name: ours.metrics, theirs.system.name: theirs.metrics}, "they stand in the store too"
    read_back = answers_of(ours.system, Path("leaderboards/sums.test"))
    assert read_back == {"test-1": "2", "test-2": "4"}, "those that were judged"


def test_differences_of_several_answers_are_paired(tmp_path: Path) -> None:
    """Prompt by prompt, with the baseline too; a store's matches give the same."""
    rows = [{"q": f"{i}+1?", "a": str(i + 1)} for i in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nsource: rows.json\ngrader: number\nattempts: 2\n'
    )

    def system(name: str, right: list[int]) -> str:
        outputs = [[str(i + 1)] * n + ["no"] * (2 - n) for i, n in enumerate(right)]
        lines = [json.dumps({"id": f"test-{i}", "output": o}) + "\n" for i, o in enumerate(outputs, 1)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return f"{name}={tmp_path / name}.jsonl"

    some, more, base = (
        system("some", [0, 1, 1, 1, 2, 0]),
        system("more", [1, 2, 2, 1, 2, 1]),
        system("base", [0] * 5 + [1]),
    )
    options = assess.EvalOptions(
        (some, more), str(tmp_path / "sums.yaml"), "rule", base, folder=str(tmp_path / "boards")
    )
    board = assess.evaluate(options)
    found = {(c.ours, c.theirs): c for c in board.comparisons if c.metric == "avg@2"}
    assert {pair: c.difference.value for pair, c in found.items()} == pytest.approx(
        {("some", "more"): -4 / 12, ("some", "base"): 4 / 12, ("more", "base"): 8 / 12}
    )
    assert {c.difference.n for c in found.values()} == {6}
    assert {c.metric for c in board.comparisons} >= {"avg@2", "pass@2", "maj@2", "raw"}
    assert all({c.ours, c.theirs} == {"some", "more"} for c in board.comparisons if c.metric == "raw")
    assert "* more − some, avg@2: +33.3 points [" in markdown(board)
    ((again, _),) = recompute(tmp_path / "boards/verdicts.sqlite", None, None, None, 0.02)
    assert {c for c in again.comparisons if "@" in c.metric} == {c for c in board.comparisons if "@" in c.metric}


def test_a_prompt_without_answers_counts_as_missing_not_as_wrong(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"q": "1+1?", "a": "2"}, {"q": "1+2?", "a": "3"}]')
    (tmp_path / "sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nreference: "{{ a }}"\nsource: rows.json\ngrader: number\n'
        "attempts: 2\njudge: rule\nbaseline: reference\n"
    )
    (tmp_path / "ours.jsonl").write_text('{"id": "test-1", "output": ["2", "5"]}\n{"id": "test-2", "output": ["3"]}\n')
    options = assess.EvalOptions(
        (f"ours={tmp_path / 'ours.jsonl'}",),
        str(tmp_path / "sums.yaml"),
        folder=str(tmp_path),
        judging=assess.JudgingOptions(max_missing=0.5),
    )
    ours, _ = sorted(assess.evaluate(options).entries, key=lambda e: e.system.name)
    assert {name: m.value for name, m in ours.metrics.items()} == {"avg@2": 0.5, "pass@2": 1, "maj@2": 1}
    assert (ours.n, ours.counts["ours.missing"]) == (1, 1)


def test_a_dry_run_asks_lm_eval_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.json").write_text('[{"q": "1+1?", "a": "2"}]')
    (tmp_path / "sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nreference: "{{ a }}"\nsource: rows.json\ngrader: number\n'
        "judge: rule\nbaseline: reference\n"
    )
    asked: list[object] = []
    monkeypatch.setattr(assess, "_lm_eval", lambda *given: asked.append(given) or {"reference": {"results": {}}})
    options = assess.EvalOptions(
        ("reference",), str(tmp_path / "sums.yaml"), folder=str(tmp_path / "out"), lm_eval=("gsm8k",)
    )
    assess.estimate(options)
    assert not asked
    (entry,) = assess.evaluate(options).entries
    assert len(asked) == 1
    assert entry.lm_eval == {"results": {}}
