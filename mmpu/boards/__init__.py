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
    merge,
    read,
    write,
)
from mmpu.boards.document import FOLDER, document
from mmpu.boards.exhibits import keep, kept
from mmpu.boards.html import Shown, Texts, page, view_of
from mmpu.boards.provenance import prompt_of, provenance_of
from mmpu.boards.tables import cells, header, notes, ranked, sentences

__all__ = [
    "FOLDER",
    "Adversarial",
    "Agreement",
    "Audit",
    "Board",
    "Comparison",
    "Entry",
    "LengthModel",
    "Provenance",
    "Shown",
    "System",
    "Texts",
    "WinRate",
    "cells",
    "document",
    "header",
    "keep",
    "kept",
    "merge",
    "notes",
    "page",
    "prompt_of",
    "provenance_of",
    "ranked",
    "read",
    "sentences",
    "view_of",
    "write",
]
