"""Recorded answers: how a teacher's answers that were collected elsewhere come in.

A JSONL file with one answer a line, `{"id": …, "output": …}` by sample id, or `{"prompt": …, "output": …}` by the
prompt's text (for prompts without pictures); or AlpacaEval's `model_outputs.json`, where it is `instruction`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError, digest

KEYS = {"id": "id", "prompt": "prompt", "instruction": "prompt"}
"""What a row may be found by, and the kind of key that it is."""


@dataclass(frozen=True)
class Replay(Engine):
    path: str
    """The JSONL or JSON file; relative to the working directory, or to the task's folder."""

    by_id: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return f"replay:{digest(sorted(self._answers.items()))}"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        if n != 1:
            raise UserError(f"replay has one recorded answer per prompt in {self.path}, {n} were asked for")
        return [self._find(sample) for sample in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        raise UserError("replay holds recorded texts and cannot weigh options; use another engine here")

    def oddities(self, samples: Sequence[Sample]) -> dict[str, int]:
        """How many recorded answers no sample asks for, and how many stand there twice, word for word."""
        asked = {key for sample in samples for key in _keys(sample)}
        others = sum(key not in asked for key in self._answers)
        return {"answers_to_other_prompts": others, "repeated": self._recorded[1]}

    def _find(self, sample: Sample) -> tuple[Response, ...] | Failed:
        for key in _keys(sample):
            if key in self._answers:
                return (Response(self._answers[key]),)
        return Failed(f"{self.path} has no answer for sample {sample.id!r}")

    @property
    def _answers(self) -> dict[str, str]:
        return self._recorded[0]

    @cached_property
    def _recorded(self) -> tuple[dict[str, str], int]:
        """Answers by key, and how many rows repeat an earlier one."""
        path = Path(self.path).expanduser()
        answers: dict[str, str] = {}
        repeated = 0
        for where, row in _rows(path):
            fields = cast(dict[str, Any], row) if isinstance(row, dict) else {}
            key = next((f"{name}:{fields[field]}" for field, name in KEYS.items() if field in fields), None)
            output = fields.get("output")
            if key is None or not isinstance(output, str):
                raise UserError(f"{where}: needs `id` or `prompt`, and `output`, a text")
            repeated += key in answers
            if answers.setdefault(key, output) != output:
                raise UserError(f"{where}: a second, different answer for {key!r}")
        return answers, repeated


def _keys(sample: Sample) -> list[str]:
    # The text of a question about a picture names many prompts, so there only the id will do.
    by_prompt = [] if sample.images else [f"prompt:{sample.prompt[-1].text}"]
    return [f"id:{sample.id}", *by_prompt]


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    """The rows of a file, each with a name for errors."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recorded answers {path}: {error}") from None
    if path.suffix == ".json":
        rows = _parsed(text, str(path))
        for number, row in enumerate(cast(list[object], rows) if isinstance(rows, list) else [rows], 1):
            yield f"{path}, row {number}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parsed(line, where)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
