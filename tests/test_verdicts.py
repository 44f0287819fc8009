"""The verdict store: nothing that was read is asked for twice, nothing is lost, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import apart
from endpoint import DROP, Endpoint, Reply, error, question, said, weighed
from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError, user
from mmpu.duel import Duel, Judge, Order, Verdict
from mmpu.judges.pairwise import Pairwise
from mmpu.judging.run import Limits, Progress, Question, Stopped, ask, missing, questions
from mmpu.judging.verdicts import Reading, Verdicts, key_of, reading_of

ROOT = Path(__file__).parent.parent
PROMPT = str(ROOT / "judges/pairwise.txt")
LETTERS = ("A", "B", "T")


@dataclass(frozen=True)
class Model(Engine):
    """Prefers the longer answer; fails on prompts that hold «lost» until told otherwise. Counts what it is asked."""

    asked: Counter[str] = field(default_factory=Counter)
    failing: list[bool] = field(default_factory=lambda: [True])
    concurrency: int = 8
    lock: threading.Lock = field(default_factory=threading.Lock)
    patience: float = 0.0

    @property
    def identity(self) -> str:
        return "model"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return [Failed("still lost") for _ in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        with self.lock:
            self.asked.update(s.prompt[0].text for s in samples)
        time.sleep(self.patience)
        return [self._one(s.prompt[0].text) for s in samples]

    def _one(self, text: str) -> Choice | Failed:
        if "lost" in text and self.failing[0]:
            return Failed("HTTP 500")
        a, b = (len(part.split("</response_")[0]) for part in (text.split("<response_a>")[1], text.split("_b>\n")[1]))
        first = 0.9 if a > b else 0.1
        return Choice({"A": first, "B": 1 - first, "T": 0.0}, 0.0)


def duel(number: int, ours: str, theirs: str) -> Duel:
    return Duel(Sample(f"s{number}", user(f"Question {number}?")), ours, theirs)


DUELS = [duel(i, "long answer" if i % 3 else "x", "answer") for i in range(20)]


@pytest.fixture
def store(tmp_path: Path) -> Verdicts:
    return Verdicts(tmp_path / "v.sqlite")


def test_what_is_stored_is_not_asked_again(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    asked = questions(judge, DUELS)
    assert ask(judge, asked, store) == 40
    assert ask(judge, asked, store) == 0
    again = Verdicts(store.path)
    assert ask(judge, questions(judge, DUELS), again) == 0
    assert isinstance(judge.engine, Model)
    assert set(judge.engine.asked.values()) == {1}
    assert len(list(again.all())) == 40


def test_a_duel_is_worth_the_same_from_either_side(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    ask(judge, questions(judge, DUELS), store)
    swapped = [Duel(d.sample, d.theirs, d.ours) for d in DUELS]
    assert missing(questions(judge, swapped), store) == []
    for mine, mirrored in zip(DUELS, swapped, strict=True):
        found = [
            [store.get([key_of(judge.identity, d, o)])[key_of(judge.identity, d, o)].verdict(o) for o in judge.orders]
            for d in (mine, mirrored)
        ]
        wins = [sum(v.win or 0 for v in verdicts) / 2 for verdicts in found]
        softs = [sum(v.soft or 0 for v in verdicts) / 2 for verdicts in found]
        assert wins[0] == 1 - wins[1]
        assert softs[0] == pytest.approx(1 - softs[1])


def test_a_key_depends_on_all_that_a_judge_sees(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"one")
    base = DUELS[1]
    others = [
        Duel(base.sample, "other", base.theirs),
        Duel(base.sample, base.ours, "other"),
        Duel(replace(base.sample, reference="R"), base.ours, base.theirs),
        Duel(replace(base.sample, prompt=user("Another?")), base.ours, base.theirs),
        Duel(replace(base.sample, meta={"rubric": "short"}), base.ours, base.theirs),
    ]
    keys = {key_of("j", d, order) for d in (base, *others) for order in ("ours_first", "ours_second", "none")}
    assert len(keys) == 18
    assert key_of("k", base, "none") not in keys
    assert key_of("j", Duel(replace(base.sample, id="renamed"), base.ours, base.theirs), "none") in keys


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.5, -0.1])
def test_a_number_that_is_no_win_is_unread(store: Verdicts, number: float) -> None:
    """Whoever says so: a judge of somebody's own, or a store that was imported."""
    verdict = Verdict("s", "ours_first", number, detail={"A": number, "B": 0.5})
    assert verdict.win is None
    assert verdict.reason == f"the judge gave {number}, which is not in 0..1"
    assert verdict.detail["B"] == 0.5
    assert all(map(math.isfinite, verdict.detail.values()))
    assert Reading("k", "j", "s", number, number, "", {}).verdict("ours_second").soft is None


def test_only_failures_are_asked_again(store: Verdicts) -> None:
    model = Model()
    judge = Pairwise(model, PROMPT)
    asked = questions(judge, [*DUELS, duel(50, "lost cause", "x")])
    ask(judge, asked, store)
    unread = [r for r in store.all() if r.win is None]
    assert [r.reason for r in unread] == ["HTTP 500; still lost"] * 2
    assert ask(judge, asked, store) == 2
    model.failing[0] = False
    assert ask(judge, asked, store) == 2
    assert ask(judge, asked, store) == 0
    assert len(list(store.all())) == 46, "nothing is ever overwritten"
    assert sum(r.win is None for r in store.get(q.key for q in asked).values()) == 0


def test_rejudging_adds_and_the_latest_that_was_read_counts(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    asked = questions(judge, DUELS[:2])
    ask(judge, asked, store)
    assert ask(judge, asked, store, Limits(rejudge=True)) == 4
    first = next(iter(store.all()))
    store.append([replace(first, win=0.5, created="later"), replace(first, win=None, reason="lost", created="last")])
    assert store.get([first.key])[first.key].win == 0.5
    assert len(list(store.all())) == 10


def test_a_budget_stops_and_the_same_call_goes_on(store: Verdicts) -> None:
    model = Model()
    judge = Pairwise(model, PROMPT)
    asked = questions(judge, DUELS)
    with pytest.raises(Stopped, match=r"stopped after 15 readings, as told; 25 are missing, nothing was published"):
        ask(judge, asked, store, Limits(max_calls=15))
    assert sum(model.asked.values()) == 15
    with pytest.raises(Stopped, match="stopped after 0 readings"):
        ask(judge, asked, store, Limits(max_calls=0))
    assert ask(judge, asked, store, Limits(max_calls=25)) == 25
    assert set(model.asked.values()) == {1}


def test_a_reading_is_stored_when_its_reply_comes(store: Verdicts, endpoint: Endpoint) -> None:
    """While one call of a piece waits, the piece's other readings are in the store already."""
    others, seen = threading.Event(), list[int]()

    def answer(number: int, _body: dict[str, Any]) -> Reply:
        if number == 1:
            others.wait(20)
        return weighed({"A": 0.9, "B": 0.1})

    def look(progress: Progress) -> None:
        seen.append(len(list(store.all())))
        if progress.done == 19:
            others.set()

    endpoint.answer = answer
    judge = Pairwise(endpoint.engine(concurrency=4), PROMPT)
    assert ask(judge, questions(judge, DUELS[:10]), store, None, look) == 20
    assert 19 in seen
    assert others.is_set()


def test_nothing_to_ask_leaves_the_store_as_it_is(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    asked = questions(judge, DUELS)
    ask(judge, asked, store)
    store.add_match("m", {"created": "then", "items": [1]})

    def content() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in store.path.parent.iterdir() if not p.name.endswith("-shm")}

    before = content()
    again = Verdicts(store.path)
    ask(judge, asked, again)
    again.add_match("m", {"created": "now", "items": [1]})
    assert content() == before
    assert "v.sqlite-wal" in before


def test_a_judge_with_too_few_verdicts_is_named(store: Verdicts) -> None:
    class Short(Judge):
        name = "brief"
        identity = "brief"

        def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
            return [Verdict(duel.sample.id, order, 1.0) for duel, order in asked[1:]]

    with pytest.raises(UserError, match=r"judge brief: Short\.read returned 19 verdicts for 20 readings"):
        ask(Short(), questions(Short(), DUELS), store)


def test_a_sample_s_readings_stand_together(store: Verdicts) -> None:
    others = [duel(i, "a third system", "answer") for i in range(20)]
    asked = questions(Pairwise(Model(), PROMPT), [*DUELS, *others, *DUELS])
    ids = [q.duel.sample.id for q in asked]
    assert len(ids) == 80, "the same reading is asked once"
    assert ids == [f"s{i}" for i in range(20) for _ in range(4)]
    assert questions(Pairwise(Model(), PROMPT), [duel(0, "same", " same\n")]) == []


def test_progress_tells_rate_and_what_is_left(store: Verdicts) -> None:
    seen: list[Progress] = []
    judge = Pairwise(Model(concurrency=1, patience=0.002), PROMPT)
    ask(
        judge,
        questions(judge, [duel(i, "lost" * (i == 3) or "yes", "no") for i in range(50)]),
        store,
        None,
        seen.append,
    )
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    last = seen[-1]
    assert (last.done, last.total, last.unread) == (100, 100, 2)
    assert last.rate == pytest.approx(100 / last.seconds)
    assert last.eta == 0


def test_progress_tells_how_much_the_server_s_cache_held(store: Verdicts, endpoint: Endpoint) -> None:
    usage = {"prompt_tokens": 200, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 150}}
    tokens = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -3.0}, {"token": "T", "logprob": -5.0}]
    logprobs = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    endpoint.answer = lambda *_: said("A", logprobs=logprobs, usage=usage)
    seen: list[Progress] = []
    judge = Pairwise(endpoint.engine(), PROMPT)
    ask(judge, questions(judge, [duel(i, "yes", "no") for i in range(100)]), store, None, seen.append)
    assert {p.cached for p in seen} == {0.75}
    endpoint.answer = lambda *_: said("A", logprobs=logprobs, usage={**usage, "prompt_tokens_details": None})
    ask(judge, questions(judge, [duel(0, "yes", "no")]), store, Limits(rejudge=True), seen.append)
    assert seen[-1].cached is None


def test_one_slow_call_does_not_hold_up_the_others(store: Verdicts) -> None:
    """Pieces are stored as they come: the store fills while one piece still waits."""
    others, heard = threading.Event(), list[bool]()

    @dataclass(frozen=True)
    class Stuck(Model):
        def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
            if any(s.id == "s0" for s in samples):
                heard.append(others.wait(60))
            return super().choose(samples, options)

    done: list[int] = []

    def look(progress: Progress) -> None:
        done.append(progress.done)
        if progress.done >= 160:
            others.set()

    judge = Pairwise(Stuck(concurrency=4), PROMPT)
    asked = questions(judge, [duel(i, "long answer", "x") for i in range(160)])
    ask(judge, asked, store, None, look)
    assert heard
    assert all(heard)
    assert done[-1] == 320


def test_an_error_keeps_what_was_under_way(store: Verdicts) -> None:
    @dataclass(frozen=True)
    class Breaking(Model):
        def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
            if any(s.id == "s100" for s in samples):
                raise RuntimeError("a bug")
            time.sleep(0.05)
            return super().choose(samples, options)

    judge = Pairwise(Breaking(concurrency=4), PROMPT)
    with pytest.raises(RuntimeError, match="a bug"):
        ask(judge, questions(judge, [duel(i, "long answer", "x") for i in range(160)]), store)
    assert isinstance(judge.engine, Breaking)
    assert len(list(store.all())) == sum(judge.engine.asked.values())


def test_two_processes_may_share_a_store(tmp_path: Path) -> None:
    a, b = Verdicts(tmp_path / "v.sqlite"), Verdicts(tmp_path / "v.sqlite")
    reading = Reading("k", "j", "s", 1.0, 1.0, "", {"A": 1.0})
    a.append([reading])
    b.append([replace(reading, key="l")])
    assert set(a.get(["k", "l", "m"])) == set(b.get(["k", "l", "m"])) == {"k", "l"}


def test_what_a_judge_said_is_kept_and_older_stores_are_read(store: Verdicts, tmp_path: Path) -> None:
    verdict = Verdict("s", "ours_first", 1.0, 1.0, said="A is right. [[A]]")
    store.append([reading_of("k", "j", verdict)])
    assert Verdicts(store.path).get(["k"])["k"].verdict("ours_first") == verdict
    old = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(old)) as db:
        db.execute(
            "CREATE TABLE readings (id INTEGER PRIMARY KEY, key TEXT NOT NULL, judge TEXT NOT NULL, sample TEXT NOT "
            "NULL, kind TEXT NOT NULL, win REAL, soft REAL, reason TEXT NOT NULL, detail TEXT NOT NULL, created TEXT "
            "NOT NULL)"
        )
        db.execute("INSERT INTO readings VALUES (1, 'k', 'j', 's', 'pair', 0.0, 0.0, '', '{}', '')")
        db.commit()
    assert Verdicts(old).get(["k"])["k"].said == ""
    Verdicts(old).append([reading_of("k", "j", verdict)])
    assert Verdicts(old).get(["k"])["k"].said == verdict.said


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.sqlite").write_text("not a database, for sure, and long enough to be one" * 10)
    with pytest.raises(UserError, match=r"cannot open the store .*v\.sqlite"):
        Verdicts(tmp_path / "v.sqlite")


def test_a_full_disk_loses_nothing_that_was_stored(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    asked = questions(judge, DUELS)
    ask(judge, asked[:10], store)
    db: sqlite3.Connection = store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    big = reading_of("k", judge.identity, judge.compare(DUELS[:1])[0][0])
    with pytest.raises(UserError, match=r"cannot write to the store .* what was stored before is intact"):
        store.append([replace(big, key=str(i), reason="x" * 1000) for i in range(1000)])
    assert len(list(store.all())) == 10


# ----------------------------------------------------------------------------------------------------------------
# a server in trouble, and a client that is killed on the way


HANGING = 12
"""Calls that are left hanging, each of which costs all of a client's patience; later ones of the kind fail at once."""


class Trouble:
    """Answers every fifth call with the next kind of failure, and the others with the longer answer's letter."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.answered: Counter[str] = Counter()
        self.failed: Counter[int] = Counter()

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        text = question(body)
        if "Question 77?" in text:
            return error(422, "not this one")
        if number % 5 == 0:
            kind = number // 5 % 6
            self.failed[kind] += 1
            return self.failure(kind)
        self.answered[text] += 1
        a, b = (len(part.split("</response_")[0]) for part in (text.split("<response_a>")[1], text.split("_b>\n")[1]))
        return weighed({"A": 0.9, "B": 0.1} if a > b else {"B": 0.9, "A": 0.1})

    def failure(self, kind: int) -> Reply:
        if kind == 0 and self.failed[kind] <= HANGING:
            self.release.wait(30)
        kinds: tuple[Reply, ...] = (
            error(504),
            error(429, Retry_After="0.01"),
            error(500),
            DROP,
            (200, {}, b"<html>"),
            (200, {}, {"choices": []}),
        )
        return kinds[kind]


@pytest.fixture
def trouble(endpoint: Endpoint) -> Iterator[Trouble]:
    endpoint.answer = found = Trouble()
    yield found
    found.release.set()


def talk(count: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    return [("w " * rng.randint(1, 30) + "ours", "w " * rng.randint(1, 30) + "theirs") for _ in range(count)]


@pytest.mark.slow
def test_two_thousand_duels_through_every_kind_of_trouble(
    store: Verdicts, endpoint: Endpoint, trouble: Trouble
) -> None:
    """A fifth of the calls fails: refused with Retry-After, broken, dropped, hanging, garbage, empty."""
    judge = Pairwise(endpoint.engine(retries=8, timeout=3.0, concurrency=64), PROMPT)
    asked = questions(judge, [duel(i, *pair) for i, pair in enumerate(talk(2000))])
    assert ask(judge, asked, store) == len(asked) == 4000
    assert set(trouble.failed) == set(range(6))
    assert sum(trouble.failed.values()) > 900
    readings = {r.key: r for r in store.all()}
    assert readings.keys() == {q.key for q in asked}, "none lost"
    unread = {r.sample: r.reason for r in readings.values() if r.win is None}
    assert unread.keys() == {"s77"}
    assert unread["s77"].startswith("HTTP 422: not this one")
    assert set(trouble.answered.values()) == {1}, "none asked for after it was answered"
    before = len(endpoint.bodies)
    assert ask(judge, asked, store) == 2
    assert {"Question 77?" in question(body) for body in endpoint.bodies[before:]} == {True}


def mine(folder: Path, url: str, count: int) -> list[str]:
    """A plug-in with a task, a judge behind `url` and two systems' answers; the command that evaluates them."""
    for name in ("judges", "tasks"):
        (folder / name).mkdir()
    engine = f"{{name: openai, model: tiny, url: {url!r}, retries: 0, timeout: 3.0, concurrency: 32}}"
    (folder / "judges/far.yaml").write_text(f"about: Far.\nkind: pairwise\nprompt: {PROMPT}\nengine: {engine}\n")
    (folder / "tasks/rows.json").write_text(json.dumps([{"q": f"Question {1000 + i}?"} for i in range(count)]))
    (folder / "tasks/many.yaml").write_text('prompt: [{user: "{{ q }}"}]\nsource: rows.json\n')
    for name, texts in zip(("ours", "theirs"), zip(*talk(count), strict=True), strict=True):
        answers = [{"id": f"test-{i}", "output": text} for i, text in enumerate(texts, 1)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, answers)))
    named = [f"ours={folder}/ours.jsonl", "--baseline", f"theirs={folder}/theirs.jsonl"]
    options = ["--task", "many", "--judge", "far", "--out", f"{folder}/boards", "--probes", "0"]
    return ["eval", *named, *options]


@pytest.mark.slow
def test_killed_ten_times_nothing_is_lost_and_nothing_stored_is_asked_again(
    tmp_path: Path, endpoint: Endpoint, trouble: Trouble
) -> None:
    """Calls are not retried within a run, so that one that is left to end has failures to ask for again."""
    command, path = mine(tmp_path, endpoint.url, 1000), tmp_path / "boards/verdicts.sqlite"
    start = partial(apart.start, apart.MMPU, command, printed := tmp_path / "said", MMPU_PATH=str(tmp_path))
    for kill in range(1, 11):
        process, goal = start(), len(endpoint.bodies) + 100
        while process.is_alive() and len(endpoint.bodies) < goal:
            time.sleep(0.01)
        assert process.is_alive(), printed.read_text()
        process.kill()
        process.join()
        stored = sum(r.win is not None for r in Verdicts(path).all())
        # Calls under way, those that were heard and are not stored yet among them.
        assert 0 <= sum(trouble.answered.values()) - stored <= kill * 32

    def finish() -> int:
        process = start()
        process.join()
        assert process.exitcode == 0, printed.read_text()
        return len(endpoint.bodies)

    asked = finish()
    read = {r.key for r in Verdicts(path).all() if r.win is not None}
    failed = {r.key for r in Verdicts(path).all()} - read
    assert 0 < finish() - asked <= 2 * len(failed), "the failed ones only, by letter and by text"
    readings = list(Verdicts(path).all())
    assert set(Counter(r.key for r in readings if r.win is not None).values()) == {1}, (
        "what was read is not asked again"
    )
    assert all(r.reason for r in readings if r.win is None)
    record = next(
        e["win_rate"]
        for e in json.loads((tmp_path / "boards/many.far.json").read_text())["entries"]
        if e["system"]["name"] == "ours"
    )
    assert record["wins"] + record["losses"] + record["ties"] + record["unread"] == 1000
    assert record["unread"] <= 5


def test_questions_are_values(store: Verdicts) -> None:
    judge = Pairwise(Model(), PROMPT)
    assert questions(judge, DUELS[:1]) == [
        Question(key_of(judge.identity, DUELS[0], order), DUELS[0], order) for order in judge.orders
    ]
