"""Boards for people: columns, rows, Markdown, comparisons in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from mmpu.boards.board import Board, Comparison, Entry, LengthModel
from mmpu.shown import markdown as plain
from mmpu.statistics import NO_BOUNDS, Interval, bounds

ONE_CLUSTER = f"{NO_BOUNDS}: no interval, since all prompts are of one cluster, which says nothing of others."


def percent(interval: Interval | None) -> str:
    """`61.3 [58.9, 63.8]`, in percent; `61.3 [–]` where there is no interval."""
    return "–" if interval is None else f"{100 * interval.value:.1f} {bounds(interval)}"


def header(board: Board) -> tuple[str, ...]:
    """The columns of a board for people; one for each procedure of length control that some entry has a rate of, and
    for each metric of several answers; whom a row met and on what only where rows differ in that."""
    return (
        "system",
        *_circumstances(board),
        "accuracy %",
        *(f"{name} %" for name in metrics(board)),
        "win rate %",
        *(f"{name} %" for name in procedures(board)),
        "W / L / T / unread",
        "words",
        "n",
    )


def procedures(board: Board) -> list[str]:
    return sorted({name for entry in board.entries for name in entry.length_controlled})


def metrics(board: Board) -> list[str]:
    """Those of several answers per prompt, such as `avg@12`."""
    return sorted({name for entry in board.entries for name in entry.metrics})


def ranked(board: Board) -> list[Entry]:
    """The entries by win rate, those that can be compared together."""
    return sorted(board.entries, key=lambda e: (e.split, e.baseline.name, -e.win_rate.rate.value))


def _circumstances(board: Board) -> dict[str, Callable[[Entry], str]]:
    """What rows differ in besides their system, by the name of its column."""
    columns: dict[str, Callable[[Entry], str]] = {"against": lambda e: e.baseline.name, "split": lambda e: e.split}
    return {name: of for name, of in columns.items() if len({of(entry) for entry in board.entries}) > 1}


def cells(entry: Entry, board: Board) -> tuple[str, ...]:
    """A row for people, in the order of `header`."""
    record = entry.win_rate
    same = entry.system == entry.baseline
    return (
        entry.system.name,
        *("–" if same and name == "against" else of(entry) for name, of in _circumstances(board).items()),
        percent(entry.accuracy),
        *(percent(entry.metrics.get(name)) for name in metrics(board)),
        "baseline" if same else percent(record.rate),
        *("–" if same else percent(entry.length_controlled.get(name)) for name in procedures(board)),
        "–" if same else f"{record.wins} / {record.losses} / {record.ties} / {record.unread}",
        "–" if math.isnan(entry.mean_words) else f"{entry.mean_words:.1f}",
        str(entry.n),
    )


def markdown(board: Board) -> str:
    """The board as a Markdown table, by win rate, and what the systems differ by."""
    columns = header(board)
    lines = [
        f"**{plain(board.task)}**, judge `{plain(board.judge)}`: {plain(board.decided_by)}. Brackets: 95% interval "
        "over prompts.",
        "",
        "| " + " | ".join(map(plain, columns)) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(map(plain, cells(entry, board))) + " |" for entry in ranked(board)),
    ]
    if said := notes(board):
        lines += ["", *(f"* {plain(note)}" for note in said)]
    identities = {e.provenance.judge_identity for e in board.entries}
    if len(identities) > 1:
        lines += [
            "",
            f"Rows of {len(identities)} versions of the judge stand here together; do not compare across them.",
        ]
    if board.comparisons:
        lines += ["", *map(plain, sentences(board))]
    return "\n".join(lines) + "\n"


def notes(board: Board) -> list[str]:
    """What must be known to read a board's numbers: of columns without an interval, and of regressions that tell
    nothing."""
    intervals = (i for e in board.entries for i in (e.win_rate.rate, e.accuracy) if i is not None)
    found = [ONE_CLUSTER] if any(i.low is None for i in intervals) else []
    for entry in board.entries:
        for name, model in entry.length_models.items():
            if said := caution(model):
                found.append(f"{entry.system.name}, {name}: {said}")
    return found


def caution(model: LengthModel) -> str | None:
    """Of a regression that predicts no better than chance, or no better than without length."""
    if model.saved is not None and model.saved <= 0:
        return "the fit predicts no better than a coin."
    if model.saved_by_length is not None and model.saved_by_length <= 0:
        return "with length it predicts no better than the win rate alone; what they differ by may be noise."
    return None


def sentences(board: Board) -> list[str]:
    """A board's comparisons in words; with the baseline, or the split, where the board has several."""
    several = _circumstances(board)

    def where(comparison: Comparison) -> str:
        both = f", both against {comparison.baseline}" if "against" in several else ""
        return both + (f", on {comparison.split}" if "split" in several else "")

    return [sentence(comparison) + where(comparison) for comparison in board.comparisons]


def sentence(comparison: Comparison) -> str:
    """A comparison in words, the better system first, such as «a − b, raw: +3.1 points [0.4, 5.8], p = 0.021 (Holm
    0.042), n = 805»; points are per cent."""
    gap, better, other = comparison.difference, comparison.ours, comparison.theirs
    if gap.value < 0:
        better, other = other, better
        gap = replace(gap, value=-gap.value, low=_negative(gap.high), high=_negative(gap.low))
    return (
        f"* {better} − {other}, {comparison.metric}: {100 * gap.value:+.1f} points {bounds(gap)}, "
        f"p = {gap.p:.2g} (Holm {comparison.holm:.2g}), n = {gap.n}"
    )


def _negative(bound: float | None) -> float | None:
    return None if bound is None else 0.0 - bound
