"""Setting stages of a run aside, so that they are trained anew: nothing is deleted, and what was paid stays counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Set
from pathlib import Path

from mmpu import files
from mmpu.core import UserError
from mmpu.store import write_atomically

PLACE = "before"
"""The folder of a run's folder that holds what was set aside, numbered."""


def set_aside(folder: Path, stages: Set[str], first: int, say: Callable[[str], None]) -> None:
    """Moves the folders of stages to `before/<n>`, and their rows of `metrics.jsonl`, `groups.jsonl` and
    `refused.jsonl`, with a copy of the config. The ledger and the store stay.

    Args:
        stages: Their names.
        first: The number of the first of them.
        say: Is told what goes where, before it goes.
    """
    places = [path for path in sorted(folder.glob("*-*")) if path.is_dir() and _number(path) >= first]
    goal = folder / PLACE / str(1 + max(map(_counted, (folder / PLACE).glob("*")), default=0))
    say(f"set aside, to {goal}: {', '.join(path.name for path in places) or 'no folder'}, and their rows")
    goal.mkdir(parents=True)
    shutil.copy2(folder / "config.yaml", goal)
    written = [path for kind in ("metrics", "groups", "refused") for path in sorted(folder.glob(f"{kind}*.jsonl"))]
    rest: dict[Path, str] = {}
    for path in written:
        kept, moved = _parted(path, stages)
        if moved:
            write_atomically(goal / path.name, moved)
            rest[path] = kept
    for place in places:
        place.rename(goal / place.name)
    for path, kept in rest.items():
        write_atomically(path, kept)


def _number(path: Path) -> int:
    head = path.name.split("-")[0]
    return int(head) if head.isdecimal() else -1


def _counted(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0


def _parted(path: Path, stages: Set[str]) -> tuple[str, str]:
    """The lines of other stages, and of these; a line that a crash cut short goes with these."""
    kept: list[str] = []
    moved: list[str] = []
    try:
        lines = files.text(path).split("\n")
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; restore it, or move it away") from None
    for line in lines:
        if line:
            (moved if _stage(line) in {*stages, None} else kept).append(line + "\n")
    return "".join(kept), "".join(moved)


def _stage(line: str) -> str | None:
    try:
        return files.parsed(line)["stage"]
    except (ValueError, KeyError, TypeError):
        return None
