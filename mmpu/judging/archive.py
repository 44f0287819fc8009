"""Verdict stores as files: everything published computed again, verdicts brought in, verdicts taken out."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmpu import files
from mmpu.boards import Board, merge
from mmpu.core import UserError
from mmpu.judging.alpaca import read_annotations
from mmpu.judging.compare import bradley_terry, comparisons, games_of
from mmpu.judging.glm import read_calibration
from mmpu.judging.match import Match, match_of
from mmpu.judging.measure import Measured, measure_all
from mmpu.judging.ranks import with_strengths
from mmpu.judging.verdicts import Reading, Verdicts
from mmpu.statistics import Interval

Ranking = dict[str, Interval]


def recompute(
    path: Path, task: str | None, judge: str | None, calibration: Path | None, max_unread: float
) -> list[tuple[Board, dict[str, Ranking]]]:
    """The boards of a store's matches, each with its Bradley–Terry strengths by split, where three systems or more
    met.

    Args:
        task: Only matches of this task.
        judge: Only matches of the judge of this name.

    Raises:
        UserError: the store has no such match.
    """
    store = Verdicts(path)
    known = [match_of(values) for values in store.matches()]
    chosen = [m for m in known if task in (None, m.task) and judge in (None, m.judge)]
    if not chosen:
        raise UserError(f"{path} has no such match; it has {_names(known)}")
    given = read_calibration(calibration) if calibration else None
    found: list[tuple[Board, dict[str, Ranking]]] = []
    for name in dict.fromkeys((m.task, m.judge) for m in chosen):
        group = [m for m in chosen if (m.task, m.judge) == name]
        measured = measure_all(group, store, given, max_unread)
        board = Board(*name, group[0].decided_by)
        for together in _grouped(measured, lambda m: (*_circumstances(m), m.baseline.outputs)):
            board = merge(board, [m.entry for m in together], comparisons(together))
        rankings: dict[str, Ranking] = {}
        for together in _grouped(measured, _circumstances):
            games = games_of(together)
            if len({n for game in games for n in (game.ours, game.theirs)}) > 2:
                split, identity = _circumstances(together[0].match)
                rankings[f"{split}, {identity}"] = bradley_terry(games)
        found.append((with_strengths(board), rankings))
    return found


def _circumstances(match: Match) -> tuple[str, str]:
    """What must be the same for results to be compared."""
    return match.split, match.provenance.judge_identity


def _grouped(measured: Sequence[Measured], key: Callable[[Match], tuple[str, ...]]) -> Iterator[list[Measured]]:
    for name in dict.fromkeys(key(one.match) for one in measured):
        yield [one for one in measured if key(one.match) == name]


def _names(matches: Sequence[Match]) -> str:
    names = sorted({f"{m.system.name} against {m.baseline.name} on {m.task} by {m.judge}" for m in matches})
    return ("; ".join(names[:5]) or "none") + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def import_verdicts(file: Path, path: Path) -> tuple[int, int, int]:
    """Adds what a file holds to a store; what is there already is left alone.

    Args:
        file: AlpacaEval's annotations (`.json`), or what `export_verdicts` wrote (`.jsonl`).

    Returns:
        Readings added, matches added, readings that were there.
    """
    if file.suffix == ".jsonl":
        readings, matches = _read_lines(file)
    else:
        imported = read_annotations(file, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        readings = [reading for one in imported for reading in one.readings]
        matches = [one.match for one in imported]
    store = Verdicts(path)
    there = {_content(reading) for reading in store.all()}
    fresh = {_content(r): r for r in readings if _content(r) not in there}
    store.append(list(fresh.values()))
    known = {match_of(values).key for values in store.matches()}
    new = {match.key: match for match in matches if match.key not in known}
    for key, match in new.items():
        store.add_match(key, match.plain())
    return len(fresh), len(new), len(readings) - len(fresh)


def export_verdicts(path: Path, target: Path) -> tuple[int, int]:
    """Writes every reading and match of a store as lines of JSON; returns their numbers."""
    store = Verdicts(path)
    readings, matches = list(store.all()), store.matches()
    lines: list[Mapping[str, Any]] = [{"reading": asdict(r)} for r in readings]
    lines += [{"match": match} for match in matches]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from None
    return len(readings), len(matches)


def _read_lines(file: Path) -> tuple[list[Reading], list[Match]]:
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(Reading)
    try:
        lines = files.text(file).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    readings: list[Reading] = []
    matches: list[Match] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = files.parsed(line)
            if "match" in row:
                matches.append(match_of(row["match"]))
            else:
                readings.append(adapter.validate_python(row["reading"], extra="forbid"))
        except UserError as error:
            raise UserError(f"{file}, line {number}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"{file}, line {number}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
            ) from None
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{file}, line {number}: neither a reading nor a match ({error}); expected what "
                "`mmpu judge export` wrote"
            ) from None
    return readings, matches


def _content(reading: Reading) -> tuple[object, ...]:
    """What makes two readings the same; when they were made does not."""
    return reading.key, reading.win, reading.soft, reading.reason
