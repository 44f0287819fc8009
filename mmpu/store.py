"""What was paid for is kept: answers of engines by content, and a ledger of what was asked.

The store is one SQLite file in WAL mode: safe under kill −9 and under several processes. An answer is keyed by
everything it depends on: engine identity, prompt with its images' content, sampling, and how many were asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmpu.core import UserError


class Store:
    """A persistent mapping from content keys to JSON values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = connect(path, "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        weakref.finalize(self, self._db.close)

    def get(self, keys: Iterable[str]) -> dict[str, object]:
        """The stored values of those keys that have one."""
        found: dict[str, object] = {}
        for key in set(keys):
            row: tuple[str] | None = self._db.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = json.loads(row[0])
        return found

    def put(self, values: Mapping[str, object]) -> None:
        """Stores all of `values` or, if the disk is full, none. The first answer under a key stays."""
        rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in values.items()]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write to the store {self.path}: {error}; what was stored before is intact"
            ) from None


def connect(path: Path, *schema: str) -> sqlite3.Connection:
    """An SQLite file in WAL mode with the tables of `schema`; several processes may open it at once.

    Raises:
        UserError: not a database, or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            _use_wal(db)
            for statement in schema:
                db.execute(statement)
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"cannot open the store {path}: {error}") from None
    return db


def _use_wal(db: sqlite3.Connection, patience: float = 60.0) -> None:
    # The timeout of the connection does not cover a change of journal mode, and several runs may start at once.
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Ledger:
    """Counts what was really asked of whom, over restarts; METHODS names: `teacher_calls`, `local_eval_calls`, …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter(json.loads(path.read_text()) if path.exists() else {})

    def add(self, **counts: int) -> None:
        self.counts.update(counts)

    def save(self) -> None:
        write_atomically(self.path, json.dumps(dict(sorted(self.counts.items())), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that a reader or a crash sees the old or the new one, never a part.

    Raises:
        UserError: the file cannot be written; the old one is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error}; what was there before is intact") from None
