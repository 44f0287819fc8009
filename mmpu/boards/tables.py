"""Boards for people: columns, rows, Markdown, comparisons in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmpu.boards.board import Board, Comparison, Entry
from mmpu.statistics import Interval


def percent(interval: Interval | None) -> str:
    """`61.3 [58.9, 63.8]`, in percent."""
    if interval is None:
        return "–"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def header(board: Board) -> tuple[str, ...]:
    """The columns of a board for people; one for each procedure of length control that some entry has a rate of."""
    lengths = (f"{name} %" for name in procedures(board))
    return ("system", "accuracy %", "win rate %", *lengths, "W / L / T / unread", "words", "n")


def procedures(board: Board) -> list[str]:
    return sorted({name for entry in board.entries for name in entry.length_controlled})


def cells(entry: Entry, lengths: Sequence[str]) -> tuple[str, ...]:
    """A row for people, in the order of `header`."""
    record = entry.win_rate
    same = entry.system == entry.baseline
    return (
        entry.system.name,
        percent(entry.accuracy),
        "baseline" if same else percent(record.rate),
        *("–" if same else percent(entry.length_controlled.get(name)) for name in lengths),
        "–" if same else f"{record.wins} / {record.losses} / {record.ties} / {record.unread}",
        "–" if math.isnan(entry.mean_words) else f"{entry.mean_words:.1f}",
        str(entry.n),
    )


def markdown(board: Board) -> str:
    """The board as a Markdown table, by win rate, and what the systems differ by."""
    ranked = sorted(board.entries, key=lambda e: -e.win_rate.rate.value)
    columns, lengths = header(board), procedures(board)
    lines = [
        f"**{board.task}**, judge `{board.judge}`: {board.decided_by}. Brackets: 95% bootstrap interval over prompts.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(entry, lengths)) + " |" for entry in ranked),
    ]
    identities = {e.provenance.judge_identity for e in board.entries}
    if len(identities) > 1:
        lines += [
            "",
            f"Rows of {len(identities)} versions of the judge stand here together; do not compare across them.",
        ]
    if board.comparisons:
        lines += ["", *map(sentence, board.comparisons)]
    return "\n".join(lines) + "\n"


def sentence(comparison: Comparison) -> str:
    """A comparison in words, such as «a − b, raw: +3.1 points [0.4, 5.8], p = 0.021 (Holm 0.042), n = 805»."""
    gap = comparison.difference
    bounds = f"[{100 * gap.low:.1f}, {100 * gap.high:.1f}]"
    return (
        f"* {comparison.ours} − {comparison.theirs}, {comparison.metric}: {100 * gap.value:+.1f} points {bounds}, "
        f"p = {gap.p:.2g} (Holm {comparison.holm:.2g}), n = {gap.n}"
    )
