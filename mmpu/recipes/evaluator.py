"""Which student can judge itself on a task, and how? The search that a run makes before a stage trusts its evaluator,
by itself and over several models."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmpu import files
from mmpu.core import Engine, Failed, Group, Response, Sampling, UserError
from mmpu.engines.hf import HF
from mmpu.recipes import wiring
from mmpu.scorers.self_eval import SelfEval
from mmpu.specs import Spec
from mmpu.store import write_atomically
from mmpu.student import StudentConfig, load_student
from mmpu.task import YamlTask, load_local
from mmpu.train.evaluator import refusal, second_answers, written
from mmpu.train.search import Search
from mmpu.train.tried import HEADER, Tried, cells

Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluatorOptions:
    """What `mmpu evaluator` was asked for."""

    models: tuple[str, ...]
    task: str
    anchors: str | None = None
    """A .jsonl of a teacher's answers, or `reference`; None takes the file beside the task, else its references."""
    split: str = "train"
    limit: int = 64
    seconds: int = 16
    graded: int = 16
    """Prompts of which candidates are sampled to be graded, where the task can."""
    k: int = 4
    max_tokens: int | None = None
    """Of a candidate; None takes the task's."""
    min_auc: float = 0.75
    tokens: int = 50_000
    """The most that go through a model for the search, sampling not included."""
    data: str | Sequence[str] = ()
    trust: bool = False
    allow_urls: bool = False
    out: Path | None = None
    """JSON with all rows; models that it holds are not tried again."""


@dataclass(frozen=True)
class Outcome:
    """What a model came to."""

    model: str
    rows: tuple[Tried, ...]
    confirmed: tuple[Tried, ...]
    verdict: str
    able: bool
    tokens: int = 0
    """That went through the model for the search."""
    seconds: float = math.nan
    """That it took, sampling included."""


def examine(options: EvaluatorOptions, say: Say) -> list[Outcome]:
    """The outcome of every model.

    Raises:
        UserError: a model, the task or its anchors cannot be had.
    """
    task = load_local(options.task, options.data, trust=options.trust, allow_urls=options.allow_urls)
    samples = task.samples(options.split)[: options.limit]
    teacher = _teacher(options, task)
    answers = teacher.generate(samples, 1, Sampling(temperature=0.0))
    groups = [
        Group(sample, anchor=answer[0].raw, anchor_finished=answer[0].finished)
        for sample, answer in zip(samples, answers, strict=True)
        if not isinstance(answer, Failed)
    ]
    if not groups:
        reason = next((a.reason for a in answers if isinstance(a, Failed)), "no prompts")
        raise UserError(f"task {task.name}: no prompt of {options.split} has an anchor: {reason}; give `--anchors`")
    seconds = second_answers(teacher, groups[: options.seconds], Sampling(temperature=0.0))
    known = _known(options)
    found: list[Outcome] = []
    for model in options.models:
        if model not in known:
            say(f"{model}: {len(groups)} prompts of {task.name}, {len(seconds)} with a second answer")
            known[model] = asdict(_outcome(model, options, task, groups, seconds, say))
            if options.out is not None:
                write_atomically(options.out, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        found.append(_read(known[model]))
    return found


def table(outcome: Outcome) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows for people; the last row but one is what was confirmed on other prompts."""
    rows: list[Sequence[str]] = [cells(row) for row in outcome.rows]
    rows += [cells(replace(row, name=f"confirmed: {row.name}")) for row in outcome.confirmed]
    return HEADER, rows


def _teacher(options: EvaluatorOptions, task: YamlTask) -> Engine:
    beside = task.path.with_name(f"{task.name}.anchors.jsonl")
    named = options.anchors or (str(beside) if beside.exists() else "reference")
    spec: object = {"name": "replay", "path": named, "partial": True} if named.endswith(".jsonl") else named
    return wiring.engine(Spec[Engine].read(spec, "--anchors", Engine), task)


def _outcome(
    model: str, options: EvaluatorOptions, task: YamlTask, groups: list[Group], seconds: dict[str, str], say: Say
) -> Outcome:
    student = load_student(StudentConfig(model))
    engine, began = HF(student), time.perf_counter()
    sampled = _sampled(engine, options, task, groups) if task.grader is not None else []
    search = Search(SelfEval(engine, task=task), options.min_auc, lambda: student.tokens_read, say, options.tokens)
    found = search(groups, seconds, sampled, task)
    verdict = written(found.settings) if found.settings is not None else refusal(found, options.min_auc)
    took, able = time.perf_counter() - began, found.settings is not None
    return Outcome(model, found.rows, found.confirmed, verdict, able, found.tokens, round(took, 1))


def _sampled(engine: HF, options: EvaluatorOptions, task: YamlTask, groups: list[Group]) -> list[Group]:
    """The student's own candidates."""
    own, chosen = task.config.sampling, groups[: options.graded]
    drawn = Sampling(max_tokens=options.max_tokens or own.max_tokens, stop=own.stop)
    answers = engine.generate([group.sample for group in chosen], options.k, drawn)
    return [
        replace(group, responses=tuple(r for r in answer if _said(r)))
        for group, answer in zip(chosen, answers, strict=True)
        if not isinstance(answer, Failed)
    ]


def _said(response: Response) -> bool:
    return bool(response.tokens)


def _known(options: EvaluatorOptions) -> dict[str, Any]:
    if options.out is None or not options.out.exists():
        return {}
    try:
        known = files.value_in(options.out)
        for outcome in known.values():
            _read(outcome)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{options.out} holds no outcomes of `mmpu evaluator` ({error}); name another file") from None
    return known


def _read(values: dict[str, Any]) -> Outcome:
    from pydantic import TypeAdapter

    return TypeAdapter(Outcome).validate_python(values)
