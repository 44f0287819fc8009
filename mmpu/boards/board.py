"""Leaderboards: one JSON file per task and judge, every row with what is needed to recompute it.

The same inputs give the same bytes but for `created`. Files are validated when written, merged and read.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from mmpu import files
from mmpu.core import UserError
from mmpu.files import file_name
from mmpu.statistics import Difference, Interval
from mmpu.store import write_atomically

LARGEST = 2**30
"""Bytes of a board."""
COUNTS = (
    "n",
    "wins",
    "losses",
    "ties",
    "unread",
    "identical",
    "lost",
    "tied",
    "won",
    "readings",
    "truncated",
    "clusters",
)
SCHEMA = 2
READS = (1, 2)
"""Schemas that this version reads; what an older one lacks is absent or unknown."""


@dataclass(frozen=True)
class System:
    """Who answered."""

    name: str
    model: str
    weights: str
    """Hash of the weight files, or of the answers file where answers were given."""
    method: str | None
    """How its last stage was trained; None for a model as it came."""
    config: str | None
    """Hash of the run's resolved config."""
    seed: int | None
    outputs: str
    """Hash of its answers."""


@dataclass(frozen=True)
class WinRate:
    """Duels against the baseline: mean of wins with ties one half, over the readable ones."""

    rate: Interval
    """Of the headline: letters, or under `weighting` soft the probabilities behind them."""
    wins: int
    losses: int
    ties: int
    unread: int
    identical: int
    """Of the ties, pairs of identical answers, decided without a call."""
    soft: Interval | None = None
    """Mean of P(win) + P(tie) / 2, where the judge gave probabilities."""
    weighting: Literal["hard", "soft"] = "hard"


@dataclass(frozen=True)
class Adversarial:
    """How answers that must lose fared against the baseline's."""

    n: int
    lost: int
    tied: int
    won: int
    unread: int


@dataclass(frozen=True)
class Agreement:
    """On how many duels two ways to decide agree who won, a tie being a way to decide too."""

    share: float
    n: int


@dataclass(frozen=True)
class Audit:
    """What is known about the judge's reliability on these duels. Rates are shares; None where nothing tells."""

    readings: int
    flip_rate: float | None
    """Of duels read in both orders, those where another order gave another winner."""
    first_slot: float | None
    """Share of wins, ties halved, that went to the answer shown first; 0.5 if the judge favours no slot."""
    tie_rate: float | None
    unread_rate: float
    length_correlation: float | None
    """Pearson correlation of the win with the difference in characters."""
    grade_agreement: Agreement | None
    """With the task's own grader, on duels that it decides."""
    judges: dict[str, Agreement] = field(default_factory=dict[str, Agreement])
    """With other judges of the same answers."""
    adversarial: dict[str, Adversarial] = field(default_factory=dict[str, Adversarial])


@dataclass(frozen=True)
class LengthModel:
    """The regression behind an `lc_glm`."""

    c: float | None
    """Inverse strength of the L1 penalty of `v1`, chosen by cross-validation; None where there is none."""
    length: float
    difficulty: float
    intercept: float
    saved: float | None = None
    """Nats per duel by which the fit predicts better than a coin: duels that it did not see, in `v1` its own. None
    where that is unknown."""
    saved_by_length: float | None = None
    """The same against the win rate alone."""


@dataclass(frozen=True)
class Provenance:
    """What the numbers depend on besides the systems."""

    task_hash: str
    data_hash: str
    judge_identity: str
    sampling: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    judge: dict[str, str] = field(default_factory=dict[str, str])
    """The judge's name, model, revision and its prompt, as hash and text, each where it has one."""


@dataclass(frozen=True)
class Entry:
    """One row."""

    system: System
    baseline: System
    split: str
    n: int
    win_rate: WinRate
    accuracy: Interval | None
    """Mean grade, where the task has a grader."""
    mean_words: float
    truncated: int
    provenance: Provenance
    created: str
    length_controlled: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """By name of the procedure (`lc_equalised`, `lc_glm.minimal`, …); procedures are never mixed."""
    length_models: dict[str, LengthModel] = field(default_factory=dict[str, LengthModel])
    length_refused: dict[str, str] = field(default_factory=dict[str, str])
    """Why a procedure gives no number here."""
    equalised: dict[str, int] = field(default_factory=dict[str, int])
    """Duels by how `lc_equalised` made the lengths comparable."""
    score: Interval | None = None
    """Mean mark in 0..1, where the judge marks each answer by itself."""
    metrics: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """Of several answers per prompt, by name: `avg@12`, `maj@12`, `pass@12`."""
    lm_eval: dict[str, Any] = field(default_factory=dict[str, Any])
    """Results of lm-eval's own tasks, with its versions and hashes."""
    clusters: int | None = None
    """Groups of items that were resampled together; None if every item stands for itself."""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """What was out of the ordinary in the answers: `ours.empty`, `missing`, …"""
    audit: Audit | None = None


@dataclass(frozen=True)
class Comparison:
    """Two systems against the same baseline, under the same judge, on the same prompts."""

    ours: str
    theirs: str
    baseline: str
    split: str
    judge_identity: str
    metric: str
    """`raw`, a procedure of length control, or what several answers are worth, such as `avg@12`."""
    difference: Difference
    """Of the rates, ours − theirs."""
    mcnemar: float | None
    """Exact p-value over the items on which one did better; None for regressions."""
    holm: float
    """The difference's p-value after Holm's correction over the comparisons made together."""


@dataclass(frozen=True)
class Board:
    """All entries of a task under one judge."""

    task: str
    judge: str
    decided_by: str
    entries: tuple[Entry, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    schema: int = SCHEMA


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Board)


def schema() -> dict[str, Any]:
    """The JSON Schema of a board file."""
    return _adapter().json_schema()


def read(path: Path) -> Board:
    """A board from its file.

    Raises:
        UserError: unreadable, or not of the schema.
    """
    from pydantic import ValidationError

    try:
        raw = files.content(path, LARGEST).removeprefix(codecs.BOM_UTF8)
        board: Board = _adapter().validate_json(raw, extra="forbid")
    except OSError as error:
        raise UserError(f"cannot read the leaderboard {path}: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise UserError(f"{path} is not a leaderboard of schema {SCHEMA}: {problem}") from None
    if board.schema not in READS:
        raise UserError(f"{path} has schema {board.schema}, this version reads {', '.join(map(str, READS))}")
    _check_numbers(board, path)
    return dataclasses.replace(board, schema=SCHEMA)


def _check_numbers(board: Board, path: Path) -> None:
    """What no evaluation writes: numbers that are none, and counts that do not add up.

    Raises:
        UserError: with the entry.
    """
    for place, value in _numbers(dataclasses.asdict(board), ""):
        name = place.rpartition(".")[2]
        if not math.isfinite(value) or (name in COUNTS and value < 0):
            raise UserError(f"{path}: {place} is {value}, which no evaluation writes; take the file from a backup")
    for number, entry in enumerate(board.entries):
        record = entry.win_rate
        total = record.wins + record.losses + record.ties + record.unread
        if total > entry.n or not 0 <= record.rate.value <= 1:
            raise UserError(
                f"{path}: entries.{number}: {total} duels on {entry.n} prompts, win rate {record.rate.value:g}, which "
                "no evaluation writes; take the file from a backup"
            )


def _numbers(value: object, place: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float):
        yield place, value
    elif isinstance(value, dict | list | tuple):
        pairs = cast(Mapping[str, object], value).items() if isinstance(value, dict) else enumerate(value)
        for key, inside in pairs:
            yield from _numbers(inside, f"{place}.{key}" if place else str(key))


def board_name(task: str, judge: str) -> str:
    """The file of a board in its folder."""
    return f"{file_name(task)}.{file_name(judge)}.json"


def write(path: Path, board: Board) -> None:
    """Validates and writes a board, entries in a fixed order."""
    plain = dataclasses.asdict(board)
    plain["entries"] = sorted(plain["entries"], key=lambda e: json.dumps(_key(e), sort_keys=True))
    plain["comparisons"] = sorted(plain["comparisons"], key=_comparison_key)
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    _adapter().validate_json(text, extra="forbid")
    write_atomically(path, text)


def merge(board: Board, new: Sequence[Entry], comparisons: Sequence[Comparison] = ()) -> Board:
    """The board with new entries; one takes the place of the same system on the same prompts, sampling, baseline and
    judge. Comparisons with a system that was evaluated anew are dropped, unless they are new too."""
    taken = set(map(_name, new))
    kept = [e for e in board.entries if _name(e) not in taken]
    judged = {(e.split, e.baseline.name, e.provenance.judge_identity, e.system.name) for e in new}
    current = [
        c
        for c in board.comparisons
        if not judged & {(c.split, c.baseline, c.judge_identity, name) for name in (c.ours, c.theirs)}
    ]
    return dataclasses.replace(board, entries=(*kept, *new), comparisons=(*current, *comparisons))


def merged(boards: Sequence[Board]) -> Board:
    """Boards of one task and judge as one; of two entries of the same system under the same circumstances the one made
    later stands.

    Raises:
        UserError: there is none, or they are of different tasks or judges.
    """
    names = {(board.task, board.judge) for board in boards}
    if len(names) != 1:
        told = ", ".join(sorted(f"{task} under {judge}" for task, judge in names)) or "no board"
        raise UserError(f"boards of one task and judge can be merged, and these are {told}")
    entries = sorted((e for board in boards for e in board.entries), key=lambda e: e.created)
    latest = {_name(entry): entry for entry in entries}
    found = dataclasses.replace(boards[-1], entries=(), comparisons=())
    for board in boards:
        own = [e for e in board.entries if latest[_name(e)] == e]
        kept = {(e.split, e.baseline.name, e.provenance.judge_identity, e.system.name) for e in own}
        met = [
            c
            for c in board.comparisons
            if all((c.split, c.baseline, c.judge_identity, name) in kept for name in (c.ours, c.theirs))
        ]
        found = merge(found, own, met)
    return found


def _name(entry: Entry) -> str:
    """What two entries share where the later one takes the other's place."""
    return json.dumps(_key(dataclasses.asdict(entry)), sort_keys=True)


def _key(entry: dict[str, Any]) -> list[Any]:
    return [
        entry["split"],
        entry["baseline"]["name"],
        entry["system"]["name"],
        entry["system"]["seed"],
        entry["provenance"]["sampling"],
        entry["provenance"]["judge_identity"],
    ]


def _comparison_key(comparison: dict[str, Any]) -> list[str]:
    return [comparison[k] for k in ("split", "baseline", "judge_identity", "metric", "ours", "theirs")]
