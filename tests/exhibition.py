"""A board with everything that a page shows: pictures, thinking, two orders that disagree, grades, hostile answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from mmpu.media import data_uri
from mmpu.recipes import evaluation as assess

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "</script><script>document.title = 'taken'</script>",
    "\u202eright to left\u202c, a bell \x07, an escape \x1b[31m and half a pair \ud83d",
    "</p></div><h1>markup</h1> {{NUMBERS}} <!-- <script>",
)
JUDGE = '''
"""Prefers the longer answer, and sometimes the one shown first."""

import hashlib
from dataclasses import dataclass

from mmpu.duel import Judge, Verdict


@dataclass(frozen=True)
class Leaning(Judge):
    name: str = "leaning"
    describe: str = "the longer answer wins, or the one shown first; a stand-in"

    @property
    def identity(self):
        return "leaning:1"

    @property
    def orders(self):
        return ("ours_first", "ours_second")

    def read(self, asked):
        return [self._one(duel, order) for duel, order in asked]

    def _one(self, duel, order):
        noise = int(hashlib.sha256(duel.sample.id.encode()).hexdigest()[:4], 16) / 65536
        longer = len(duel.ours) > len(duel.theirs)
        first = 0.9 if noise < 0.15 else 0.8 if longer == (order == "ours_first") else 0.2
        probs = {"A": first, "B": 0.95 - first, "T": 0.05}
        ours = first if order == "ours_first" else 0.95 - first
        win = float(ours > 0.475)
        return Verdict(duel.sample.id, order, win, ours + 0.025, detail=probs, said="A says more. <b>So A.</b>")
'''
TASK = """
about: Pictures and what is on them
source: rows.jsonl
prompt:
  - user: [{image: "{{ picture }}"}, "{{ question }}"]
reference: "{{ reference }}"
answer: "{{ answer }}"
grader: final_answer
splits: {test: {}}
"""


def exhibition(
    folder: Path, monkeypatch: pytest.MonkeyPatch, prompts: int = 40, systems: int = 3, more: str = ""
) -> Path:
    """Evaluates recorded answers of several systems under a stand-in judge; returns the board."""
    plug = folder / "plug"
    (plug / "judges").mkdir(parents=True)
    (plug / "judges" / "leaning.py").write_text(JUDGE, encoding="utf-8")
    (plug / "judges" / "leaning.yaml").write_text("about: a stand-in\nkind: leaning\n", encoding="utf-8")
    monkeypatch.setenv("MMPU_PATH", str(plug))
    task = folder / "shown.yaml"
    task.write_text(TASK + more, encoding="utf-8")
    colours = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 200)}
    pictures = {name: data_uri(Image.new("RGB", (96, 64), rgb)) for name, rgb in colours.items()}
    rows = [
        {
            "picture": pictures[colour],
            "question": f"Which colour is this, number {i}?",
            "reference": f"It is {colour}.",
            "answer": colour,
        }
        for i, colour in zip(range(prompts), list(colours) * prompts, strict=False)
    ]
    _lines(folder / "rows.jsonl", rows)
    names = ["baseline", *(f"system {chr(97 + i)}" for i in range(systems))]
    for n, name in enumerate(names):
        _lines(
            folder / f"{name}.jsonl",
            [{"id": f"test-{i + 1}", "output": _answer(i, n, row)} for i, row in enumerate(rows)],
        )
    given = tuple(f"{name}={folder / name}.jsonl" for name in names[1:])
    options = assess.EvalOptions(
        given, str(task), "leaning", f"baseline={folder / 'baseline'}.jsonl", folder=str(folder / "boards"), trust=True
    )
    board = assess.evaluate(options)
    return folder / "boards" / f"{board.task}.{board.judge}.json"


def _answer(i: int, system: int, row: dict[str, str]) -> str:
    if system == 1 and i < len(HOSTILE):
        return HOSTILE[i]
    luck = int(hashlib.sha256(f"{i} {system}".encode()).hexdigest()[:4], 16) / 65536
    colour = row["answer"] if luck < 0.5 + 0.1 * system else "grey"
    thought = f"<think>Let me see, {colour}?</think>" if system == 2 else ""
    return f"{thought}I see it well{' and clearly' * int(luck * 3)}. The answer is {colour}."


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
