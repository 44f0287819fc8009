"""Recorded answers: how a teacher's answers that were collected elsewhere come in, and what `mmpu generate` writes.

A JSONL file with one prompt a line, `{"id": …, "output": …}` by sample id, or `{"prompt": …, "output": …}` by the
prompt's text (for prompts without pictures); several answers stand in a list, `"outputs": […]`. `"finished": false`
(or a list of these) marks answers that the length limit cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from mmpu.core import Answer, Choice, Engine, Failed, Response, Sample, Sampling, UserError, digest, in_order

Recorded = tuple[Response, ...]


@dataclass(frozen=True)
class Replay(Engine):
    path: str
    """The JSONL file; relative to the working directory, or to the task's folder."""
    fallback: Engine | None = None
    """Who is asked for what the file lacks; without one, that fails."""

    by_id: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        texts = {key: [[r.text, r.finished] for r in responses] for key, responses in self._recorded.items()}
        return f"replay:{digest(texts)}" + (f":{self.fallback.identity}" if self.fallback else "")

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return in_order(self.answers(samples, n, sampling), len(samples))

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        lacking: list[int] = []
        for index, sample in enumerate(samples):
            found = self._find(sample)
            if len(found) >= n:
                yield Answer(index, found[:n], {"replayed": 1})
            elif self.fallback:
                lacking.append(index)
            else:
                has = f"{len(found)} answers for sample {sample.id!r}, {n} were asked for"
                yield Answer(
                    index, Failed(f"{self.path} has {has if found else f'no answer for sample {sample.id!r}'}")
                )
        if self.fallback and lacking:
            for answer in self.fallback.answers([samples[i] for i in lacking], n, sampling):
                yield Answer(lacking[answer.index], answer.value, answer.counts)

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        if self.fallback:
            return self.fallback.choose(samples, options)
        raise UserError("replay holds recorded texts and cannot weigh options; use another engine here")

    def _find(self, sample: Sample) -> Recorded:
        # The text of a question about a picture names many prompts, so there only the id will do.
        by_prompt = [] if sample.images else [f"prompt:{sample.prompt[-1].text}"]
        return next((self._recorded[key] for key in (f"id:{sample.id}", *by_prompt) if key in self._recorded), ())

    @cached_property
    def _recorded(self) -> dict[str, Recorded]:
        recorded: dict[str, Recorded] = {}
        for number, row in read_answers(Path(self.path).expanduser()):
            key = next((f"{k}:{row[k]}" for k in ("id", "prompt") if k in row), None)
            outputs: object = [row["output"]] if "output" in row else row.get("outputs")
            texts = cast(list[object], outputs) if isinstance(outputs, list) else []
            if key is None or not texts or not all(isinstance(text, str) for text in texts):
                raise UserError(
                    f"{self.path}, line {number}: needs `id` or `prompt`, and `output`, a text, or `outputs`, a list"
                )
            flags = row.get("finished", True)
            ended = cast(list[object], flags) if isinstance(flags, list) else [flags] * len(texts)
            if len(ended) != len(texts):
                raise UserError(f"{self.path}, line {number}: `finished` has not as many entries as `outputs`")
            found = tuple(Response(str(text), finished=bool(end)) for text, end in zip(texts, ended, strict=True))
            if recorded.setdefault(key, found) != found:
                raise UserError(f"{self.path}, line {number}: a second, different answer for {key!r}")
        return recorded


def read_answers(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL file with the numbers of their lines.

    Raises:
        UserError: it cannot be read, or a line is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recorded answers {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row: object = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield number, cast(dict[str, Any], row)
