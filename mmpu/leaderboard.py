"""Leaderboards: one JSON file per task and judge, every row with what is needed to recompute it.

The same inputs give the same bytes but for `created`. Files are validated when written, merged and read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmpu.core import UserError
from mmpu.statistics import Interval
from mmpu.store import write_atomically

SCHEMA = 1


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
    wins: int
    losses: int
    ties: int
    unread: int
    identical: int
    """Of the ties, pairs of identical answers, decided without a call."""


@dataclass(frozen=True)
class Provenance:
    """What the numbers depend on besides the systems."""

    task_hash: str
    data_hash: str
    judge_identity: str
    sampling: dict[str, Any]
    versions: dict[str, str]
    commit: str | None


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
    """By name of the procedure; procedures are never mixed."""
    metrics: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """Of several answers per prompt, by name: `avg@12`, `maj@12`, `pass@12`."""
    lm_eval: dict[str, Any] = field(default_factory=dict[str, Any])
    """Results of lm-eval's own tasks, with its versions and hashes."""


@dataclass(frozen=True)
class Board:
    """All entries of a task under one judge."""

    task: str
    judge: str
    decided_by: str
    entries: tuple[Entry, ...] = ()
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
        board: Board = _adapter().validate_json(path.read_bytes(), extra="forbid")
    except OSError as error:
        raise UserError(f"cannot read the leaderboard {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise UserError(f"{path} is not a leaderboard of schema {SCHEMA}: {problem}") from None
    if board.schema != SCHEMA:
        raise UserError(f"{path} has schema {board.schema}, this version reads {SCHEMA}")
    return board


def write(path: Path, board: Board) -> None:
    """Validates and writes a board, entries in a fixed order."""
    plain = dataclasses.asdict(board)
    plain["entries"] = sorted(plain["entries"], key=lambda e: json.dumps(_key(e), sort_keys=True))
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    _adapter().validate_json(text, extra="forbid")
    write_atomically(path, text)


def merge(board: Board, new: Sequence[Entry]) -> Board:
    """The board with new entries; one takes the place of the same system on the same prompts, sampling and baseline."""
    taken = {json.dumps(_key(dataclasses.asdict(entry)), sort_keys=True) for entry in new}
    kept = [e for e in board.entries if json.dumps(_key(dataclasses.asdict(e)), sort_keys=True) not in taken]
    return dataclasses.replace(board, entries=(*kept, *new))


def _key(entry: dict[str, Any]) -> list[Any]:
    return [
        entry["split"],
        entry["baseline"]["name"],
        entry["system"]["name"],
        entry["system"]["seed"],
        entry["provenance"]["sampling"],
    ]


def percent(interval: Interval | None) -> str:
    """`61.3 [58.9, 63.8]`, in percent."""
    if interval is None:
        return "–"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


HEADER = ("system", "accuracy %", "win rate %", "W / L / T / unread", "words", "n")


def cells(entry: Entry) -> tuple[str, ...]:
    """A row for people, in the order of HEADER."""
    record = entry.win_rate
    same = entry.system == entry.baseline
    return (
        entry.system.name,
        percent(entry.accuracy),
        "baseline" if same else percent(record.rate),
        "–" if same else f"{record.wins} / {record.losses} / {record.ties} / {record.unread}",
        "–" if math.isnan(entry.mean_words) else f"{entry.mean_words:.1f}",
        str(entry.n),
    )


def markdown(board: Board) -> str:
    """The board as a Markdown table, by win rate."""
    ranked = sorted(board.entries, key=lambda e: -e.win_rate.rate.value)
    lines = [
        f"**{board.task}**, judge `{board.judge}`: {board.decided_by}. Brackets: 95% bootstrap interval over prompts.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(entry)) + " |" for entry in ranked),
    ]
    return "\n".join(lines) + "\n"
