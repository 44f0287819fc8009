"""The verdict store: every reading that was paid for, kept when it arrives, asked for once.

One SQLite file, append-only: a reading that could not be read, and one that was asked for anew, stand beside the ones
before them. What counts is the latest that could be read. A reading is keyed by what the judge saw: its identity
(model, revision, prompt, settings), the prompt with its images' content, the reference, and both answers in the order
shown, or the one that it marked by itself. So a duel is worth the same seen from either side, and two systems that gave
the same answer share its price; a baseline's answers are marked once, however many systems it meets.

Beside the readings stand the matches: who met whom on what, with the keys of their readings, so that everything
published can be computed again from this file alone.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpu import files
from mmpu.core import UserError, digest
from mmpu.duel import MARKS, Duel, Order, Verdict
from mmpu.media import prompt_key
from mmpu.store import connect, intact

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS readings (id INTEGER PRIMARY KEY, key TEXT NOT NULL, judge TEXT NOT NULL, "
    "sample TEXT NOT NULL, kind TEXT NOT NULL, win REAL, soft REAL, reason TEXT NOT NULL, detail TEXT NOT NULL, "
    "created TEXT NOT NULL, said TEXT NOT NULL DEFAULT '')",
    "CREATE INDEX IF NOT EXISTS readings_by_key ON readings (key)",
    "CREATE TABLE IF NOT EXISTS matches (id INTEGER PRIMARY KEY, key TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS rejudgings (id INTEGER PRIMARY KEY, key TEXT NOT NULL, since INTEGER)",
)
BATCH = 500
"""Keys per query; SQLite bounds the number of parameters."""


@dataclass(frozen=True)
class Reading:
    """A verdict as it is kept: `win` and `soft` are those of the answer shown first (ours, where order is `none`); of a
    mark, `win` is the mark."""

    key: str
    judge: str
    sample: str
    win: float | None
    soft: float | None
    reason: str
    detail: Mapping[str, float]
    order: str = "pair"
    """`pair`, `mark` of an answer by itself, or `none` where no model was shown them."""
    created: str = ""
    said: str = ""
    """What the judge said before its verdict, and around it."""

    def verdict(self, order: Order) -> Verdict:
        """As seen by us."""
        flip = order == "ours_second"
        win, soft = ((None if v is None else 1 - v if flip else v) for v in (self.win, self.soft))
        return Verdict(self.sample, order, win, soft, self.reason, self.detail, self.said)


def key_of(judge: str, duel: Duel, order: Order) -> str:
    """The content key of a reading.

    Args:
        judge: The judge's identity.
    """
    sample = duel.sample
    known = [prompt_key(sample.prompt), sample.reference, sample.answer, dict(sample.meta)]
    kind = kind_of(order)
    if kind == "mark":
        return digest([judge, known, (duel.ours if order == "ours" else duel.theirs).strip(), kind])
    first, second = (duel.theirs, duel.ours) if order == "ours_second" else (duel.ours, duel.theirs)
    return digest([judge, known, first, second, kind])


def kind_of(order: Order) -> str:
    """What was shown: a pair in some order, one answer, or neither."""
    return "mark" if order in MARKS else "none" if order == "none" else "pair"


def reading_of(key: str, judge: str, verdict: Verdict) -> Reading:
    """A verdict for the store."""
    flip = verdict.order == "ours_second"
    win, soft = ((None if v is None else 1 - v if flip else v) for v in (verdict.win, verdict.soft))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kind = kind_of(verdict.order)
    return Reading(key, judge, verdict.sample, win, soft, verdict.reason, verdict.detail, kind, now, verdict.said)


class Verdicts:
    """The readings and matches of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = connect(path, *_SCHEMA)
        weakref.finalize(self, self._db.close)
        self._add_said()

    def _add_said(self) -> None:
        """Stores of version 0.1 keep nothing of what a judge said."""
        if any(column[1] == "said" for column in self._db.execute("PRAGMA table_info(readings)")):
            return
        try:
            self._db.execute("ALTER TABLE readings ADD COLUMN said TEXT NOT NULL DEFAULT ''")
        except sqlite3.Error as error:
            if "duplicate column" not in str(error):  # another process added it meanwhile
                raise UserError(f"cannot write to the store {self.path}: {error}") from None

    def get(self, keys: Iterable[str], since: int = 0) -> dict[str, Reading]:
        """Of each key that was ever asked, the latest reading that could be read, or else the latest failure.

        Args:
            since: As `rejudging` says; earlier readings do not count.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Reading] = {}
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            marks = ",".join("?" * len(part))
            for reading in self._select(f"WHERE key IN ({marks}) AND id > ?", [*part, since]):
                _keep(found, reading)
        return found

    def append(self, readings: Sequence[Reading]) -> None:
        """Adds all readings or, if the disk is full, none."""
        if not readings:
            return
        rows = [
            (r.key, r.judge, r.sample, r.order, r.win, r.soft, r.reason, json.dumps(dict(r.detail)), r.created, r.said)
            for r in readings
        ]
        self._write(
            "INSERT INTO readings (key, judge, sample, kind, win, soft, reason, detail, created, said) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def all(self) -> Iterator[Reading]:
        """Every reading ever kept, oldest first."""
        return self._select("", [])

    def add_match(self, key: str, body: Mapping[str, Any]) -> None:
        """Records a match; a later one under the same key takes its place in `matches`."""
        with intact(self.path):
            query = "SELECT body FROM matches WHERE key = ? ORDER BY id DESC LIMIT 1"
            before: tuple[str] | None = self._db.execute(query, (key,)).fetchone()
        written = json.dumps(body, sort_keys=True)
        if before is None or _undated(before[0]) != _undated(written):  # one that says nothing new adds no byte
            self._write("INSERT INTO matches (key, body) VALUES (?, ?)", [(key, written)])

    def matches(self) -> list[dict[str, Any]]:
        """The latest record of each match, in the order of their first appearance."""
        latest: dict[str, dict[str, Any]] = {}
        with intact(self.path):
            for key, body in self._db.execute("SELECT key, body FROM matches ORDER BY id"):
                latest[key] = files.parsed(body)
        return list(latest.values())

    def rejudging(self, key: str) -> int | None:
        """Where the readings begin of a rejudging that was begun and not ended; None if there is none."""
        query = "SELECT since FROM rejudgings WHERE key = ? ORDER BY id DESC LIMIT 1"
        with intact(self.path):
            found: tuple[int | None] | None = self._db.execute(query, (key,)).fetchone()
        return found[0] if found else None

    def begin_rejudging(self, key: str) -> None:
        """From now on readings count for it, unless they did already."""
        if self.rejudging(key) is None:
            (last,) = self._db.execute("SELECT COALESCE(MAX(id), 0) FROM readings").fetchone()
            self._write("INSERT INTO rejudgings (key, since) VALUES (?, ?)", [(key, last)])

    def end_rejudging(self, key: str) -> None:
        """The next one begins anew."""
        self._write("INSERT INTO rejudgings (key, since) VALUES (?, NULL)", [(key,)])

    def _select(self, where: str, values: Sequence[str | int]) -> Iterator[Reading]:
        columns = "key, judge, sample, win, soft, reason, detail, kind, created, said"
        rows = iter(self._db.execute(f"SELECT {columns} FROM readings {where} ORDER BY id", values))
        while True:
            with intact(self.path):
                if (row := next(rows, None)) is None:
                    return
                key, judge, sample, win, soft, reason, detail, order, created, said = row
                found = Reading(key, judge, sample, win, soft, reason, files.parsed(detail), order, created, said)
            yield found

    def _write(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write to the store {self.path}: {error}; what was stored before is intact"
            ) from None


def _undated(body: str) -> dict[str, Any]:
    """A match without the time of its evaluation."""
    return {key: value for key, value in json.loads(body).items() if key != "created"}


def _keep(found: dict[str, Reading], reading: Reading) -> None:
    """Lets a later reading take an earlier one's place, unless only the earlier one could be read."""
    before = found.get(reading.key)
    if before is None or reading.win is not None or before.win is None:
        found[reading.key] = reading
