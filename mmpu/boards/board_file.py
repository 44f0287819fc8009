"""Board files: validated when written and when read."""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from mmpu import files
from mmpu.boards.board import SCHEMA, Board, comparison_key, key_of
from mmpu.core import UserError
from mmpu.store import write_atomically

READS = (1, 2, 3)
"""Schemas that this version reads; what an older one lacks is absent or unknown."""
LARGEST = 2**30
"""Bytes of a board."""
COUNTS = frozenset(
    ("n", "wins", "losses", "ties", "unread", "identical", "lost", "tied", "won", "readings", "truncated", "clusters")
)
SHARES = frozenset(
    ("value", "low", "high", "flip_rate", "first_slot", "tie_rate", "unread_rate", "share", "p", "mcnemar", "holm")
)
FREE = (".lm_eval.", ".provenance.", ".length_models.", ".origin.")
"""Parts of an entry whose numbers may be any that are finite."""
ANY = (-sys.float_info.max, sys.float_info.max)
ROUNDING = 1e-9
"""By which a share may leave 0..1."""


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
        board: Board = _adapter().validate_json(raw, extra="forbid", strict=True)
        files.parsed(raw, once=True)
    except OSError as error:
        raise UserError(f"cannot read the leaderboard {path}: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise UserError(f"{path} is not a leaderboard of schema {SCHEMA}: {problem}") from None
    except ValueError as error:
        raise UserError(f"{path} is not a leaderboard: {error}") from None
    if board.schema not in READS:
        raise UserError(f"{path} has schema {board.schema}, this version reads {', '.join(map(str, READS))}")
    _check_numbers(board, path)
    return dataclasses.replace(board, schema=SCHEMA)


def _check_numbers(board: Board, path: Path) -> None:
    """What no evaluation writes: numbers that are none, counts that do not add up, a row twice.

    Raises:
        UserError: with the entry.
    """
    for place, value in _numbers(dataclasses.asdict(board), ""):
        low, high = _range(place)
        if not low <= value <= high:
            raise UserError(f"{path}: {place} is {value}, which no evaluation writes; take the file from a backup")
    rows = Counter(json.dumps(key_of(dataclasses.asdict(entry)), sort_keys=True) for entry in board.entries)
    if twice := [row for row, n in rows.items() if n > 1]:
        raise UserError(f"{path}: the row {twice[0]} stands there twice, which no evaluation writes; keep one of them")
    for number, entry in enumerate(board.entries):
        record = entry.win_rate
        total = record.wins + record.losses + record.ties + record.unread
        if total > entry.n or not 0 <= record.rate.value <= 1:
            raise UserError(
                f"{path}: entries.{number}: {total} duels on {entry.n} prompts, win rate {record.rate.value:g}, which "
                "no evaluation writes; take the file from a backup"
            )


def _range(place: str) -> tuple[float, float]:
    """What a number of a board may be."""
    name = place.rpartition(".")[2]
    if any(part in place for part in FREE):
        return ANY
    if ".items." in place:
        return -ROUNDING, 1 + ROUNDING
    if name in COUNTS or name == "mean_words" or ".counts." in place:
        return 0, LARGEST
    if name == "length_correlation" or (".difference." in place and name != "p"):
        return -1 - ROUNDING, 1 + ROUNDING
    return (-ROUNDING, 1 + ROUNDING) if name in SHARES else ANY


def _numbers(value: object, place: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float):
        yield place, value
    elif isinstance(value, dict | list | tuple):
        pairs = cast(Mapping[str, object], value).items() if isinstance(value, dict) else enumerate(value)
        for key, inside in pairs:
            yield from _numbers(inside, f"{place}.{key}" if place else str(key))


def write(path: Path, board: Board) -> None:
    """Validates and writes a board, entries in a fixed order."""
    plain = dataclasses.asdict(board)
    plain["entries"] = sorted(plain["entries"], key=lambda e: json.dumps(key_of(e), sort_keys=True))
    plain["comparisons"] = sorted(plain["comparisons"], key=comparison_key)
    text = _spelled(plain) + "\n"
    _adapter().validate_json(text, extra="forbid")
    write_atomically(path, text)


def _spelled(plain: dict[str, Any]) -> str:
    """JSON that people can read: what is told sample by sample stands in one line each."""
    lines: dict[str, str] = {}
    for entry in plain["entries"]:
        for key in ("items", "resampled"):
            mark = uuid.uuid4().hex  # which no name can be
            lines[f'"{mark}"'] = json.dumps(entry[key], sort_keys=True, ensure_ascii=False, allow_nan=False)
            entry[key] = mark
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return re.sub(r'"[0-9a-f]{32}"', lambda found: lines.get(found[0], found[0]), text)
