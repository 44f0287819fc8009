"""Thinking is no part of an answer: what is graded, judged, scored and counted is what was said without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmpu.cli.main import main
from mmpu.core import Choice, Engine, Failed, Group, Response, Sample, Sampling, user
from mmpu.scorers.majority import Majority
from mmpu.scorers.scalar_judge import ScalarJudge
from mmpu.scorers.self_eval import SelfEval
from mmpu.thinking import answer_of, opening, thinks_on


@pytest.mark.parametrize(
    ("text", "answer", "open_"),
    [
        ("C", "C", False),
        (" C\n", " C\n", False),
        ("<think>A?</think>\n\nC", "C", False),
        ("<think>A?</think>", "", False),
        ("<think>\n\n</think>\n\nC", "C", False),
        ("<think>The answer is C.", "", True),
        ("<think>", "", True),
        ("A? B? </think> C", "C", False),
        ("A? <think>B?</think> or </think> C", "C", False),
        ("<think>a</think> One <think>b</think>two", "One two", False),
        ("<think>a <think> mark</think>C", "C", False),
        ("One <think>b", "One", True),
        ("<THINK>a</THINK>C", "C", False),
        ("<think >a</ think>C", "C", False),
        ("<thinking>a</thinking>C", "C", False),
        ("<seed:think>a</seed:think>C", "C", False),
        ("[THINK]a[/THINK]C", "C", False),
        ("◁think▷a◁/think▷C", "C", False),
        ("Write `<think>` first", "Write `<think>` first", False),
        ("I think: C", "I think: C", False),
    ],
)
def test_what_stands_outside_thinking_is_the_answer(text: str, answer: str, open_: bool) -> None:
    assert (answer_of(text), thinks_on(text)) == (answer, open_)
    assert answer_of(answer_of(text)) == answer
    assert Response(text).text == answer
    assert Response(text).raw == text


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("What is <think>?\nassistant\n", ""),
        ("[THINK]", "[THINK]"),
    ],
)
def test_a_prompt_that_begins_the_thinking_is_known(prompt: str, mark: str) -> None:
    assert opening(prompt) == mark


@dataclass(frozen=True)
class Grading(Engine):
    """Gives 0.9 to whatever it is shown, after a thought, and keeps what it was shown."""

    shown: list[str] = field(default_factory=list[str])

    @property
    def identity(self) -> str:
        return "grading"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        self.shown.extend(s.prompt[0].text for s in samples)
        return [(Response("<think>0.1 or 0.2</think>0.9"),) for _ in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        self.shown.extend(s.prompt[0].text for s in samples)
        return [Choice({o: float(o == "9") for o in options}, 0.0) for _ in samples]


THOUGHTFUL = (Response("<think>SECRET 7</think>\\boxed{3}"), Response("<think>SECRET"), Response("\\boxed{3}"))


def test_scorers_see_answers_only() -> None:
    group = Group(Sample("s", user("Q?")), "<think>SECRET</think>3", THOUGHTFUL)
    assert Majority().score([group]) == [(1.0, 0.0, 1.0)]
    engine = Grading()
    assert SelfEval(engine).score([group]) == [(1.0, 0.0, 1.0)]
    assert SelfEval(engine, mode="generate").score([group]) == [(0.9, 0.0, 0.9)]
    assert ScalarJudge(engine).score([group]) == [(0.9, 0.0, 0.9)]
    assert len(engine.shown) == 3 * 2, "an empty answer costs no call"
    assert not any("SECRET" in text for text in engine.shown)


def test_an_evaluation_counts_answers_and_keeps_all_that_was_said(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        'source: rows.jsonl\nid: "{{ id }}"\nprompt: [{user: "Q?"}]\nanswer: "C"\ngrader: final_answer\n'
    )
    said = [
        "<think>The answer is A</think>\n\nThe answer is C",
        "Perhaps \\boxed{A}</think>C",
        "<think>The answer is C",
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": f"t{i}"}) + "\n" for i in range(3)))
    for name, texts in (("ours", said), ("theirs", ["x"] * 3)):
        rows = [{"id": f"t{i}", "output": text} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    systems = [f"ours={tmp_path}/ours.jsonl", "--baseline", f"theirs={tmp_path}/theirs.jsonl"]
    arguments = ["--task", str(tmp_path / "task.yaml"), "--judge", "rule", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["eval", *systems, *arguments])
    assert done.exit_code == 0, done.output
    board = json.loads((tmp_path / "out/task.rule.json").read_text())
    entry = next(e for e in board["entries"] if e["system"]["name"] == "ours")
    assert entry["accuracy"]["value"] == pytest.approx(2 / 3)
    assert (entry["mean_words"], entry["truncated"]) == (pytest.approx((4 + 1 + 0) / 3), 1)
    kept = (tmp_path / "out/task.test/ours.outputs.jsonl").read_text().splitlines()
    assert [json.loads(line)["output"] for line in kept] == said
