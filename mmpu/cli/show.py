"""What the commands print: tables for people, listings, and no chatter of libraries."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click

from mmpu.core import UserError
from mmpu.shown import one_line, visible

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")
PIPED, WIDEST = 180, 10_000
"""Columns of a table that goes to a file or a pipe, and more than any table has."""


def say(text: object, *, err: bool = False) -> None:
    """Prints a text, of which others may have written a part."""
    click.echo(visible(str(text)), err=err)


def described(found: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Names of YAML files, each with what it is about, and why others cannot be read."""
    from mmpu.config import load_yaml

    read: dict[str, str] = {}
    broken: list[str] = []
    for name in sorted(found):
        try:
            read[name] = str(load_yaml(found[name]).get("about", ""))
        except UserError as error:
            broken.append(str(error))
    return read, broken


def listed(found: Mapping[str, str], broken: Sequence[str], as_json: bool = False) -> None:
    """Prints names with what there is to say of each; what cannot be read is named and keeps no other away."""
    width = max(map(len, found), default=0)
    if as_json:
        show_json(found)
    else:
        for name, about in found.items():
            say(f"{one_line(name):<{width}}  {one_line(about)}")
    for reason in broken:
        say(f"left out: {' '.join(reason.split())}", err=True)
    if broken:
        say(f"{len(broken)} of {len(found) + len(broken)} files cannot be read and are left out", err=True)


def show_board(board: Any) -> None:
    """Prints a board as a table."""
    from mmpu.boards import cells, header, notes, ranked, sentences

    title = f"{board.task}, judge {board.judge}: {board.decided_by}"
    table(title, header(board), [cells(entry, board) for entry in ranked(board)])
    for line in (*notes(board), *sentences(board)):
        say(line)


def show_json(found: Any) -> None:
    """Prints dataclasses as JSON; a number that JSON does not know is null."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(each) for key, each in cast(Mapping[object, Any], value).items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in cast(Sequence[Any], value)]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value if isinstance(value, str | int | float) or value is None else str(value)

    click.echo(json.dumps(plain(found), indent=2))


def show_page(boards: Sequence[Path], out: Path, err: bool = False) -> None:
    """Writes the page of boards, and says where it is."""
    from mmpu.recipes.pages import write_page

    written = write_page(boards, out)
    beside = f", with {len(written) - 1} files of pictures beside it" if len(written) > 1 else ""
    say(f"page: {written[0]}{beside}", err=err)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, its first column to the left and all others to the right; where the terminal is too narrow for
    it, a block per row, so that nothing is cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED)
    columns, lines = [one_line(column) for column in header], [[one_line(cell) for cell in row] for row in rows]
    drawn = Table(title=Text(one_line(title)), title_justify="left")
    for n, column in enumerate(columns):
        drawn.add_column(Text(column), justify="right" if n else "left", no_wrap=True)
    for line in lines:
        drawn.add_row(*map(Text, line))
    if Console(width=WIDEST).measure(drawn).maximum <= console.width:
        console.print(drawn)
        return
    console.print(Text(one_line(title)))
    width = max(map(len, columns))
    for line in lines:
        console.print()
        for name, cell in zip(columns, line, strict=True):
            console.print(Text(f"{name:<{width}}  {cell}"))


def quiet() -> None:
    """Our errors say what they have to; libraries' chatter would bury them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
