"""What systems answer to the prompts of an evaluation, graded where the task can, kept as a file of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmpu import files
from mmpu.boards import Origin, System
from mmpu.core import Engine, Failed, Response, Sample, Sampling, UserError, digest
from mmpu.evaluation.metrics import by_sample
from mmpu.store import write_atomically
from mmpu.task import YamlTask
from mmpu.thinking import answer_of, thinks_on

Told = Callable[[str, int, int], None]
"""Hears a system's name, how many samples it has answered, and of how many."""


def untold(_name: str, _done: int, _total: int) -> None:
    """Hears nothing."""


@dataclass(frozen=True)
class Contender:
    """A system before it has answered."""

    name: str
    model: str
    engine: Engine
    weights: str
    method: str | None = None
    config: str | None = None
    seed: int | None = None
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class Answers:
    """A system and what it answered, in the order of the samples; None where it has no answer."""

    system: System
    responses: tuple[Response | None, ...]
    """The first answer to each sample, which is the one that is judged."""
    grades: tuple[float | None, ...]
    oddities: Mapping[str, int]
    """What was out of the ordinary, counted: `missing`, `fewer_attempts`, what the engine noticed of its file."""
    metrics: Mapping[str, Mapping[str, float]]
    """Of several answers to each sample, by name and sample; empty where one was asked for."""


def answer(
    contender: Contender,
    task: YamlTask,
    samples: Sequence[Sample],
    sampling: Sampling,
    folder: Path,
    max_missing: float = 0.0,
    attempts: int = 1,
    told: Told = untold,
) -> Answers:
    """`attempts` responses per sample, also written to `folder/<system>.outputs.jsonl`.

    Args:
        told: Hears how many samples are answered, as their answers come.

    Raises:
        UserError: more than the share `max_missing` of the prompts got none.
    """
    try:
        found = _answered(contender, samples, sampling, attempts, told)
    finally:
        contender.engine.close()  # the next one needs the memory
    failed = [(s.id, f.reason) for s, f in zip(samples, found, strict=True) if isinstance(f, Failed)]
    if len(failed) > max_missing * len(samples):
        raise UserError(
            f"{contender.name} left {len(failed)} of {len(samples)} prompts unanswered, more than {max_missing:.0%} "
            f"(--max-missing); first, {failed[0][0]!r}: {failed[0][1]}"
        )
    attempts_of = [() if isinstance(f, Failed) else tuple(map(_heard, f)) for f in found]
    answered = [(sample, each) for sample, each in zip(samples, attempts_of, strict=True) if each]
    rows = [{"id": s.id, **_row(each, attempts > 1)} for s, each in answered]
    write_atomically(
        folder / f"{files.file_name(contender.name)}.outputs.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    )
    system = System(
        contender.name,
        contender.model,
        contender.weights,
        contender.method,
        contender.config,
        contender.seed,
        digest(rows),
        contender.origin,
    )
    responses = tuple(each[0] if each else None for each in attempts_of)
    grades = tuple(None if r is None else task.grade(s, r.text) for s, r in zip(samples, responses, strict=True))
    oddities = getattr(contender.engine, "oddities", None)
    whole = [(sample, each) for sample, each in answered if len(each) == attempts]
    short = len(answered) - len(whole)
    counts = {"missing": len(failed), "fewer_attempts": short, **(oddities(samples) if oddities else {})}
    metrics: dict[str, dict[str, float]] = {}
    if attempts > 1 and task.grader is not None and whole:
        metrics = by_sample(task.grader, [sample for sample, _ in whole], [each for _, each in whole])
    return Answers(system, responses, grades, {name: n for name, n in counts.items() if n}, metrics)


def _answered(
    contender: Contender, samples: Sequence[Sample], sampling: Sampling, attempts: int, told: Told
) -> list[tuple[Response, ...] | Failed]:
    """What the engine says, as it comes from engines that hand answers over one by one."""
    engine = contender.engine
    if type(engine).answers is Engine.answers:  # in one piece, which is what it does best
        return engine.generate(samples, attempts, sampling)
    found: dict[int, tuple[Response, ...] | Failed] = {}
    for each in engine.answers(samples, attempts, sampling):
        found[each.index] = each.value
        told(contender.name, len(found), len(samples))
    return [found[index] for index in range(len(samples))]


def place_of(folder: Path, task: str, split: str) -> Path:
    """The folder of the answers to a split, `market.test` or, of `test[:100]`, `market.test.0-100`. One that an earlier
    version named with brackets is used on."""
    name, split = files.file_name(task), split.replace("/", "-")  # a store's word for it
    older = folder / f"{name}.{split}"
    plain = re.sub(r"\[(\d*):(\d*)\]", lambda m: f".{m[1] or 0}-{m[2] or 'end'}", split)
    return older if older.is_dir() else folder / f"{name}.{plain}"


def answers_of(system: System, folder: Path) -> dict[str, str]:
    """A system's judged answers by sample, without their thinking; errors as in `said_by`."""
    return {sample: answer_of(raw) for sample, (raw, _) in said_by(system, folder).items()}


def said_by(system: System, folder: Path) -> dict[str, tuple[str, str]]:
    """All that a system said in its judged answers, and the thinking that came apart from it, by sample; from the file
    that `answer` wrote.

    Raises:
        UserError: the file is not there, or holds other answers than those that were judged.
    """
    path = folder / f"{files.file_name(system.name)}.outputs.jsonl"
    try:
        rows = [files.parsed(line) for line in files.text(path).split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the answers {path}: {error}") from None
    if digest(rows) != system.outputs:
        raise UserError(f"{path} holds other answers of {system.name} than those that were judged; evaluate again")
    return {row["id"]: (_first(row["output"]), _first(row.get("reasoning", ""))) for row in rows}


def _first(said: str | list[str]) -> str:
    """The judged one of several attempts."""
    return said[0] if isinstance(said, list) else said


def _heard(response: Response) -> Response:
    """A response that can be written down, unfinished where its thinking never ended."""
    raw, reasoning = map(files.writable, (response.raw, response.reasoning))
    return replace(response, raw=raw, reasoning=reasoning, finished=response.finished and not thinks_on(raw))


def _row(responses: Sequence[Response], several: bool) -> dict[str, object]:
    """All that was said, as a row of a file of answers."""
    said, apart = [r.raw for r in responses], [r.reasoning for r in responses]
    row: dict[str, object] = {"output": said if several else said[0]}
    return {**row, "reasoning": apart if several else apart[0]} if any(apart) else row
