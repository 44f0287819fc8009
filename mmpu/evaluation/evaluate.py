"""Evaluation, top to bottom: every system answers the same prompts, a judge compares it with the baseline,
statistics, a board.

Sample ─Engine→ Response ─Judge→ Verdict ─statistics→ Entry

Verdicts are kept in `verdicts.sqlite` beside the boards; what is there is not asked for again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mmpu.boards import Board, Provenance, board_name, keep, merge, provenance_of, read, write
from mmpu.core import Sample, Sampling, UserError
from mmpu.duel import Duel, Judge
from mmpu.evaluation.answers import Answers, Contender, Told, answer, place_of, untold
from mmpu.evaluation.clusters import clusters_of
from mmpu.evaluation.metrics import intervals
from mmpu.files import file_name
from mmpu.judging import (
    MAX_UNREAD,
    Calibration,
    Item,
    Limits,
    Match,
    Probe,
    Progress,
    Question,
    Verdicts,
    adversarial,
    ask,
    asked_of,
    comparisons,
    counts_of,
    equal_duel,
    equalised,
    item_of,
    measure_all,
    questions,
    with_strengths,
)
from mmpu.store import locked, write_atomically
from mmpu.task import YamlTask

T = TypeVar("T")
STORE = "verdicts.sqlite"
PATIENCE = 120.0
"""Seconds to wait for others who publish to the same board; each takes a fraction of one."""


@dataclass(frozen=True)
class Settings:
    """How an evaluation is answered, judged and measured."""

    equalise: bool = False
    """Judge length-equalised answers too (`lc_equalised`)."""
    probes: int = 5
    """Prompts on which answers that must lose are judged, where a model judges."""
    calibration: Calibration | None = None
    """For `lc_glm.noreg` and `lc_glm.v1`."""
    max_unread: float = MAX_UNREAD
    """Share of duels without a readable verdict above which nothing is published."""
    max_missing: float = 0.02
    """Share of prompts without an answer, of either side, above which nothing is judged."""
    limits: Limits = field(default_factory=Limits)
    attempts: int = 1
    """Answers per prompt; the first is judged, all are graded."""
    lm_eval: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By contender, what lm-eval reports of it, to be published beside."""


@dataclass(frozen=True)
class Prepared:
    """A match with the duels that it needs judged."""

    match: Match
    duels: tuple[Duel, ...]


def publish(
    prepared: Sequence[Prepared],
    task: YamlTask,
    judge: Judge,
    folder: Path,
    settings: Settings,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Board:
    """Judges what the store lacks, measures all matches and merges their entries into the board.

    Raises:
        Stopped: the budget of `settings.limits` is spent; the same call goes on from there.
    """
    path = folder / board_name(task.name, judge.name)
    store = Verdicts(folder / STORE)
    ask(judge, asked(judge, prepared), store, settings.limits, progress)
    for one in prepared:
        store.add_match(one.match.key, one.match.plain())
    measured = measure_all([one.match for one in prepared], store, settings.calibration, settings.max_unread)
    for one in measured:
        _write_verdicts(folder / board_name(task.name, judge.name).removesuffix(".json"), one.match, store)
    with locked(path.with_name(f".{path.name}.lock"), f"the board {path}", PATIENCE):
        # Another evaluation may have published meanwhile.
        board = read(path) if path.exists() else Board(task.name, judge.name, judge.describe)
        board = with_strengths(merge(board, [m.entry for m in measured], comparisons(measured)))
        write(path, board)
    return board


def prepare(
    contenders: Sequence[Contender],
    baseline: str,
    task: YamlTask,
    judge: Judge,
    split: str,
    sampling: Sampling,
    folder: Path,
    settings: Settings,
    told: Told = untold,
) -> list[Prepared]:
    """Everything before a judge is asked: answers, and one match per system.

    Args:
        told: Hears how many samples each system has answered.
    """
    if (path := folder / board_name(task.name, judge.name)).exists():
        read(path)  # a board that cannot be added to should fail before anything is asked
    samples = task.samples(split)
    place = place_of(folder, task.name, split)
    if task.config.redistribute:
        keep(samples, place)
    answers = {
        c.name: answer(c, task, samples, sampling, place, settings.max_missing, settings.attempts, told)
        for c in contenders
    }
    provenance = provenance_of(task, samples, judge, sampling)
    theirs = answers[baseline]
    return [_match(ours, theirs, task, judge, split, samples, provenance, settings) for ours in answers.values()]


def asked(judge: Judge, prepared: Sequence[Prepared]) -> list[Question]:
    """All readings that matches need."""
    return questions(judge, [duel for one in prepared for duel in one.duels])


def _match(
    ours: Answers,
    theirs: Answers,
    task: YamlTask,
    judge: Judge,
    split: str,
    samples: Sequence[Sample],
    provenance: Provenance,
    settings: Settings,
) -> Prepared:
    both = zip(samples, ours.responses, theirs.responses, ours.grades, theirs.grades, strict=True)
    answered = [
        (Duel(sample, a.text, b.text), (grade, other), a.finished)
        for sample, a, b, grade, other in both
        if a is not None and b is not None
    ]
    if not answered:
        raise UserError(f"{ours.system.name} and {theirs.system.name} have no prompt that both answered")
    clusters = clusters_of(samples)
    items: list[Item] = []
    duels: list[Duel] = []
    for duel, grades, _ in answered:
        equal = equalised(duel) if settings.equalise else None
        several = {name: each[duel.sample.id] for name, each in ours.metrics.items() if duel.sample.id in each}
        items.append(replace(item_of(judge, duel, grades, clusters[duel.sample.id], equal), metrics=several))
        duels += [duel] if equal is None else [duel, equal_duel(duel, equal)]
    probes: list[Probe] = []
    if "prompt" in provenance.judge and ours.system != theirs.system:
        for duel, _, _ in _spread(answered, settings.probes):
            for kind, trap in adversarial(duel.sample, duel.theirs).items():
                probes.append(Probe(kind, duel.sample.id, asked_of(judge, trap)))
                duels.append(trap)
    counts = counts_of([duel.ours for duel, _, _ in answered], [duel.theirs for duel, _, _ in answered])
    for who, answers in (("ours", ours), ("theirs", theirs)):
        counts.update({f"{who}.{name}": n for name, n in answers.oddities.items()})
    match = Match(
        task=task.name,
        split=split,
        judge=judge.name,
        decided_by=judge.describe,
        weighting=judge.weighting,
        system=ours.system,
        baseline=theirs.system,
        provenance=provenance,
        items=tuple(items),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        truncated=sum(not finished for _, _, finished in answered),
        clustered=len({item.cluster for item in items}) < len(items),
        counts=counts,
        probes=tuple(probes),
        metrics=intervals(ours.metrics, clusters),
        lm_eval=settings.lm_eval.get(ours.system.name, {}),
    )
    return Prepared(match, tuple(duels))


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced."""
    return list(items[:: max(1, len(items) // count)][:count]) if count else []


def _write_verdicts(folder: Path, match: Match, store: Verdicts) -> None:
    """Every verdict of a match to `folder/<system>.verdicts.jsonl`."""
    readings = store.get(match.keys)
    verdicts = [v for item in match.items for v in item.raw.verdicts(item.sample, readings)]
    write_atomically(
        folder / f"{file_name(match.system.name)}.verdicts.jsonl",
        "".join(json.dumps(asdict(v), ensure_ascii=False) + "\n" for v in verdicts),
    )
