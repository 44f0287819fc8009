"""A judge that marks answers one by one is paid once for each, whichever systems gave it and whenever they come."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import apart
from endpoint import Endpoint, Reply, error, question, said
from mmpu.boards import Entry, read
from mmpu.cli.main import main
from mmpu.core import Sample
from mmpu.duel import Duel, Verdict
from mmpu.judges.scalar import Scalar
from mmpu.judging.archive import export_verdicts, import_verdicts, recompute
from mmpu.judging.match import Asked, Match, match_of
from mmpu.judging.run import ask, questions
from mmpu.judging.verdicts import Verdicts, key_of, reading_of
from mmpu.task.yaml_task import load_task

ROOT = Path(__file__).parent.parent
MARKS = str(ROOT / "judges/marks.txt")
N = 40
STORE = Path("boards/verdicts.sqlite")


@dataclass
class Marker:
    """Behind an endpoint: an answer is worth its number of words. Counts the marks it gave; fails where told."""

    given: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    failing: Callable[[str], bool] = lambda _: False

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        about, answer = (
            found[1] if (found := re.search(rf"<{tag}>\n(.*?)\n</{tag}>", question(body), re.S)) else ""
            for tag in ("question", "response")
        )
        if self.failing(answer):
            return error(422, "not this one")
        self.given[about, answer] += 1
        return said(str(min(10, len(answer.split()))))


@pytest.fixture
def marker(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marker:
    """A folder to work in, with a task, a judge that marks, and the answers of three systems and a baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmpu.judging.measure.RESAMPLES", 20)
    write_all(tmp_path, endpoint.url, N)
    endpoint.answer = found = Marker()
    return found


def write_all(folder: Path, url: str, count: int) -> None:
    (folder / "rows.json").write_text(json.dumps([{"q": f"Question {i}?"} for i in range(count)]))
    (folder / "talk.yaml").write_text('prompt: [{user: "{{ q }}"}]\nsource: rows.json\nreference: "Two words."\n')
    engine = f"{{name: openai, model: tiny, url: {url!r}, retries: 0, concurrency: 8}}"
    (folder / "marks.yaml").write_text(
        f"about: M.\nkind: scalar\nprompt: {MARKS}\nengine: {engine}\nprices: {{input: 1000000, output: 0}}\n"
    )
    answers: dict[str, Callable[[int], str]] = {
        "base": lambda i: "one two three",
        "long": lambda i: f"one two three four {i}",
        "short": lambda i: f"one {i}",
        "mixed": lambda i: f" one {i}\n" if i % 2 else f"something new {i}",
    }
    for name, text in answers.items():
        rows = [{"id": f"test-{i}", "output": text(i)} for i in range(1, count + 1)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def arguments(*systems: str, baseline: str = "base", probes: int = 0) -> list[str]:
    named = [f"{name}={name}.jsonl" for name in systems]
    judged = ["--baseline", f"{baseline}={baseline}.jsonl", "--task", "talk.yaml", "--judge", "marks.yaml"]
    return ["eval", *named, *judged, "--out", "boards", "--probes", str(probes)]


def mmpu(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def evaluate(*systems: str, options: Sequence[str] = (), **keys: Any) -> Result:
    done = mmpu(*arguments(*systems, **keys), *options)
    assert done.exit_code == 0, done.output
    return done


def calls_foretold(*systems: str, options: Sequence[str] = (), **keys: Any) -> int:
    done = evaluate(*systems, options=[*options, "--dry-run"], **keys)
    found = re.search(r"^calls +(\d+)$", done.output, re.M)
    assert found, done.output
    return int(found[1])


def entries() -> dict[str, Entry]:
    return {e.system.name: e for e in read(Path("boards/talk.marks.json")).entries}


def test_each_answer_is_marked_once_ever(marker: Marker, endpoint: Endpoint) -> None:
    """Systems come one by one; of the third, every other answer is the second's but for white space."""
    for name, new in (("long", 2 * N), ("short", N), ("mixed", N // 2), ("long", 0)):
        before = len(endpoint.bodies)
        assert calls_foretold(name) == new
        assert len(endpoint.bodies) == before
        evaluate(name)
        assert len(endpoint.bodies) - before == new
    assert set(marker.given.values()) == {1}
    rates = {name: entry.win_rate.rate.value for name, entry in entries().items()}
    assert rates == {"base": 0.5, "long": 1.0, "short": 0.0, "mixed": 0.25}
    assert entries()["short"].score is not None
    evaluate("base", "short", baseline="long")
    evaluate("short", "mixed")
    assert len(endpoint.bodies) == 3 * N + N // 2
    ((board, rankings),) = recompute(STORE, None, None, None, 0.02)
    published = read(Path("boards/talk.marks.json"))
    again, first = (
        {(e.system.name, e.baseline.name): e.win_rate for e in found.entries} for found in (board, published)
    )
    assert again == first
    assert len(again) == 7
    assert rankings


def test_answers_that_must_lose_meet_marks_that_are_there(marker: Marker, endpoint: Endpoint) -> None:
    evaluate("long")
    assert calls_foretold("long", probes=5) == 4 * 5
    evaluate("long", probes=5)
    assert len(endpoint.bodies) == 2 * N + 4 * 5
    audit = entries()["long"].audit
    assert audit is not None
    assert audit.adversarial["empty"].lost == audit.adversarial["empty"].n == 5
    assert calls_foretold("short", probes=5) == N, "the traps met this baseline before"


def test_only_failed_marks_are_asked_again(marker: Marker, endpoint: Endpoint) -> None:
    marker.failing = lambda answer: answer.endswith(" 7")
    done = mmpu(*arguments("long", "short"))
    assert done.exit_code == 2
    assert "1 of 40 duels could not be read, more than 2%" in done.stderr
    assert "HTTP 422: not this one" in done.stderr
    assert calls_foretold("long", "short") == 2
    marker.failing = lambda _: False
    before = len(endpoint.bodies)
    evaluate("long", "short")
    assert len(endpoint.bodies) - before == 2
    assert set(marker.given.values()) == {1}
    assert sum(r.win is None for r in Verdicts(STORE).all()) == 2, "nothing is overwritten"


def test_a_budget_stops_at_the_call_and_the_estimate_says_what_is_left(marker: Marker, endpoint: Endpoint) -> None:
    for spent in (30, 60):
        done = mmpu(*arguments("long", "short"), "--max-calls", "30")
        assert done.exit_code == 2
        assert f"stopped after 30 readings, as told; {3 * N - spent} are missing, nothing was published" in done.stderr
        assert len(endpoint.bodies) == spent
        assert calls_foretold("long", "short") == 3 * N - spent
    cost = re.search(r"cost +([\d.]+) USD", evaluate("long", "short", options=["--dry-run"]).output)
    assert cost
    done = mmpu(*arguments("long", "short"), "--max-cost", str(float(cost[1]) / 2 + 0.01))
    assert "stopped after 30 readings" in done.stderr
    assert len(endpoint.bodies) == 90
    evaluate("long", "short")
    assert len(endpoint.bodies) == 3 * N
    assert set(marker.given.values()) == {1}


def test_progress_counts_marks(marker: Marker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpu.cli.judge.QUIET_SECONDS", 0.0)
    done = evaluate("long", "short")
    assert re.search(rf"^\d+/{3 * N} readings, \d+\.\d/s, 0 unread, \d+ s to go$", done.stderr, re.M), done.stderr
    assert re.search(rf"^{3 * N}/{3 * N} readings, \d+\.\d/s, 0 unread$", done.stderr, re.M), done.stderr


def test_rejudging_marks_each_answer_anew_once(marker: Marker, endpoint: Endpoint) -> None:
    evaluate("long")
    assert calls_foretold("long", "short", options=["--rejudge"]) == 3 * N
    evaluate("long", "short", options=["--rejudge"])
    assert len(endpoint.bodies) == 5 * N
    assert len(list(Verdicts(STORE).all())) == 5 * N
    evaluate("long", "short", options=["--rejudge"])
    assert len(endpoint.bodies) == 8 * N, "one that was ended begins anew"


def test_a_rejudging_that_was_stopped_goes_on(marker: Marker, endpoint: Endpoint) -> None:
    evaluate("long")
    marker.given.clear()
    anew = ["--rejudge", "--max-calls", "50"]
    done = mmpu(*arguments("long"), *anew)
    assert "stopped after 50 readings, as told; 30 are missing" in done.stderr
    assert calls_foretold("long", options=["--rejudge"]) == 30
    evaluate("long", options=anew)
    assert len(endpoint.bodies) == 4 * N
    assert set(marker.given.values()) == {1}
    assert calls_foretold("long", options=["--rejudge"]) == 2 * N


def test_marks_go_out_and_in(marker: Marker, endpoint: Endpoint, tmp_path: Path) -> None:
    evaluate("long")
    assert export_verdicts(STORE, tmp_path / "all.jsonl") == (2 * N, 2)
    asked = len(endpoint.bodies)
    STORE.rename(tmp_path / "old.sqlite")
    assert import_verdicts(tmp_path / "all.jsonl", STORE) == (2 * N, 2, 0)
    assert import_verdicts(tmp_path / "all.jsonl", STORE) == (0, 0, 2 * N)
    evaluate("long")
    assert len(endpoint.bodies) == asked
    assert calls_foretold("short") == N


# ------------------------------------------------------------------------------------------------------- old stores


def as_before(duels: Sequence[Duel], judge: Scalar, store: Verdicts) -> None:
    """Fills a store as it was done when both marks of a duel stood in one reading, under the pair's key."""
    for duel in duels:
        ours, theirs = (min(10, len(text.split())) / 10 for text in (duel.ours, duel.theirs))
        detail = {"ours": ours, "theirs": theirs}
        verdict = Verdict(duel.sample.id, "none", float(ours > theirs), 0.5 + (ours - theirs) / 2, detail=detail)
        store.append([reading_of(key_of(judge.identity, duel, "none"), judge.identity, verdict)])


def test_marks_of_a_store_from_before_are_read(marker: Marker, endpoint: Endpoint) -> None:
    samples: Sequence[Sample] = load_task("talk.yaml").samples("test")
    texts = {
        name: [json.loads(line)["output"] for line in Path(f"{name}.jsonl").read_text().splitlines()]
        for name in ("long", "base")
    }
    duels = [Duel(*row) for row in zip(samples, texts["long"], texts["base"], strict=True)]
    judge = Scalar(endpoint.engine(retries=0), MARKS, name="marks")
    as_before(duels[:30], judge, Verdicts(STORE))
    swapped = [Duel(d.sample, d.theirs, d.ours) for d in duels[30:35]]
    as_before(swapped, judge, Verdicts(STORE))
    failed = reading_of(key_of(judge.identity, duels[35], "none"), judge.identity, Verdict("x", "none", None))
    Verdicts(STORE).append([failed])

    assert calls_foretold("long") == 10
    assert len(list(Verdicts(STORE).all())) == 36, "looking changes nothing"
    evaluate("long", "short")
    assert len(endpoint.bodies) == 10 + N
    assert entries()["long"].win_rate.wins == N
    assert calls_foretold("long", "mixed") == N // 2


def test_a_match_from_before_is_measured_as_it_was(marker: Marker, endpoint: Endpoint, tmp_path: Path) -> None:
    evaluate("long")
    store, old = Verdicts(STORE), Verdicts(tmp_path / "old.sqlite")
    match = next(m for m in map(match_of, store.matches()) if m.system.name == "long")
    samples = {sample.id: sample for sample in load_task("talk.yaml").samples("test")}
    judge = Scalar(endpoint.engine(retries=0), MARKS, name="marks")

    def before(match: Match) -> Match:
        items = [
            replace(item, raw=Asked(((key_of(judge.identity, duel(item.sample), "none"), "none"),)))
            for item in match.items
        ]
        return replace(match, items=tuple(items))

    def duel(name: str) -> Duel:
        return Duel(samples[name], f"one two three four {name.split('-')[1]}", "one two three")

    as_before([duel(name) for name in samples], judge, old)
    old.add_match("x", before(match).plain())
    for path in (STORE, tmp_path / "old.sqlite"):
        ((board, _),) = recompute(path, None, None, None, 0.02)
        (entry,) = (e for e in board.entries if e.system.name == "long")
        assert entry.win_rate.rate.value == 1
        assert entry.score is not None
        assert entry.score.value == 0.5


# ---------------------------------------------------------------------------------------------------------- killed


@pytest.mark.slow
def test_killed_on_the_way_no_stored_mark_is_asked_for_again(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, endpoint.url, 400)
    endpoint.answer = marker = Marker()
    path, printed = tmp_path / STORE, tmp_path / "said"
    monkeypatch.chdir(tmp_path)
    start = partial(apart.start, apart.MMPU, arguments("long", "short", "mixed"), printed)
    for kill in range(1, 4):
        process, goal = start(), len(endpoint.bodies) + 300
        while process.is_alive() and len(endpoint.bodies) < goal:
            time.sleep(0.005)
        assert process.is_alive(), printed.read_text()
        process.kill()
        process.join()
        stored = len(list(Verdicts(path).all()))
        assert 0 <= sum(marker.given.values()) - stored <= kill * 4 * 32, "at most the pieces under way"
    process = start()
    process.join()
    assert process.exitcode == 0, printed.read_text()
    assert len(list(Verdicts(path).all())) == len(marker.given) == 3 * 400 + 200
    assert len(endpoint.bodies) - len(marker.given) <= 3 * 4 * 32
    process = start()
    asked = len(endpoint.bodies)
    process.join()
    assert process.exitcode == 0
    assert printed.read_text()
    assert len(endpoint.bodies) == asked


def test_an_audit_finds_its_endpoint_where_an_evaluation_does(
    marker: Marker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("marks.yaml")
    path.write_text(path.read_text().replace(endpoint.url, "http://127.0.0.1:9/v1"))
    monkeypatch.setenv("MMPU_JUDGE_URL", endpoint.url)
    done = mmpu("judge", "audit", "--judge", "marks.yaml", "--task", "talk.yaml", "--limit", "2", "--out", "boards")
    assert len(endpoint.bodies) == 2 * 5, "the reference once, not beside each of four traps"
    assert re.search(r"empty answer +ok: lost 2, tied 0, won 0, unread 0, of 2", done.output), done.output


def test_questions_of_three_systems_are_the_distinct_answers(endpoint: Endpoint, tmp_path: Path) -> None:
    judge = Scalar(endpoint.engine(), MARKS)
    endpoint.answer = marker = Marker()
    samples = [Sample(f"s{i}", ()) for i in range(3)]
    duels = [Duel(sample, ours, "b b") for ours in ("a", " a ", "c c c") for sample in samples]
    asked = questions(judge, duels)
    assert [(q.duel.sample.id, q.order) for q in asked[:3]] == [("s0", "ours"), ("s0", "theirs"), ("s0", "ours")]
    assert len(asked) == 3, "samples of one content share their marks"
    assert ask(judge, asked, Verdicts(tmp_path / "v.sqlite")) == 3
    assert marker.given.total() == 3
