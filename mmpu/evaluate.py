"""Evaluation, top to bottom: every system answers the same prompts, a judge compares it with the baseline,
statistics, a board.

Sample ─Engine→ Response ─Judge→ Verdict ─statistics→ Entry
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmpu.core import Duel, Engine, Failed, Judge, Response, Sample, Sampling, UserError, Verdict, digest
from mmpu.leaderboard import Board, Entry, Provenance, System, WinRate, merge, read, write
from mmpu.media import prompt_key
from mmpu.metrics import over_attempts
from mmpu.statistics import bootstrap
from mmpu.store import write_atomically
from mmpu.task import YamlTask

MAX_UNREAD = 0.02
"""Share of duels without a readable verdict above which an evaluation fails."""


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


@dataclass(frozen=True)
class Answers:
    """A system and what it answered, in the order of the samples."""

    system: System
    attempts: tuple[tuple[Response, ...], ...]
    """All answers to each sample."""

    @property
    def responses(self) -> tuple[Response, ...]:
        """The first answer to each sample, which is the one that is judged."""
        return tuple(each[0] for each in self.attempts)


def evaluate(
    contenders: Sequence[Contender],
    baseline: str,
    task: YamlTask,
    judge: Judge,
    split: str,
    sampling: Sampling,
    folder: Path,
    attempts: int = 1,
    lm_eval: Mapping[str, dict[str, Any]] | None = None,
) -> Board:
    """Answers, judges and publishes; returns the board that `folder/<task>.<judge>.json` now holds.

    Args:
        baseline: The name of the contender that the others are compared with.
        attempts: Answers per prompt; the first is judged, all are graded.
        lm_eval: By contender, what lm-eval reports of it.
    """
    path = folder / f"{task.name}.{judge.name}.json"
    board = read(path) if path.exists() else Board(task.name, judge.name, judge.describe)
    samples = task.samples(split)
    place = folder / f"{task.name}.{split}"
    answers = {c.name: answer(c, samples, sampling, place, attempts) for c in contenders}
    theirs = answers[baseline]
    provenance = provenance_of(task, samples, judge, sampling)
    entries = [
        entry(ours, theirs, task, judge, split, samples, provenance, folder / f"{task.name}.{judge.name}")
        for ours in answers.values()
    ]
    reports = lm_eval or {}
    entries = [replace(e, lm_eval=reports.get(e.system.name, {})) for e in entries]
    board = merge(read(path) if path.exists() else board, entries)  # another evaluation may have published meanwhile
    write(path, board)
    return board


def answer(
    contender: Contender, samples: Sequence[Sample], sampling: Sampling, folder: Path, attempts: int = 1
) -> Answers:
    """`attempts` responses per sample, also written to `folder/<system>.outputs.jsonl`."""
    found = contender.engine.generate(samples, attempts, sampling)
    failed = [(s.id, f.reason) for s, f in zip(samples, found, strict=True) if isinstance(f, Failed)]
    if failed:
        raise UserError(
            f"{contender.name} left {len(failed)} of {len(samples)} prompts unanswered; first, {failed[0][0]!r}: "
            f"{failed[0][1]}"
        )
    responses = tuple(f for f in found if isinstance(f, tuple))
    texts = ([r.text for r in each] for each in responses)
    rows = [{"id": s.id, "output": each if attempts > 1 else each[0]} for s, each in zip(samples, texts, strict=True)]
    write_atomically(
        folder / f"{slug(contender.name)}.outputs.jsonl",
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
    )
    return Answers(system, responses)


def entry(
    ours: Answers,
    theirs: Answers,
    task: YamlTask,
    judge: Judge,
    split: str,
    samples: Sequence[Sample],
    provenance: Provenance,
    folder: Path,
) -> Entry:
    """Judges one system against the baseline and computes its row; verdicts go to `folder/<system>.verdicts.jsonl`."""
    duels = [Duel(s, a.text, b.text) for s, a, b in zip(samples, ours.responses, theirs.responses, strict=True)]
    verdicts = judge.compare(duels)
    write_atomically(
        folder / f"{slug(ours.system.name)}.verdicts.jsonl",
        "".join(json.dumps(asdict(v), ensure_ascii=False) + "\n" for orders in verdicts for v in orders),
    )
    grades = [task.grade(s, r.text) for s, r in zip(samples, ours.responses, strict=True)]
    known = [g for g in grades if g is not None]
    several = len(ours.attempts[0]) > 1
    return Entry(
        system=ours.system,
        baseline=theirs.system,
        split=split,
        n=len(samples),
        win_rate=win_rate(verdicts),
        accuracy=bootstrap(known) if known else None,
        mean_words=sum(len(r.text.split()) for r in ours.responses) / len(samples),
        truncated=sum(not r.finished for r in ours.responses),
        provenance=provenance,
        metrics=over_attempts(task.grader, samples, ours.attempts) if several and task.grader else {},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def win_rate(verdicts: Sequence[tuple[Verdict, ...]]) -> WinRate:
    """Wins over readable duels; a duel is worth the mean of its readable orders.

    Raises:
        UserError: more than MAX_UNREAD of the duels could not be read at all.
    """
    wins: list[float] = []
    reasons: list[str] = []
    for orders in verdicts:
        read_orders = [v.win for v in orders if v.win is not None]
        if read_orders:
            wins.append(sum(read_orders) / len(read_orders))
        else:
            reasons.append(orders[0].reason)
    if len(reasons) > MAX_UNREAD * len(verdicts):
        common = sorted(set(reasons), key=reasons.count, reverse=True)[:3]
        raise UserError(
            f"{len(reasons)} of {len(verdicts)} duels could not be read, more than {MAX_UNREAD:.0%}; nothing was "
            f"published. Most frequent: {' | '.join(common)}"
        )
    return WinRate(
        rate=bootstrap(wins),
        wins=sum(w > 0.5 for w in wins),
        losses=sum(w < 0.5 for w in wins),
        ties=sum(w == 0.5 for w in wins),
        unread=len(reasons),
        identical=sum(orders[0].reason == "identical answers" for orders in verdicts),
    )


def provenance_of(task: YamlTask, samples: Sequence[Sample], judge: Judge, sampling: Sampling) -> Provenance:
    rows = [[s.id, prompt_key(s.prompt), s.reference, s.answer] for s in samples]
    return Provenance(
        task_hash=digest(task.path.read_text(encoding="utf-8")),
        data_hash=digest(rows),
        judge_identity=judge.identity,
        sampling=dict(asdict(sampling), stop=list(sampling.stop)),
        versions=versions("mmpu", "torch", "transformers", "peft"),
        commit=_commit(),
    )


def versions(*packages: str) -> dict[str, str]:
    def one(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {name: one(name) for name in packages}


def _commit() -> str | None:
    """The commit of the checkout that mmpu runs from, marked if it has changes; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def slug(name: str) -> str:
    """A file name for a system; names that would fall together get a hash each."""
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
    return plain if plain == name else f"{plain}-{digest(name)[:6]}"
