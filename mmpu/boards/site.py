"""A site of boards for any static host: an index, every board's page, the board files, and the schema they follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpu import __version__
from mmpu.boards.board import Board
from mmpu.boards.board_file import schema
from mmpu.boards.document import FOLDER, document
from mmpu.core import UserError

SCHEMA_FILE = "board.schema.json"
SCRIPTS = ("page", "site")


@dataclass(frozen=True)
class Listed:
    """A board on the index."""

    file: str
    """Name of its JSON file; its page is called alike."""
    board: Board


def index(boards: Sequence[Listed]) -> str:
    """The index as HTML: a line per view of a board, with its best system and how the best went over dates.

    Raises:
        UserError: there is no board, or two are of one task and judge.
    """
    if not boards:
        raise UserError("a site needs boards; name a folder that holds some")
    seen: dict[tuple[str, str], str] = {}
    for listed in boards:
        key = (listed.board.task, listed.board.judge)
        if key in seen:
            raise UserError(f"{seen[key]} and {listed.file} are both of {key[0]} under {key[1]}; merge them into one")
        seen[key] = listed.file
    numbers = {"mmpu": __version__, "pictures": [], "boards": [], "lines": [x for b in boards for x in _lines(b)]}
    return document("leaderboards", [FOLDER / f"{name}.js" for name in SCRIPTS], numbers, {})


def _lines(listed: Listed) -> list[dict[str, Any]]:
    """Of every view, what the index says."""
    views: dict[tuple[str, str, str], list[Any]] = {}
    for entry in listed.board.entries:
        if entry.system != entry.baseline:
            views.setdefault((entry.split, entry.baseline.name, entry.provenance.judge_identity), []).append(entry)
    found: list[dict[str, Any]] = []
    for number, ((split, baseline, _), entries) in enumerate(views.items()):
        best = max(entries, key=lambda e: e.win_rate.rate.value)
        found.append(
            {
                "task": listed.board.task,
                "judge": listed.board.judge,
                "decided_by": listed.board.decided_by,
                "page": f"{Path(listed.file).stem}.html#{f'view={number}' if number else ''}",
                "file": listed.file,
                "split": split,
                "baseline": baseline,
                "systems": len(entries),
                "best": best.system.name,
                "rate": _interval(best.win_rate.rate),
                "n": best.n,
                "date": max(e.created for e in entries)[:10],
                "trend": _trend(entries),
            }
        )
    return found


def _interval(rate: Any) -> Mapping[str, Any]:
    return {"value": rate.value, "low": rate.low, "high": rate.high}


def _trend(entries: Sequence[Any]) -> list[list[Any]]:
    """The best win rate that there was at each date on which a system came."""
    best: dict[str, float] = {}
    for entry in sorted(entries, key=lambda e: e.created):
        before = max(best.values(), default=0.0)
        best[entry.created[:10]] = max(before, entry.win_rate.rate.value)
    return [[date, value] for date, value in best.items()]


def schema_text() -> str:
    """The JSON Schema of board files, to be published beside them."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"
