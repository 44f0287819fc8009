"""Boards: same inputs, same bytes; a file that is not one is refused by name; merging replaces and keeps."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mmpu.boards import (
    Board,
    Comparison,
    Entry,
    LengthModel,
    Origin,
    Provenance,
    System,
    WinRate,
    merge,
    merged,
    read,
    records,
    schema,
    write,
)
from mmpu.boards.tables import markdown
from mmpu.core import UserError
from mmpu.files import file_name as slug
from mmpu.judging import met, places, with_strengths
from mmpu.recipes.evaluation import EvalOptions, evaluate
from mmpu.statistics import Difference, Interval

HALF = Interval(0.5, 0.25, 0.75, 4)
BASE = System("base", "tiny", "0" * 16, None, None, None, "1" * 16)


def entry(name: str, rate: float = 0.5, **changes: Any) -> Entry:
    made = Entry(
        system=replace(BASE, name=name, method="sft", seed=3),
        baseline=BASE,
        split="test",
        n=4,
        win_rate=WinRate(Interval(rate, rate - 0.1, rate + 0.1, 4), 1, 1, 2, 0, 1),
        accuracy=HALF,
        mean_words=2.25,
        truncated=1,
        provenance=Provenance("t", "d", "rule:x", {"temperature": 1.0, "stop": []}, {"mmpu": "0.1.0"}, None),
        created="2026-01-01T00:00:00+00:00",
        length_controlled={"lc_glm.minimal": HALF},
    )
    return replace(made, **changes)


def board(*entries: Entry) -> Board:
    return Board("sums", "rule", "graded", entries)


def test_a_board_survives_the_trip_through_a_file(tmp_path: Path) -> None:
    whole = board(entry("größer"), entry("zz", accuracy=None, length_controlled={}))
    write(tmp_path / "b.json", whole)
    assert read(tmp_path / "b.json") == whole
    write(tmp_path / "again.json", read(tmp_path / "b.json"))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_what_is_told_sample_by_sample_stands_in_one_line(tmp_path: Path) -> None:
    name = "0123456789abcdef0123456789abcdef"  # as what takes the place of these lines while the file is made
    whole = board(entry(name, items={"b": 1.0, "a": 0.5, name: 0.0}, resampled={"a": name}))
    write(tmp_path / "b.json", whole)
    assert read(tmp_path / "b.json") == whole
    text = (tmp_path / "b.json").read_text()
    assert f'"items": {{"{name}": 0.0, "a": 0.5, "b": 1.0}},\n' in text
    assert f'"resampled": {{"a": "{name}"}},\n' in text


def test_boards_alone_tell_ranks_and_strengths() -> None:
    """Of entries that were made in two places, without the stores behind them."""
    prompts = [f"p{i}" for i in range(40)]
    good = entry("good", items={p: float(i % 4 > 0) for i, p in enumerate(prompts)})
    bad = entry("bad", items={p: float(i % 4 == 0) for i, p in enumerate(prompts)})
    theirs = entry("base", system=BASE, items=dict.fromkeys(prompts, 0.5))
    whole = with_strengths(merged([board(good, theirs), board(bad)]))
    (told,) = whole.strengths
    assert (told.split, told.baseline, told.judge_identity) == ("test", "base", "rule:x")
    assert told.systems["good"].value > 0.6 > 0.4 > told.systems["bad"].value
    (view,) = met(whole.entries)
    assert places(view.wins, view.baseline, view.clusters) == {"good": (1, 1), "base": (2, 2), "bad": (3, 3)}
    assert with_strengths(board(good)).strengths == ()  # two systems have a win rate, and no more


def test_where_a_system_comes_from_makes_it_no_other() -> None:
    known = replace(BASE, origin=Origin("org", "org/base", "0123abcd", "apache-2.0", 7))
    assert known == BASE
    (made,) = merge(board(entry("a")), [entry("a", system=replace(entry("a").system, origin=known.origin))]).entries
    assert made.system.origin.hub == "org/base"
    (record,) = records(board(made))
    assert (record["model_info"]["id"], record["model_info"]["developer"]) == ("org/base", "org")
    assert record["model_info"]["additional_details"]["license"] == "apache-2.0"


def test_the_order_of_entries_does_not_show(tmp_path: Path) -> None:
    a, b, c = entry("a"), entry("b"), entry("b", split="validation")
    write(tmp_path / "1.json", board(a, b, c))
    write(tmp_path / "2.json", board(c, a, b))
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_merge_replaces_the_same_key_and_keeps_the_others() -> None:
    cold = replace(entry("b").provenance, sampling={"temperature": 0.0, "stop": []})
    others = [
        entry("b", split="test[:2]"),
        entry("b", baseline=replace(BASE, name="other")),
        entry("b", system=replace(entry("b").system, seed=4)),
        entry("b", provenance=cold),
        entry("b", provenance=replace(cold, sampling=entry("b").provenance.sampling, judge_identity="rule:y")),
    ]
    old = board(entry("a"), entry("b"), *others)
    again = entry("b", 0.9, created="2027-01-01T00:00:00+00:00", system=replace(entry("b").system, outputs="new"))
    merged = merge(old, [again, entry("new")])
    assert merged.entries == (entry("a"), *others, again, entry("new"))
    assert merge(merged, []) == merged


def comparison(ours: str, theirs: str, **changes: Any) -> Comparison:
    made = Comparison(ours, theirs, "base", "test", "rule:x", "raw", Difference(0.1, 0.0, 0.2, 4, 0.04), 0.05, 0.08)
    return replace(made, **changes)


def test_comparisons_go_with_their_entries(tmp_path: Path) -> None:
    stale, kept, fresh = comparison("a", "b"), comparison("c", "d"), comparison("a", "c")
    elsewhere = comparison("a", "b", split="validation")
    old = replace(board(entry("a"), entry("b"), entry("c"), entry("d")), comparisons=(stale, kept, elsewhere))
    merged = merge(old, [entry("a", 0.9)], [fresh])
    assert merged.comparisons == (kept, elsewhere, fresh)
    write(tmp_path / "b.json", merged)
    assert set(read(tmp_path / "b.json").comparisons) == set(merged.comparisons)
    shown = markdown(merged)
    assert "* a − c, raw: +10.0 points [0.0, 20.0], p = 0.04 (Holm 0.08), n = 4" in shown
    assert "versions of the judge" not in shown
    other = entry("a", provenance=replace(entry("a").provenance, judge_identity="rule:y"))
    assert "Rows of 2 versions of the judge stand here together" in markdown(merge(merged, [other]))


def test_a_file_of_the_schema_before_is_read_and_written_anew(tmp_path: Path) -> None:
    values = plain(tmp_path / "b.json")
    del values["comparisons"]
    values["schema"] = 1
    (old,) = values["entries"]
    del values["strengths"], old["system"]["origin"], old["baseline"]["origin"]
    lengths = ("equalised", "length_models", "length_refused")
    for key in (*lengths, "audit", "clusters", "counts", "items", "resampled", "score"):
        del old[key]
    for key in ("soft", "weighting"):
        del old["win_rate"][key]
    del old["provenance"]["judge"]
    (tmp_path / "b.json").write_text(json.dumps(values))
    found = read(tmp_path / "b.json")
    assert (found.schema, found.entries) == (3, (entry("a"),))
    write(tmp_path / "b.json", found)
    assert json.loads((tmp_path / "b.json").read_text())["schema"] == 3


def plain(path: Path) -> dict[str, Any]:
    write(path, board(entry("a")))
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra"),
        ({"task": None}, "task: Input should be a valid string"),
        ({"entries": [{}]}, "entries.0."),
        ({"entries": {}}, "entries: Input should be a valid"),
        ({"schema": 99}, "has schema 99, this version reads 1, 2, 3"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({**plain(path), **change}))
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["system", "win_rate", "provenance", "n", "created"])
def test_an_entry_without_one_of_its_parts_is_refused(tmp_path: Path, key: str) -> None:
    values = plain(tmp_path / "b.json")
    del values["entries"][0][key]
    (tmp_path / "b.json").write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=rf"b\.json is not a leaderboard of schema 3: entries\.0\.{key}: Field required"
    ):
        read(tmp_path / "b.json")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]"])
def test_what_is_no_json_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "b.json").write_bytes(text)
    with pytest.raises(UserError, match=r"b\.json is not a leaderboard of schema 3: \w"):
        read(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"cannot read the leaderboard .*gone\.json"):
        read(tmp_path / "gone.json")


def test_nothing_that_is_no_number_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "b.json", board(entry("a", float("nan"))))
    assert not (tmp_path / "b.json").exists()


def test_the_schema_describes_what_is_written(tmp_path: Path) -> None:
    values, described = plain(tmp_path / "b.json"), schema()
    assert set(described["required"]) <= set(values) == set(described["properties"])
    assert set(values["entries"][0]) == set(described["$defs"]["Entry"]["properties"])


def test_markdown_ranks_and_shows_what_decided() -> None:
    text = markdown(board(entry("low", 0.2), entry("high|er", 0.8), entry("base", system=BASE, accuracy=None)))
    lines = text.splitlines()
    assert lines[0] == "**sums**, judge `rule`: graded. Brackets: 95% interval over prompts."
    assert lines[2] == "| system | accuracy % | win rate % | lc_glm.minimal % | W / L / T / unread | words | n |"
    assert lines[4:] == [
        r"| high\|er | 50.0 [25.0, 75.0] | 80.0 [70.0, 90.0] | 50.0 [25.0, 75.0] | 1 / 1 / 2 / 0 | 2.2 | 4 |",
        "| base | – | baseline | – | – | 2.2 | 4 |",
        "| low | 50.0 [25.0, 75.0] | 20.0 [10.0, 30.0] | 50.0 [25.0, 75.0] | 1 / 1 / 2 / 0 | 2.2 | 4 |",
    ]


def test_what_has_no_interval_or_tells_nothing_is_named(tmp_path: Path) -> None:
    whole = Interval(0.5, None, None, 20)
    model = LengthModel(None, -0.1, 0.0, 0.2, saved=0.1, saved_by_length=-0.001)
    coin = replace(model, saved=-0.001)
    one = entry("a", accuracy=whole, win_rate=WinRate(whole, 1, 1, 2, 0, 1), length_models={"lc_glm.minimal": model})
    gap = comparison("a", "b", difference=Difference(0.1, None, None, 20, 1.0))
    shown = replace(board(one, entry("b", length_models={"lc_glm.minimal": coin})), comparisons=(gap,))
    write(tmp_path / "b.json", shown)
    assert read(tmp_path / "b.json") == shown
    text = markdown(shown)
    assert "| a | 50.0 [–] | 50.0 [–] |" in text
    assert "* [–]: no interval, since all prompts are of one cluster" in text
    assert "* a, lc_glm.minimal: with length it predicts no better than the win rate alone" in text
    assert "* b, lc_glm.minimal: the fit predicts no better than a coin." in text
    assert "+10.0 points [–], p = 1" in text
    assert "[–]" not in markdown(board(entry("a")))


def test_a_row_says_whom_it_met_where_that_differs() -> None:
    other = replace(BASE, name="other")
    both = board(entry("a", 0.4), entry("a", 0.7, baseline=other), entry("other", baseline=other, system=other))
    worse = comparison("a", "b", difference=Difference(-0.1, -0.2, 0.0, 4, 0.04))
    lines = markdown(replace(both, comparisons=(worse, replace(worse, baseline="other")))).splitlines()
    assert lines[2].startswith("| system | against | accuracy % |")
    assert [line.split(" | ")[:2] for line in lines[4:7]] == [["| a", "base"], ["| a", "other"], ["| other", "–"]]
    assert lines[8:] == [
        "* b − a, raw: +10.0 points [0.0, 20.0], p = 0.04 (Holm 0.08), n = 4, both against base",
        "* b − a, raw: +10.0 points [0.0, 20.0], p = 0.04 (Holm 0.08), n = 4, both against other",
    ]


def test_a_row_says_on_what_where_that_differs() -> None:
    both = board(entry("a"), entry("a", split="test[:2]"))
    lines = markdown(replace(both, comparisons=(comparison("a", "b", split="test[:2]"),))).splitlines()
    assert lines[2].startswith("| system | split | accuracy % |")
    assert [line.split(" | ")[1] for line in lines[4:6]] == ["test", "test[:2]"]
    assert lines[-1].endswith("n = 4, on test[:2]")


def test_what_several_answers_are_worth_has_columns() -> None:
    metrics = {"pass@2": Interval(0.75, 0.5, 1.0, 4), "avg@2": HALF}
    lines = markdown(board(entry("a", metrics=metrics), entry("b"))).splitlines()
    assert lines[2].startswith("| system | accuracy % | avg@2 % | pass@2 % | win rate % |")
    assert "| a | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] | 75.0 [50.0, 100.0] | 50.0 [40.0, 60.0] |" in lines[4]
    assert "| b | 50.0 [25.0, 75.0] | – | – | 50.0 [40.0, 60.0] |" in lines[5]


# -----------------------------------------------------------------------------------------------------------------
# from answers to a board


@pytest.fixture
def options(tmp_path: Path) -> EvalOptions:
    """Three prompts; `good` gets two right, `bad` one."""

    def answers(name: str, *texts: str) -> str:
        rows = [{"id": f"test-{i}", "output": text} for i, text in enumerate(texts, 1)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    (tmp_path / "rows.json").write_text(json.dumps([{"q": f"{i}+1?", "a": str(i + 1)} for i in range(3)]))
    (tmp_path / "sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nsource: rows.json\ngrader: number\n'
    )
    good, bad = answers("good.jsonl", "It is 1.", "2", "9"), answers("bad.jsonl", "1", "7 or so", "No")
    return EvalOptions(
        (f"good/er={good}",), str(tmp_path / "sums.yaml"), "rule", f"bad={bad}", folder=str(tmp_path / "boards")
    )


def test_the_same_inputs_give_the_same_bytes_but_for_created(options: EvalOptions, tmp_path: Path) -> None:
    evaluate(options)
    evaluate(replace(options, folder=str(tmp_path / "again")))
    evaluate(options)  # and once more on top of itself
    texts = [(tmp_path / folder / "sums.rule.json").read_text() for folder in ("boards", "again")]
    without = [[line for line in text.splitlines() if '"created"' not in line] for text in texts]
    assert without[0] == without[1]
    assert len(read(tmp_path / "boards/sums.rule.json").entries) == 2


def test_an_evaluation_counts_right(options: EvalOptions, tmp_path: Path) -> None:
    bad, good = sorted(evaluate(options).entries, key=lambda e: e.system.name)
    assert read(tmp_path / "boards/sums.rule.json").entries == (bad, good)
    assert (good.win_rate.wins, good.win_rate.losses, good.win_rate.ties, good.win_rate.unread) == (1, 0, 2, 0)
    assert good.win_rate.rate.value == pytest.approx(2 / 3)
    assert good.accuracy is not None
    assert good.accuracy.value == pytest.approx(2 / 3)
    assert good.mean_words == pytest.approx(5 / 3)
    assert (good.n, good.split, good.truncated, good.baseline) == (3, "test", 0, bad.system)
    assert (bad.win_rate.rate.value, bad.win_rate.ties) == (0.5, 3)
    outputs = (tmp_path / "boards/sums.test" / f"{slug('good/er')}.outputs.jsonl").read_text().splitlines()
    assert [json.loads(line)["output"] for line in outputs] == ["It is 1.", "2", "9"]
    verdicts = (tmp_path / "boards/sums.rule" / f"{slug('good/er')}.verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line)["win"] for line in verdicts] == [0.5, 1.0, 0.5]
    assert good.items == {"test-1": 0.5, "test-2": 1.0, "test-3": 0.5}


def test_other_answers_other_hashes(options: EvalOptions, tmp_path: Path) -> None:
    before = evaluate(options)
    (tmp_path / "good.jsonl").write_text((tmp_path / "good.jsonl").read_text().replace("9", "3"))
    after = evaluate(options)
    old, new = (next(e for e in b.entries if e.system.name == "good/er") for b in (before, after))
    assert new.system.weights != old.system.weights
    assert new.system.outputs != old.system.outputs
    assert new.win_rate.rate.value > old.win_rate.rate.value
    assert asdict(new.provenance) == asdict(old.provenance)
    assert len(after.entries) == 2


def test_a_limit_is_another_split(options: EvalOptions) -> None:
    evaluate(options)
    board = evaluate(replace(options, limit=2))
    assert sorted((e.split, e.n) for e in board.entries) == [("test", 3), ("test", 3), ("test[:2]", 2), ("test[:2]", 2)]


def test_an_unanswered_prompt_stops_an_evaluation(options: EvalOptions, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "test-1", "output": "1"}\n')
    with pytest.raises(
        UserError,
        match=r"bad left 2 of 3 prompts unanswered, more than 2% \(--max-missing\); first, 'test-2': .* has no answer",
    ):
        evaluate(options)
    assert not (tmp_path / "boards/sums.rule.json").exists()


def test_a_broken_board_is_noticed_before_anything_is_asked(options: EvalOptions, tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards/sums.rule.json").write_text("{}")
    with pytest.raises(UserError, match="is not a leaderboard"):
        evaluate(options)
    assert [p.name for p in (tmp_path / "boards").iterdir()] == ["sums.rule.json"]


def test_boards_of_one_task_and_judge_become_one() -> None:
    early, late = entry("a", 0.4), entry("a", 0.6, created="2026-02-01T00:00:00+00:00")
    gap = Difference(0.1, 0.0, 0.2, 0.01, 4)
    old = Comparison("a", "b", "base", "test", "rule:x", "raw", gap, None, 0.01)
    one = replace(board(early, entry("b")), comparisons=(old,))
    both = merged([board(late), one])
    assert {(e.system.name, e.win_rate.rate.value) for e in both.entries} == {("a", 0.6), ("b", 0.5)}
    assert both.comparisons == (), "a comparison of the earlier a is none of the later one"
    assert merged([one, board(entry("c"))]).comparisons == (old,)
    with pytest.raises(UserError, match="boards of one task and judge can be merged"):
        merged([one, replace(one, judge="other")])
