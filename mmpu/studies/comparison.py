"""The table of a comparison: per method accuracy, gain and win rate with paired intervals, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmpu import files
from mmpu.core import UserError
from mmpu.judging import MAX_UNREAD
from mmpu.statistics import Difference, Interval, bounds, interval, paired

START = "start"
"""The name of what all methods begin from."""
Column = Sequence[float | None]
"""A value for each prompt; None where there is none."""
SECONDS = ("seconds_generate", "seconds_score", "seconds_update")
COUNTS = ("student_tokens_generated", "teacher_tokens_generated", "local_eval_calls", "external_judge_calls")


@dataclass(frozen=True)
class Result:
    """One system of one seed on the test prompts, in their order."""

    grades: list[float | None]
    wins: list[float | None]
    """Against the start; None where the judge's verdicts could not be read."""
    words: float
    truncated: int
    metrics: dict[str, list[float | None]] = field(default_factory=dict[str, list[float | None]])
    """Of several answers to each prompt, by name: `avg@4`, `maj@4`, `pass@4`."""

    @property
    def unread(self) -> int:
        return self.wins.count(None)


@dataclass(frozen=True)
class Line:
    """A row of the table. Intervals are over prompts, after averaging over seeds."""

    name: str
    accuracy: Interval | None
    gain: Difference | None
    """Accuracy minus the start's, prompt by prompt."""
    win_rate: Interval | None
    """None also where more than the share `MAX_UNREAD` of the duels could not be read."""
    unread: int
    """Duels without a readable verdict, all seeds together."""
    metrics: dict[str, Interval]
    gains: dict[str, Difference]
    """Of each metric over the start's, prompt by prompt."""
    seed_std: float | None
    """Sample standard deviation of the accuracy (of the win rate where nothing is graded) over seeds."""
    words: float
    truncated: int
    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    folder: Path
    lines: tuple[Line, ...]
    teacher_calls: int
    """Over all runs."""
    prompts: int
    seeds: tuple[int, ...]


def tabulate(
    folder: Path, seeds: tuple[int, ...], results: Mapping[str, Sequence[Result]], runs: Mapping[str, Sequence[Path]]
) -> Comparison:
    """The table of results.

    Args:
        results: Of each system, one per seed.
        runs: Their folders, in the same order.
    """
    lines = [_line(name, found, results[START], runs[name]) for name, found in results.items()]
    ledgers = [_ledger(run) for each in runs.values() for run in each]
    calls = sum(ledger.get("teacher_calls", 0) for ledger in ledgers)
    return Comparison(folder, tuple(lines), calls, len(results[START][0].grades), seeds)


def _line(name: str, found: Sequence[Result], start: Sequence[Result], runs: Sequence[Path]) -> Line:
    rows = [row for run in runs for row in read_lines(run / "metrics.jsonl")]
    ledgers = [_ledger(run) for run in runs]
    by_seed = [_mean(r.grades if any(g is not None for g in r.grades) else r.wins) for r in found]
    unread, duels = sum(r.unread for r in found), sum(len(r.wins) for r in found)
    readable = name != START and unread <= MAX_UNREAD * duels
    columns = {metric: [r.metrics[metric] for r in found] for metric in found[0].metrics}
    intervals = {metric: _interval(_over_seeds(values)) for metric, values in columns.items()}
    gains = {metric: _gain(values, [r.metrics[metric] for r in start]) for metric, values in columns.items()}
    return Line(
        name,
        _interval(_over_seeds([r.grades for r in found])),
        None if name == START else _gain([r.grades for r in found], [r.grades for r in start]),
        _interval(_over_seeds([r.wins for r in found])) if readable else None,
        unread,
        {metric: value for metric, value in intervals.items() if value is not None},
        {metric: value for metric, value in gains.items() if value is not None and name != START},
        float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        sum(r.words for r in found) / len(found),
        sum(r.truncated for r in found),
        sum(row.get(key, 0.0) for row in rows for key in SECONDS),
        {key: sum(ledger.get(key, 0) for ledger in ledgers) for key in COUNTS},
    )


def _gain(ours: Sequence[Column], start: Sequence[Column]) -> Difference | None:
    """What a column gains over the start's, prompt by prompt, seeds averaged."""
    pairs = zip(_over_seeds(ours), _over_seeds(start), strict=True)
    known = [(a, b) for a, b in pairs if not math.isnan(a - b)]
    return paired([a for a, _ in known], [b for _, b in known]) if known else None


def _over_seeds(columns: Sequence[Column]) -> list[float]:
    """Mean of each prompt over seeds; NaN where no seed has a value."""
    return [_mean(values) for values in zip(*columns, strict=True)]


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else math.nan


def _interval(values: Sequence[float]) -> Interval | None:
    known = [v for v in values if not math.isnan(v)]
    return interval(known) if known else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that a run wrote, each a mapping.

    Raises:
        UserError: the file is damaged.
    """
    try:
        rows = [files.parsed(line) for line in files.text(path).split("\n") if line.strip()]
        if all(isinstance(row, dict) for row in rows):
            return rows
        raise ValueError("a line is no mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it") from None


def stored(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file that a study or a run wrote; none where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        found = files.value_in(path) if path.exists() else {}
        if isinstance(found, dict):
            return cast(dict[str, Any], found)
        raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it, and the same command makes it anew") from None


def _ledger(run: Path) -> dict[str, int]:
    return stored(run / "ledger.json")


def header(comparison: Comparison) -> tuple[str, ...]:
    """The columns, in per cent where nothing else is said; a metric of several answers has two."""
    several = (column for metric in _metrics(comparison) for column in (f"{metric} %", f"{metric} gain"))
    return (
        "method",
        "accuracy %",
        "gain over start",
        *several,
        "win rate %",
        "unread",
        "std of seeds",
        "words",
        "cut",
        "seconds",
        "tokens sampled",
    )


def _metrics(comparison: Comparison) -> list[str]:
    return sorted({metric for line in comparison.lines for metric in line.metrics})


def cells(line: Line, comparison: Comparison) -> tuple[str, ...]:
    """A row as text, with 95% intervals."""

    def shown(value: Interval | Difference | None, sign: str = "") -> str:
        return "" if value is None else f"{100 * value.value:{sign}.1f} {bounds(value, 100, f'{sign}.1f')}"

    several = (
        cell
        for metric in _metrics(comparison)
        for cell in (shown(line.metrics.get(metric)), shown(line.gains.get(metric), "+"))
    )
    return (
        line.name,
        shown(line.accuracy),
        shown(line.gain, "+"),
        *several,
        "–" if line.win_rate is None and line.name != START else shown(line.win_rate),
        "" if line.name == START else str(line.unread),
        "" if line.seed_std is None else f"{100 * line.seed_std:.1f}",
        f"{line.words:.1f}",
        str(line.truncated),
        f"{line.seconds:.0f}",
        str(line.counts["student_tokens_generated"] + line.counts["teacher_tokens_generated"]),
    )


def markdown(comparison: Comparison) -> str:
    """The table as Markdown."""
    columns = header(comparison)
    rows = [columns, ("---",) * len(columns), *(cells(line, comparison) for line in comparison.lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{note(comparison)}\n"


def note(comparison: Comparison) -> str:
    """What the table's numbers are."""
    hidden = any(line.win_rate is None and line.unread for line in comparison.lines)
    withheld = f" A win rate is withheld where more than {MAX_UNREAD:.0%} of its duels could not be read." * hidden
    return (
        f"{comparison.prompts} prompts, seeds {', '.join(map(str, comparison.seeds))}; 95% intervals over "
        "prompts, seeds averaged; gains and wins are paired by prompt. Seconds are those of training, all seeds "
        f"together. Teacher calls of all runs together: {comparison.teacher_calls}." + withheld
    )
