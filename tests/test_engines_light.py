"""Engines without a model: recorded answers, references, and the store in front of any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpu.core import Choice, Engine, Failed, Message, Part, Response, Sample, Sampling, UserError, user
from mmpu.engines.cached import Cached
from mmpu.engines.reference import Reference
from mmpu.engines.replay import Replay
from mmpu.media import data_uri
from mmpu.store import Ledger, Store

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
        (["[1, 2]"], "line 1: needs `id` or `prompt`"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        recorded(tmp_path, *rows).generate([Sample("a", user("q"))], 1, GREEDY)
    assert f"{tmp_path}/answers.jsonl, {message}" in str(error.value)


def test_what_replay_cannot_do_it_says(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "output": "x"}, {"id": "a", "output": "x"})
    (failed,) = engine.generate([Sample("a", user("q"))], 3, GREEDY)
    assert isinstance(failed, Failed)
    assert failed.reason.endswith("answers.jsonl has 1 answers for sample 'a', 3 were asked for")
    with pytest.raises(UserError, match="cannot weigh options"):
        engine.choose([Sample("a", user("q"))], ("A", "B"))
    with pytest.raises(UserError, match=r"cannot read the recorded answers .*gone\.jsonl"):
        Replay(str(tmp_path / "gone.jsonl")).generate([Sample("a", user("q"))], 1, GREEDY)


def test_replay_gives_as_many_recorded_answers_as_are_asked_for(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "output": ["x", "y", "z"]})
    assert engine.generate([Sample("a", user("q"))], 2, GREEDY) == [(Response("x"), Response("y"))]


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
        return [Failed("does not weigh") for _ in samples]


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(Counting(), Store(tmp_path / "s.sqlite"), Ledger(tmp_path / "ledger.json"), "teacher", chunk=2)


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
    assert cached.ledger.counts == {"teacher_calls": 4, "teacher_cache_hits": 3}


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
    assert cached.ledger.counts == {"teacher_calls": 3, "teacher_failures": 2, "teacher_cache_hits": 1}


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
from mmpu.store import Ledger, Store

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
    assert Ledger(tmp_path / "ledger.json").counts == {"teacher_calls": 2, "teacher_cache_hits": 4}


def test_options_are_weighed_by_the_engine_itself(cached: Cached) -> None:
    assert cached.choose(prompts("q"), ("A", "B")) == [Failed("does not weigh")]
    assert cached.identity == "counting"
