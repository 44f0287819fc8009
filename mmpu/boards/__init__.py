"""Leaderboard files: what stands in them, the same for people, and where every number came from."""

from mmpu.boards.board import (
    Adversarial,
    Agreement,
    Audit,
    Board,
    Comparison,
    Entry,
    LengthModel,
    Provenance,
    System,
    WinRate,
    board_name,
    merge,
    merged,
    read,
    write,
)
from mmpu.boards.document import FOLDER, document
from mmpu.boards.every_eval_ever import records
from mmpu.boards.exhibits import keep, kept
from mmpu.boards.html import Shown, Texts, page, view_of
from mmpu.boards.provenance import provenance_of
from mmpu.boards.site import SCHEMA_FILE, Listed, index, schema_text
from mmpu.boards.tables import cells, header, markdown, notes, ranked, sentences

__all__ = [
    "FOLDER",
    "SCHEMA_FILE",
    "Adversarial",
    "Agreement",
    "Audit",
    "Board",
    "Comparison",
    "Entry",
    "LengthModel",
    "Listed",
    "Provenance",
    "Shown",
    "System",
    "Texts",
    "WinRate",
    "board_name",
    "cells",
    "document",
    "header",
    "index",
    "keep",
    "kept",
    "markdown",
    "merge",
    "merged",
    "notes",
    "page",
    "provenance_of",
    "ranked",
    "read",
    "records",
    "schema_text",
    "sentences",
    "view_of",
    "write",
]
