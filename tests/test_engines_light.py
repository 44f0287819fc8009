"""Engines without a model: recorded answers, references, and the store in front of any of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from endpoint import Endpoint, Reply, question, said
from mmpu.core import Choice, Engine, Failed, Message, Part, Response, Sample, Sampling, UserError, user
from mmpu.engines.cached import Cached
from mmpu.engines.reference import Reference
from mmpu.engines.replay import Replay
from mmpu.media.images import data_uri
from mmpu.store.store import Ledger, Store

ROOT = Path(__file__).parent.parent
GREEDY = Sampling(temperature=0.0)


def recorded(folder: Path, *rows: dict[str, Any] | str, name: str = "answers.jsonl") -> Replay:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Replay(str(folder / name))


def texts(answers: Sequence[tuple[Response, ...] | Failed]) -> list[Any]:
    return [a.reason if isinstance(a, Failed) else [r.text for r in a] for a in answers]


# -----------------------------------------------------------------------------------------------------------------
# replay and reference


def test_recorded_answers_are_found_by_id_then_by_prompt(tmp_path: Path) -> None:
    engine = recorded(
        tmp_path,
        {"id": "a", "output": "by id"},
        {"prompt": "Q?", "output": "by prompt\u2028"},
        "",
        {"id": 7, "output": "a number for an id"},
        {"id": "empty", "output": ""},
        {"prompt": "last turn", "output": "of several"},
    )
    turns = (*user("first turn"), Message("assistant", (Part("text", "hm"),)), *user("last turn"))
    asked = [Sample(name, user("Q?")) for name in ("a", "b", "7", "empty")] + [
        Sample("c", turns),
        Sample("d", user("?")),
    ]
    assert texts(engine.generate(asked, 1, GREEDY)) == [
        ["by id"],
        ["by prompt\u2028"],
        ["a number for an id"],
        [""],
        ["of several"],
        f"{tmp_path}/answers.jsonl has no answer for sample 'd'",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "output": "x"}, {"id": "a", "output": "y"}], "line 2: a second, different answer for 'id:a'"),
        ([{"prompt": "q", "output": "x"}, {"prompt": "q", "output": "y"}], "line 2: a second, different answer for"),
        (["{oops"], "line 1: not JSON"),
        ([{"id": "a"}], "line 1: needs `id` or `prompt`, and `output`, a text"),
        ([{"output": "x"}], "line 1: needs `id` or `prompt`"),
        ([{"id": "a", "output": 3}], "line 1: needs `id` or `prompt`, and `output`, a text"),
        (["[1, 2]"], "line 1: not a JSON object"),
        ([{"id": "a", "outputs": []}], "line 1: needs `id` or `prompt`, and `output`, a text, or `outputs`, a list"),
        ([{"id": "a", "outputs": ["x"], "finished": [True, False]}], "line 1: `finished` has not as many entries"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        recorded(tmp_path, *rows).generate([Sample("a", user("q"))], 1, GREEDY)
    assert f"{tmp_path}/answers.jsonl, {message}" in str(error.value)


def test_recorded_answers_with_a_byte_order_mark_and_half_a_character(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('\ufeff{"id": "a", "output": "cut \\ud83d"}\n{"id": "b", "outputs": ["\\ud83d\\ude00"]}\n')
    found = Replay(str(path)).generate([Sample("a", user("q")), Sample("b", user("p"))], 1, GREEDY)
    assert texts(found) == [["cut \ufffd"], ["\U0001f600"]]
    assert Replay(str(path)).oddities([Sample("a", user("q")), Sample("b", user("q"))])["damaged"] == 1


def test_what_replay_cannot_do_it_says(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "output": "x"}, {"id": "a", "output": "x"})
    (found,) = texts(engine.generate([Sample("a", user("q"))], 3, GREEDY))
    assert found == f"{tmp_path}/answers.jsonl has 1 answers for sample 'a', 3 were asked for"
    with pytest.raises(UserError, match="cannot weigh options"):
        engine.choose([Sample("a", user("q"))], ("A", "B"))
    with pytest.raises(UserError, match=r"cannot read the recorded answers .*gone\.jsonl"):
        Replay(str(tmp_path / "gone.jsonl")).generate([Sample("a", user("q"))], 1, GREEDY)


def test_replay_gives_as_many_recorded_answers_as_are_asked_for(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "output": ["x", "y", "z"]})
    assert engine.generate([Sample("a", user("q"))], 2, GREEDY) == [(Response("x"), Response("y"))]


def test_a_null_is_a_missing_answer(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "output": None},
        {"id": "b", "outputs": ["x", None, "z"]},
        {"id": "c", "output": float("nan")},
        {"id": "d", "output": "<think>hm"},
        {"id": "e", "output": "7", "reasoning": "hm"},
    ]
    engine = recorded(tmp_path, *rows)
    asked = [Sample(row["id"], user("q")) for row in rows]
    found = engine.generate(asked, 1, GREEDY)
    path = tmp_path / "answers.jsonl"
    assert found[0] == Failed(f"{path} has null for sample 'a'")
    assert found[1:] == [
        (Response("x"),),
        Failed(f"{path} has null for sample 'c'"),
        (Response("<think>hm", finished=False),),
        (Response("7", reasoning="hm"),),
    ]
    assert engine.generate(asked[1:2], 3, GREEDY) == [(Response("x"), Response("z"))]
    assert engine.lacking(asked) == ["a", "c"]
    assert engine.oddities(asked) == {"answers_to_other_prompts": 0, "repeated": 0, "null": 3, "damaged": 0}


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.json"])
def test_byte_order_marks_are_no_content(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"id": i, "output": "x"}) for i in ("a", "b")]
    text = "\n\ufeff".join(lines) if name.endswith("l") else f"[{','.join(lines)}]"
    (tmp_path / name).write_text(f"\ufeff{text}\n", encoding="utf-8")
    asked = [Sample(i, user("q")) for i in ("a", "b")]
    assert Replay(str(tmp_path / name)).generate(asked, 1, GREEDY) == [(Response("x"),)] * 2


def test_replay_is_known_by_its_answers_not_by_its_file(tmp_path: Path) -> None:
    rows = [{"id": "a", "output": "x"}, {"id": "b", "output": "y"}]
    one, two = recorded(tmp_path, *rows), recorded(tmp_path, *reversed(rows), name="renamed.jsonl")
    assert one.identity == two.identity
    assert one.identity != recorded(tmp_path, {"id": "a", "output": "z"}, rows[1], name="other.jsonl").identity


def test_references_answer_for_a_teacher() -> None:
    asked = [Sample("a", user("q"), reference="gold"), Sample("b", user("q")), Sample("c", user("q"), reference="")]
    assert texts(Reference().generate(asked, 2, GREEDY)) == [
        ["gold", "gold"],
        "sample 'b' has no reference",
        "sample 'c' has no reference",
    ]
    with pytest.raises(UserError, match="cannot weigh options"):
        Reference().choose(asked, ("A",))


# -----------------------------------------------------------------------------------------------------------------
# cached


@dataclass(frozen=True)
class Counting(Engine):
    """Answers with the prompt in capitals and keeps a record; refuses prompts with `hard` in them."""

    name: str = "counting"
    calls: list[str] = field(default_factory=list)
    piece: ClassVar[int] = 2

    @property
    def identity(self) -> str:
        return self.name

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        self.calls.extend(s.prompt[-1].text for s in samples)
        return [
            Failed("too hard")
            if "hard" in s.prompt[-1].text
            else tuple(Response(s.prompt[-1].text.upper(), (1, k), (-0.25, -1e-3), k == 0) for k in range(n))
            for s in samples
        ]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        self.calls.extend(s.prompt[-1].text for s in samples)
        share = 1 / len(options)
        return [
            Failed("too hard")
            if "hard" in s.prompt[-1].text
            else Choice(dict.fromkeys(options, share), 0.0, frozenset(options[:1]))
            for s in samples
        ]


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(Counting(), Store(tmp_path / "s.sqlite"), Ledger(tmp_path / "ledger.json"), "teacher")


def calls(cached: Cached) -> list[str]:
    assert isinstance(cached.engine, Counting)
    return cached.engine.calls


def prompts(*questions: str) -> list[Sample]:
    return [Sample(f"s{i}", user(q)) for i, q in enumerate(questions)]


def test_a_question_is_asked_once(cached: Cached) -> None:
    first = cached.generate(prompts("a", "b", "a", "c"), 1, GREEDY)
    again = cached.generate(prompts("c", "a", "new"), 1, GREEDY)
    assert texts(first) == [["A"], ["B"], ["A"], ["C"]]
    assert texts(again) == [["C"], ["A"], ["NEW"]]
    assert calls(cached) == ["a", "b", "c", "new"]
    assert cached.ledger.counts == {"teacher_calls": 4, "teacher_cache_hits": 3, "teacher_tokens_out": 8}


def test_a_stored_answer_is_the_answer_to_the_last_bit(cached: Cached, tmp_path: Path) -> None:
    fresh = cached.generate(prompts("größer\u2028"), 2, Sampling())
    later = Cached(Counting(), Store(tmp_path / "s.sqlite"), cached.ledger, "teacher")
    assert later.generate(prompts("größer\u2028"), 2, Sampling()) == fresh
    assert calls(later) == []
    assert fresh == Counting().generate(prompts("größer\u2028"), 2, Sampling())


def test_whatever_an_answer_depends_on_is_in_its_key(cached: Cached) -> None:
    (sample,) = prompts("q")
    picture = data_uri(Image.new("RGB", (4, 4), "red"))
    asked: list[tuple[Sample, int, Sampling]] = [
        (sample, 1, GREEDY),
        (sample, 2, GREEDY),
        (sample, 1, replace(GREEDY, seed=1)),
        (sample, 1, replace(GREEDY, max_tokens=7)),
        (sample, 1, replace(GREEDY, stop=("x",))),
        (replace(sample, prompt=(Message("system", (Part("text", "s"),)), *user("q"))), 1, GREEDY),
        (replace(sample, prompt=user("q", Part("image", picture))), 1, GREEDY),
        (replace(sample, prompt=user(Part("image", picture), "q")), 1, GREEDY),
    ]
    for repeat in asked * 2:
        cached.generate([repeat[0]], *repeat[1:])
    assert len(calls(cached)) == len(asked)
    other = replace(cached, engine=Counting("another"))
    other.generate([sample], 1, GREEDY)
    assert calls(other) == ["q"]


def test_what_an_engine_does_not_see_is_not_in_its_key(cached: Cached) -> None:
    one = Sample("a", user("q"), reference="r", answer="1", meta={"x": 1})
    cached.generate([one, Sample("b", user("q"))], 1, GREEDY)
    assert calls(cached) == ["q"]


def test_engines_that_go_by_id_are_asked_per_sample(cached: Cached) -> None:
    by_id = replace(cached, engine=Reference())
    asked = [Sample("a", user("q"), reference="one"), Sample("b", user("q"), reference="two")]
    for _ in range(2):
        assert texts(by_id.generate(asked, 1, GREEDY)) == [["one"], ["two"]]
    asked[0] = replace(asked[0], reference="corrected")
    assert texts(by_id.generate(asked, 1, GREEDY)) == [["corrected"], ["two"]]


def test_failures_are_counted_and_asked_again(cached: Cached) -> None:
    for _ in range(2):
        assert texts(cached.generate(prompts("hard", "easy"), 1, GREEDY)) == ["too hard", ["EASY"]]
    assert calls(cached) == ["hard", "easy", "hard"]
    counts = {"teacher_calls": 3, "teacher_failures": 2, "teacher_cache_hits": 1, "teacher_tokens_out": 2}
    assert cached.ledger.counts == counts


@dataclass(frozen=True)
class Dying(Counting):
    """Breaks down at its second call."""

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        if self.calls:
            raise KeyboardInterrupt
        return super().generate(samples, n, sampling)


def test_what_was_answered_before_a_crash_is_kept(cached: Cached) -> None:
    dying = replace(cached, engine=Dying())
    questions = prompts("a", "b", "c", "d", "e")
    with pytest.raises(KeyboardInterrupt):
        dying.generate(questions, 1, GREEDY)
    cached = replace(cached, engine=Counting())
    cached.generate(questions, 1, GREEDY)
    assert calls(cached) == ["c", "d", "e"]


SECOND = """
import sys
from pathlib import Path
from mmpu.core import Sample, Sampling, user
from mmpu.engines.cached import Cached
from mmpu.engines.replay import Replay
from mmpu.store.store import Ledger, Store

folder = Path(sys.argv[1])
ledger = Ledger(folder / "ledger.json")
engine = Cached(Replay(str(folder / "answers.jsonl")), Store(folder / "s.sqlite"), ledger, "teacher")
found = engine.generate([Sample(name, user("q")) for name in "ab"], 1, Sampling())
ledger.save()
print(*(r[0].text for r in found))
"""


def test_a_second_process_asks_nothing_again(tmp_path: Path) -> None:
    recorded(tmp_path, {"id": "a", "output": "x"}, {"id": "b", "output": "y"})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(3):
        command = [sys.executable, "-c", SECOND, str(tmp_path)]
        assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "x y\n"
    assert Ledger(tmp_path / "ledger.json").counts == {
        "teacher_calls": 2,
        "teacher_cache_hits": 4,
        "teacher_replayed": 2,
    }


def test_choices_are_kept_too(cached: Cached) -> None:
    for _ in range(2):
        found = cached.choose(prompts("a", "hard", "a"), ("A", "B"))
        assert found == [
            Choice({"A": 0.5, "B": 0.5}, 0.0, frozenset("A")),
            Failed("too hard"),
            Choice({"A": 0.5, "B": 0.5}, 0.0, frozenset("A")),
        ]
    cached.choose(prompts("a"), ("A", "B", "T"))
    assert calls(cached) == ["a", "hard", "hard", "a"]


def test_more_answers_to_a_known_prompt_cost_only_the_rest(cached: Cached) -> None:
    (two,) = cached.generate(prompts("a"), 2, GREEDY)
    assert isinstance(cached.engine, Counting)
    (five,) = cached.generate(prompts("a"), 5, GREEDY)
    (one,) = cached.generate(prompts("a"), 1, GREEDY)
    assert isinstance(five, tuple)
    assert isinstance(two, tuple)
    assert (five[:2], one, len(five)) == (two, two[:1], 5)
    assert cached.ledger.counts["teacher_tokens_out"] == 2 * 5, "two, then three"


def test_answers_of_other_weights_are_other_answers(cached: Cached) -> None:
    for version in ("", "abc", "abc", "def"):
        replace(cached, version=version).generate(prompts("a"), 1, GREEDY)
    assert calls(cached) == ["a", "a", "a"]


def test_a_broken_picture_is_named_with_its_sample(cached: Cached) -> None:
    with pytest.raises(UserError, match=r"sample 's9': image nowhere\.png: no such file"):
        cached.generate([Sample("s9", user("q", Part("image", "nowhere.png")))], 1, GREEDY)


def test_a_fallback_is_asked_for_what_was_not_recorded(tmp_path: Path) -> None:
    strict = recorded(tmp_path, {"id": "s0", "output": "x"}, {"id": "s2", "outputs": ["y", "z"]})
    fallback = Counting()
    engine = replace(strict, fallback=fallback)
    asked = prompts("a", "b", "c", "hard")
    assert texts(engine.generate(asked, 1, GREEDY)) == [["x"], ["B"], ["y"], "too hard"]
    assert texts(engine.generate(asked, 2, GREEDY)) == [["A", "A"], ["B", "B"], ["y", "z"], "too hard"]
    assert fallback.calls == ["b", "hard", "a", "b", "hard"]
    assert engine.identity not in (strict.identity, fallback.identity)
    assert isinstance(engine.choose(asked, ("A",))[0], Choice)


def test_recorded_answers_know_which_the_limit_cut(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "output": "x", "finished": False},
        {"id": "b", "outputs": ["x", "y"], "finished": [True, False]},
    ]
    one, two = recorded(tmp_path, *rows).generate([Sample(i, user("q")) for i in "ab"], 1, GREEDY)
    assert (one, two) == ((Response("x", finished=False),), (Response("x"),))


# -----------------------------------------------------------------------------------------------------------------
# several processes, one store

ASKER = """
import sys
from pathlib import Path
from mmpu.core import Sample, Sampling, user
from mmpu.engines.cached import Cached
from mmpu.engines.openai import OpenAI
from mmpu.store.store import Ledger, Store

folder, url, name, lease = Path(sys.argv[1]), *sys.argv[2:]
ledger = Ledger(folder / f"{name}.json")
engine = Cached(OpenAI("tiny", url, concurrency=4), Store(folder / "s.sqlite"), ledger, "teacher", lease=float(lease))
samples = [Sample(f"s{i}", user(f"Q{i}?")) for i in range(40)]
print("ready", flush=True)
sys.stdin.readline()
for answer in engine.answers(samples, 1, Sampling()):
    print(answer.index, answer.value[0].text, flush=True)
ledger.save()
"""


def asker(folder: Path, endpoint: Endpoint, name: str, lease: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(folder), endpoint.url, name, str(lease)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if (line := process.stdout.readline()) != "ready\n":
        process.kill()
        process.communicate()
        pytest.fail(f"said {line!r} instead of being ready")
    return process


def halt(process: subprocess.Popen[str], stop: signal.Signals, store: Path) -> None:
    """Stops the process between two of its transactions: one stopped within holds the file for as long as it sleeps."""
    process.send_signal(stop)
    with contextlib.closing(sqlite3.connect(store, timeout=0.2, isolation_level=None)) as other:
        while True:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.005)
                process.send_signal(stop)
            else:
                other.execute("ROLLBACK")
                return


def slowly(number: int, body: dict[str, Any]) -> Reply:
    time.sleep(0.02)
    return said(f"{question(body)} {number}")


def test_two_processes_at_once_ask_each_prompt_once(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answer = slowly
    pair = [asker(tmp_path, endpoint, name, 30) for name in ("one", "two")]
    for process in pair:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    heard = [sorted(process.communicate(timeout=300)[0].splitlines()) for process in pair]
    assert heard[0] == heard[1]
    assert len(heard[0]) == 40
    assert len({question(body) for body in endpoint.bodies}) == len(endpoint.bodies) == 40
    counts = [Ledger(tmp_path / f"{name}.json").counts for name in ("one", "two")]
    assert sum(c["teacher_calls"] for c in counts) == 40
    assert sum(c["teacher_cache_hits"] for c in counts) == 40


@pytest.mark.parametrize(("stop", "lease"), [(signal.SIGKILL, 600.0), (signal.SIGSTOP, 1.0)])
def test_what_a_dead_or_stuck_process_claimed_is_asked_by_another(
    tmp_path: Path, endpoint: Endpoint, stop: signal.Signals, lease: float
) -> None:
    endpoint.answer = slowly
    first = asker(tmp_path, endpoint, "one", lease)
    try:
        assert first.stdin
        assert first.stdout
        first.stdin.write("\n")
        first.stdin.flush()
        heard = [first.stdout.readline() for _ in range(10)]
        halt(first, stop, tmp_path / "s.sqlite")
        time.sleep(0.5)  # what is on its way arrives at the endpoint
        asked = len(endpoint.bodies)
        output, _ = asker(tmp_path, endpoint, "two", 30).communicate("\n", timeout=300)
    finally:
        first.kill()
        first.communicate()
    assert asked < 40
    assert set(heard) <= set(output.splitlines(keepends=True)), "what was heard was kept"
    assert len(output.splitlines()) == 40
    again = [question(body) for body in endpoint.bodies[asked:]]
    assert len(again) == len(set(again))
    assert not {f"Q{line.split()[0]}?" for line in heard} & set(again), "nothing kept is asked again"
    assert len(endpoint.bodies) < 40 + 16, "only what was on its way is asked twice"
