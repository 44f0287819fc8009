"""Recorded answers: how a teacher's answers that were collected elsewhere come in, and what `mmpu generate` writes.

A JSONL file with one prompt a line, `{"id": …, "output": …}` by sample id, or `{"prompt": …, "output": …}` by the
prompt's text (for prompts without pictures); several answers stand in a list, under `outputs` or `output`.
`"finished": false`, or `"finish_reason": "length"` (or a list of these), marks answers that the length limit cut,
`"reasoning"` holds thinking that an endpoint served apart. An answer that is null, as a refusal or pandas' NaN leaves
it, is a missing answer. AlpacaEval's `model_outputs.json`, where the prompt is `instruction`, is read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from mmpu import files
from mmpu.core import Answer, Choice, Engine, Failed, Response, Sample, Sampling, UserError, digest, in_order
from mmpu.thinking import thinks_on

Recorded = tuple[Response | None, ...]

KEYS = {"id": "id", "prompt": "prompt", "instruction": "prompt"}
"""What a row may be found by, and the kind of key that it is."""


@dataclass(frozen=True)
class Replay(Engine):
    path: str
    """The JSONL or JSON file; relative to the working directory, or to the task's folder."""
    fallback: Engine | None = None
    """Who is asked for what the file lacks; without one, that fails."""
    partial: bool = False
    """As a teacher: leave out the prompts that the file lacks. Otherwise training does not begin."""

    by_id: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return f"replay:{self._content}" + (f":{self.fallback.identity}" if self.fallback else "")

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return in_order(self.answers(samples, n, sampling), len(samples))

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        lacking: list[int] = []
        for index, sample in enumerate(samples):
            recorded = self._find(sample)
            found = tuple(response for response in recorded[:n] if response is not None)
            if len(found) == n:
                yield Answer(index, found, {"replayed": 1})
            elif self.fallback:
                lacking.append(index)
            elif found and len(recorded) >= n:
                yield Answer(index, found, {"replayed": 1}, f"{self.path} has null for sample {sample.id!r}")
            else:
                yield Answer(index, Failed(f"{self.path} has {_lack(sample, recorded, n)}"))
        if self.fallback and lacking:
            for answer in self.fallback.answers([samples[i] for i in lacking], n, sampling):
                yield replace(answer, index=lacking[answer.index])

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        if self.fallback:
            return self.fallback.choose(samples, options)
        raise UserError("replay holds recorded texts and cannot weigh options; use another engine here")

    def lacking(self, samples: Sequence[Sample]) -> list[str]:
        """Those that the file lacks, if nobody else can be asked and they are not to be left out."""
        return [] if self.fallback or self.partial else [s.id for s in samples if not any(self._find(s))]

    def known(self, samples: Sequence[Sample]) -> list[Response | None]:
        return [next(iter(self._find(sample)), None) for sample in samples]

    def oddities(self, samples: Sequence[Sample]) -> dict[str, int]:
        """How many recorded answers no sample asks for, how many stand there twice, word for word, how many are
        null, and how many hold a character that was damaged (U+FFFD)."""
        asked = {key for sample in samples for key in _keys(sample)}
        recorded, counts = self._read
        return {"answers_to_other_prompts": sum(key not in asked for key in recorded), **counts}

    def _find(self, sample: Sample) -> Recorded:
        return next((self._recorded[key] for key in _keys(sample) if key in self._recorded), ())

    @cached_property
    def _content(self) -> str:
        return digest({key: [r and [r.raw, r.finished] for r in found] for key, found in self._recorded.items()})

    @property
    def _recorded(self) -> dict[str, Recorded]:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[dict[str, Recorded], dict[str, int]]:
        """Answers by key, None where they are null; how many rows repeat an earlier one, how many answers are null or
        hold a damaged character."""
        recorded: dict[str, Recorded] = {}
        counts = {"repeated": 0, "null": 0, "damaged": 0}
        for where, row in read_answers(files.place(self.path)):
            key = next((f"{name}:{row[field]}" for field, name in KEYS.items() if field in row), None)
            if key is None or not {"output", "outputs"} & set(row):
                raise UserError(f"{where}: {_NEEDS}")
            found = _responses(row, where)
            counts["null"] += found.count(None)
            counts["damaged"] += sum(each is not None and "\ufffd" in each.raw for each in found)
            counts["repeated"] += key in recorded
            if recorded.setdefault(key, found) != found:
                raise UserError(f"{where}: a second, different answer for {key!r}")
        return recorded, counts


_NEEDS = "needs `id` or `prompt`, and `output`, a text, or `outputs`, a list; null is a missing answer"


def _lack(sample: Sample, recorded: Recorded, n: int) -> str:
    """What of `n` answers to a sample there is not."""
    if not recorded:
        return f"no answer for sample {sample.id!r}"
    if not any(recorded[:n]):
        return f"null for sample {sample.id!r}"
    return f"{len(recorded)} answers for sample {sample.id!r}, {n} were asked for"


def _responses(row: dict[str, Any], where: str) -> Recorded:
    """The answers of a row, None for one that is null."""
    outputs: object = row["output"] if "output" in row else row["outputs"]
    texts = cast(list[object], outputs if isinstance(outputs, list) else [outputs])
    if not texts:
        raise UserError(f"{where}: {_NEEDS}")

    def each(name: str, otherwise: object) -> list[object]:
        value = row.get(name, otherwise)
        values = cast(list[object], value) if isinstance(value, list) else [value] * len(texts)
        if len(values) != len(texts):
            raise UserError(f"{where}: `{name}` has not as many entries as there are answers")
        return values

    def response(text: object, ended: object, reasoning: object) -> Response | None:
        if text is None or text != text:
            return None
        if not isinstance(text, str):
            raise UserError(f"{where}: {_NEEDS}")
        if ended not in (True, False, None):
            raise UserError(f"{where}: `finished` is true or false, got {ended!r}")
        finished = bool(ended) and not thinks_on(text)
        return Response(text, finished=finished, reasoning=reasoning if isinstance(reasoning, str) else "")

    uncut = [reason != "length" for reason in each("finish_reason", "stop")]
    ends = each("finished", True) if "finished" in row else uncut
    return tuple(response(*one) for one in zip(texts, ends, each("reasoning", ""), strict=True))


def _keys(sample: Sample) -> list[str]:
    # The text of a question about a picture names many prompts, so there only the id will do.
    by_prompt = [] if sample.images else [f"prompt:{sample.prompt[-1].text}"]
    return [f"id:{sample.id}", *by_prompt]


def read_answers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, or of a JSON list, each with a name for errors.

    Raises:
        UserError: it cannot be read, or a row is not a JSON object.
    """
    try:
        text = files.decoded(files.content(path)).replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the recorded answers {path}: {error}") from None
    if path.suffix == ".json":
        rows = _parsed(text, str(path))
        listed = cast(list[object], rows) if isinstance(rows, list) else [rows]
        named = [(f"{path}, row {number}", row) for number, row in enumerate(listed, 1)]
    else:
        # Files that were put together have a byte order mark in the middle.
        numbered = enumerate((line.strip().strip("\ufeff") for line in text.split("\n")), 1)
        lines = [(f"{path}, line {number}", line) for number, line in numbered if line]
        named = [(where, _parsed(line, where)) for where, line in lines]
    for where, row in named:
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        yield where, cast(dict[str, Any], row)


def _parsed(text: str, where: str) -> object:
    try:
        return files.writable(files.parsed(text, once=True))
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
