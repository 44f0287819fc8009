"""Recorded answers: how a teacher's answers that were collected elsewhere come in.

A JSONL file with one answer a line, `{"id": …, "output": …}` by sample id, or `{"prompt": …, "output": …}` by the
prompt's text (for prompts without pictures). Where several answers per prompt are asked for, `output` is a list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError, digest


@dataclass(frozen=True)
class Replay(Engine):
    path: str
    """The JSONL file; relative to the working directory, or to the task's folder."""

    by_id: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return f"replay:{digest(sorted(self._answers.items()))}"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return [self._find(sample, n) for sample in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        raise UserError("replay holds recorded texts and cannot weigh options; use another engine here")

    def _find(self, sample: Sample, n: int) -> tuple[Response, ...] | Failed:
        # The text of a question about a picture names many prompts, so there only the id will do.
        by_prompt = [] if sample.images else [f"prompt:{sample.prompt[-1].text}"]
        for key in (f"id:{sample.id}", *by_prompt):
            if key in self._answers:
                texts = self._answers[key]
                if len(texts) < n:
                    return Failed(f"{self.path} has {len(texts)} answers for sample {sample.id!r}, {n} were asked for")
                return tuple(Response(text) for text in texts[:n])
        return Failed(f"{self.path} has no answer for sample {sample.id!r}")

    @cached_property
    def _answers(self) -> dict[str, tuple[str, ...]]:
        path = Path(self.path).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recorded answers {path}: {error}") from None
        answers: dict[str, tuple[str, ...]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row: object = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            fields = cast(dict[str, Any], row) if isinstance(row, dict) else {}
            key = next((f"{k}:{fields[k]}" for k in ("id", "prompt") if k in fields), None)
            output = fields.get("output")
            texts = cast(list[object], output if isinstance(output, list) else [output])
            if key is None or not texts or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{path}, line {number}: needs `id` or `prompt`, and `output`, a text or several")
            recorded = tuple(map(str, texts))
            if answers.setdefault(key, recorded) != recorded:
                raise UserError(f"{path}, line {number}: a second, different answer for {key!r}")
        return answers
