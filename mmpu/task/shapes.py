"""Which format the rows of a source have, by the columns of the first; or which is nearest, and what it would need."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mmpu import plugins
from mmpu.chats import BadRow, Format, named
from mmpu.core import UserError

AUTO = "auto"
"""In a task's `format`: the one that is recognised."""
UNASKED = ("id", "split")
"""Columns that formats do not read, and tasks do."""
ALIKE = 0.6
"""How alike, of 1, two columns' names must be for one to be meant by the other."""


def format_of(name: str) -> Format:
    """The format `name`.

    Raises:
        UserError: there is none; says which was meant.
    """
    cls: type[Any] = plugins.find_class("formats", name, Format)
    return cls()


def known() -> Iterator[tuple[str, Format]]:
    """All formats there are, those whose columns tell most first."""
    found = [(name, format_of(name)) for name in plugins.code("formats")]
    return iter(sorted(found, key=lambda each: (-each[1].rank, each[0])))


def recognised(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The format that a row has, and why.

    Raises:
        UserError: it has none; names the nearest.
    """
    fitting = [(name, why) for name, each in known() if (why := each.recognised(row)) is not None]
    if not fitting:
        raise UserError(f"{where}: {unlike(row)}")
    (name, why), *others = fitting
    further = f"; {', '.join(other for other, _ in others)} would fit as well, name one in `format`" if others else ""
    return name, why + further


class _Watched(dict[str, Any]):
    """A row that remembers which of its columns were read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def unread(row: Mapping[str, Any], name: str) -> str:
    """The columns of a row that its format has no use for, for the end of a sentence; nothing where it uses all."""
    watched = _Watched(row)
    with contextlib.suppress(BadRow):  # who reads it says so
        format_of(name).chat(watched)
    left = [column for column in row if column not in {*watched.read, *UNASKED}]
    return f"; not read: {named(left)}" if left else ""


def otherwise(row: Mapping[str, Any], wanted: Format) -> str:
    """That a row has another format than those before it, or none."""
    lacking = named(column for column in wanted.columns if column not in row)
    other = next((name for name, each in known() if each.recognised(row) is not None), None)
    seems = (
        f"looks like `{other}`: one file, one format" if other else f"has {named(map(str, list(row)[:20])) or 'none'}"
    )
    return f"it lacks {lacking} of {type(wanted).__name__}'s rows, and {seems}"


def unlike(row: Mapping[str, Any]) -> str:
    """What a row lacks for the format that is nearest."""
    have = [str(column) for column in row]
    name, each = max(known(), key=lambda item: _closeness(item[1], have))
    lacking = [column for column in each.columns if column not in have]
    close = {c: found for c in lacking if (found := difflib.get_close_matches(c, have, 1, ALIKE))}
    derive = ", ".join(f"{column}: {close[column][0] if column in close else '…'}" for column in lacking)
    shown = named(have[:20]) + (f" and {len(have) - 20} more" if len(have) > 20 else "")
    return (
        f"no format is recognised in a row of {shown or 'no column'}; nearest is `{name}`, which needs "
        f"{named(each.columns)}. In a task's YAML, `format: {name}` with `derive: {{{derive}}}` names what stands for "
        "them, and `prompt:` says with templates what a row asks (docs/tasks.md)"
    )


def _closeness(each: Format, have: list[str]) -> float:
    """How many of a format's columns a row nearly has; those that it has nothing like count against it."""
    close = [difflib.get_close_matches(column, have, 1, ALIKE) for column in each.columns]
    ratios = [
        difflib.SequenceMatcher(None, c, found[0]).ratio()
        for c, found in zip(each.columns, close, strict=True)
        if found
    ]
    return sum(ratios) - 0.5 * close.count([])
