"""Leaderboard files: what stands in them, the same for people, and where every number came from."""

from mmpu.boards.board import (
    ITEMS,
    Adversarial,
    Agreement,
    Audit,
    Board,
    Comparison,
    Entry,
    LengthModel,
    Origin,
    Provenance,
    Strengths,
    System,
    WinRate,
    board_name,
    merge,
    merged,
)
from mmpu.boards.board_file import read, schema, write
from mmpu.boards.document import FOLDER, document
from mmpu.boards.every_eval_ever import records
from mmpu.boards.exhibits import keep, kept
from mmpu.boards.html import Shown, Texts, page, view_of
from mmpu.boards.provenance import provenance_of
from mmpu.boards.site import SCHEMA_FILE, Listed, index, schema_text
from mmpu.boards.tables import cells, header, markdown, notes, ranked, sentences

__all__ = [
    "FOLDER",
    "ITEMS",
    "SCHEMA_FILE",
    "Adversarial",
    "Agreement",
    "Audit",
    "Board",
    "Comparison",
    "Entry",
    "LengthModel",
    "Listed",
    "Origin",
    "Provenance",
    "Shown",
    "Strengths",
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
    "schema",
    "schema_text",
    "sentences",
    "view_of",
    "write",
]
