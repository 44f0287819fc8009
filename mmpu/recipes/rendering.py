"""Samples of a task as a student reads them and is trained on them, for a terminal: text, tokens, ids and mask."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from mmpu.core import Response, Sample
from mmpu.shown import one_line, visible
from mmpu.student import (
    Piece,
    Student,
    StudentConfig,
    assembled,
    ending,
    load_parts,
    misfit,
    rendered,
)
from mmpu.task import YamlTask

WIDTH = 80
"""Columns of the widest line."""
INDENT = "  "


def lines(task: YamlTask, split: str, n: int, config: StudentConfig) -> Iterator[str]:
    """The lines of the first `n` samples of a split.

    Raises:
        UserError: the model cannot be loaded.
    """
    student = assembled(load_parts(config), config)
    samples = task.samples(f"{split}[:{n}]")
    yield from _wrapped(f"{task.name}, as {config.model} reads it and is trained on it")
    yield from _wrapped(f"a response ends with {ending(student)}")
    for sample in samples:
        yield from ("", f"── {one_line(sample.id)}")
        yield from _sample(student, sample)


def _sample(student: Student, sample: Sample) -> Iterator[str]:
    known = {"reference": sample.reference, "answer": sample.answer}
    name, answer = next(((name, text) for name, text in known.items() if text is not None), ("answer", None))
    found = misfit(student, sample, () if answer is None else (Response(answer),))
    if found is not None:
        yield from _wrapped(f"does not fit: {found.reason}")
    if found is not None and found.kind == "unreadable":
        return
    made = rendered(student, sample, answer)
    yield from _part("prompt", made.prompt, "mask 0 (read)")
    yield from _wrapped(f"thinking: {made.thinking}")
    if answer is None:
        yield "no reference and no answer: what a teacher says stands here"
        return
    yield from _part(name, made.answer, "mask 1 (trained on)")


def _part(name: str, pieces: Sequence[Piece], mask: str) -> Iterator[str]:
    yield f"{name}: {sum(len(piece.ids) for piece in pieces)} tokens, {mask}"
    text = "".join(_placeholder(piece) if piece.placeholder else piece.text for piece in pieces)
    for line in visible(text).split("\n"):
        yield from _wrapped(line, INDENT + "│ ") if line else (INDENT + "│",)
    cells = [cell for piece in pieces for cell in _cells(piece)]
    for row in _rows(cells):
        yield INDENT + " ".join(_padded(text, max(cell_len(text), len(ids))) for text, ids in row).rstrip()
        yield INDENT + " ".join(_padded(ids, max(cell_len(text), len(ids))) for text, ids in row).rstrip()


def _placeholder(piece: Piece) -> str:
    return f"[{len(piece.ids)} × {piece.texts[0]}]"


def _cells(piece: Piece) -> Iterator[tuple[str, str]]:
    """A token's text, its blanks seen, and its id."""
    if piece.placeholder:
        yield _placeholder(piece), str(piece.ids[0])
        return
    for text, token in zip(piece.texts, piece.ids, strict=True):
        yield _cut(one_line(text).replace(" ", "·")), str(token)


def _cut(text: str) -> str:
    room = WIDTH - len(INDENT)
    if cell_len(text) <= room:
        return text
    while cell_len(text) >= room:
        text = text[:-1]
    return text + "…"


def _rows(cells: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    row: list[tuple[str, str]] = []
    used = len(INDENT)
    for text, ids in cells:
        width = max(cell_len(text), len(ids))
        if row and used + width > WIDTH:
            yield row
            row, used = [], len(INDENT)
        row.append((text, ids))
        used += width + 1
    if row:
        yield row


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _wrapped(text: str, indent: str = "") -> Iterator[str]:
    """A text in lines of at most `WIDTH` characters; blanks stay as they are but where a line is broken."""
    room = WIDTH - len(indent)
    for line in textwrap.wrap(visible(text), room, replace_whitespace=False, drop_whitespace=False) or [""]:
        yield (indent + line).rstrip()
