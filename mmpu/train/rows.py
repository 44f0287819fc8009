"""The files of a run that hold a value of JSON per line, of which a crash may have cut one short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpu import files
from mmpu.core import UserError


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, each with its `stage` and `step`; the last may be half written. None where there is no file.

    Raises:
        UserError: a row before it is damaged.
    """
    return (row for _, row in _rows(path, cut=False))


def lines_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows with their lines; without those that a crash cut short, wherever they are.

    Raises:
        UserError: the file cannot be read, or a line is no row of a run.
    """
    return _rows(path, cut=True)


def values(path: Path) -> list[Any]:
    """The values of a file's lines; without those that are none. Nothing where there is no file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    found: list[Any] = []
    for line in _lines(path):
        try:
            found.append(files.parsed(line))
        except ValueError:
            continue
    return found


def _lines(path: Path) -> list[str]:
    return files.text(path).split("\n") if path.exists() else []


def _rows(path: Path, *, cut: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = _lines(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it") from None
    for number, line in enumerate(lines, 1):
        try:
            row = files.parsed(line)
        except ValueError:
            if cut or number >= len(lines) - 1:
                continue
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("stage"), str) or type(row.get("step")) is not int:
            raise UserError(f"{path}, line {number} is no row of a run; delete the line, or restore the file")
        yield line, row
