"""A file of rows in a task's place: the YAML that it stands for, by the columns of its first row.

    mmpu tasks show mine.jsonl          what was recognised, and why
    mmpu tasks show mine.jsonl --yaml   the YAML, to keep and to change

A file is split 90% to 10% by a hash of its ids or prompts, unless its name says what it is for: `test.jsonl` and
`my-validation.parquet` are for evaluation alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmpu import files, plugins
from mmpu.config import Values
from mmpu.core import UserError
from mmpu.task import shapes
from mmpu.task.cells import cell
from mmpu.task.sources import read_rows

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Files that may stand in a task's place, each but the last two also as `.gz`."""
EVALUATED = re.compile(r"(?:^|[-_.])(test|validation)(?:[-_.]|$)", re.IGNORECASE)
SHARES = {"train": "90%", "test": "10%"}


def is_named(name: str) -> bool:
    """Whether a task's name reads like that of a file of rows."""
    return Path(name.removesuffix(".gz")).suffix in KINDS


def is_rows(name: str) -> bool:
    """Whether it is one."""
    return is_named(name) and files.is_file(Path(name).expanduser())


def stands_for(path: Path) -> Values:
    """The keys of the task that a file stands for.

    Raises:
        UserError: it cannot be read, holds no row, or rows of no known format; names the nearest.
    """
    place, raw = first(path)
    row = {key: cell(value, f"{path}, {place}, field {key!r}") for key, value in raw.items()}
    name, why = shapes.recognised(row, f"{path}, {place}")
    evaluated = EVALUATED.search(path.name)
    values: Values = {
        "about": f"rows of {path.name}, read as {name}, since {why}{shapes.unread(row, name)}",
        "source": path.name,
        "format": name,
    }
    if isinstance(row.get("id"), str | int):
        values["id"] = "{{ id }}"
    values["splits"] = {evaluated[1].lower(): {}} if evaluated else dict(SHARES)
    values["evaluate"] = next(name for name in values["splits"] if name != "train")
    if name != "prompt_only":
        values["baseline"] = "reference"
    return values


def first(path: Path) -> tuple[str, Values]:
    """The first row of a file, and its place.

    Raises:
        UserError: there is none.
    """
    for place, row in read_rows(path, ""):
        return place, row
    raise UserError(f"{path}: it holds no row; {plugins.suggest(path.name, [p.name for p in path.parent.iterdir()])}")
