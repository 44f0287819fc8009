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
from mmpu.boards.provenance import provenance_of
from mmpu.boards.tables import cells, header, notes, ranked, sentences

__all__ = [
    "Adversarial",
    "Agreement",
    "Audit",
    "Board",
    "Comparison",
    "Entry",
    "LengthModel",
    "Provenance",
    "System",
    "WinRate",
    "cells",
    "header",
    "merge",
    "notes",
    "provenance_of",
    "ranked",
    "read",
    "sentences",
    "write",
]
