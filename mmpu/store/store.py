"""What was paid for is kept: answers of engines by content, who is about to ask for which, and a ledger of what was
asked.

The store is one SQLite file in WAL mode: safe under kill −9 and under several processes. An answer is keyed by
everything it depends on: engine identity, prompt with its images' content, sampling, and its index. Writes reach the
file at once and the disk when the system writes it back, so a power cut may cost the last seconds' answers, and no
more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sqlite3
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mmpu import files
from mmpu.core import UserError

SCHEMA = 1
TABLES = """
CREATE TABLE IF NOT EXISTS answers
    (key TEXT PRIMARY KEY, model TEXT NOT NULL, created REAL NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Holding:
    """What a store holds of one model."""

    model: str
    answers: int
    bytes: int
    oldest: float
    """Seconds since the epoch, like `newest`."""
    newest: float


class Store:
    """A persistent mapping from content keys to JSON values, with claims on keys that are being asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = connect(path)
        weakref.finalize(self, self._db.close)
        try:
            (read_only,) = self._db.execute("PRAGMA query_only").fetchone()
            if not read_only:
                self._make_tables()
        except sqlite3.Error as error:
            raise UserError(f"cannot open the store {path}: {error}") from None

    def _make_tables(self) -> None:
        with self._writing():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'readings'").fetchone():
                raise UserError(
                    f"{self.path} holds a judge's verdicts, which `mmpu eval` keeps and `mmpu judge metrics` reads, "
                    "not answers; those of runs stand in store.sqlite beside their folders"
                )
            if version != SCHEMA and (version or tables):
                raise UserError(f"the store {self.path} is of another version of mmpu; choose another file or move it")
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        """A transaction that ends in all or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write to the store {self.path}: {error}; what was stored before is intact"
            ) from None

    def get(self, keys: Iterable[str]) -> dict[str, object]:
        """The stored values of those keys that have one."""
        found: dict[str, object] = {}
        with intact(self.path):
            for key in set(keys):
                row: tuple[str] | None = self._db.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = files.parsed(row[0])
        return found

    def put(self, values: Mapping[str, object], model: str = "") -> None:
        """Stores all of `values` or, if the disk is full, none. The first answer under a key stays."""
        now = time.time()
        rows = [(key, model, now, json.dumps(value, ensure_ascii=False)) for key, value in values.items()]
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)

    def claim(self, keys: Iterable[str], owner: str, seconds: float) -> set[str]:
        """Those of `keys` that `owner` now has for itself, for as long as it renews the claim.

        Who holds a claim asks; others wait for the answer. The claims of a process that died on this machine are void
        at once, those of any other lapse.

        Args:
            owner: From `new_owner`.
        """
        mine: set[str] = set()
        now = time.time()
        with self._writing():
            self._db.execute("DELETE FROM owners WHERE until < ?", (now,))
            owners: list[tuple[str]] = self._db.execute("SELECT owner FROM owners").fetchall()
            self._db.executemany("DELETE FROM owners WHERE owner = ?", [row for row in owners if _died(row[0])])
            self._db.execute("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners)")
            self._db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, now + seconds))
            for key in keys:
                self._db.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (key, owner))
                (holder,) = self._db.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
                if holder == owner:
                    mine.add(key)
        return mine

    def renew(self, owner: str, seconds: float) -> None:
        with self._writing():
            self._db.execute("UPDATE owners SET until = ? WHERE owner = ?", (time.time() + seconds, owner))

    def release(self, owner: str, keys: Iterable[str] | None = None) -> None:
        """Gives up claims; without `keys`, all of the owner's."""
        with self._writing():
            if keys is None:
                self._db.execute("DELETE FROM owners WHERE owner = ?", (owner,))
                self._db.execute("DELETE FROM claims WHERE owner = ?", (owner,))
            else:
                self._db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", [(key, owner) for key in keys])

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def holdings(self) -> list[Holding]:
        """What there is of each model, the largest first."""
        with intact(self.path):
            rows = self._db.execute(
                "SELECT model, COUNT(*), SUM(LENGTH(CAST(value AS BLOB)) + LENGTH(key)), MIN(created), MAX(created) "
                "FROM answers GROUP BY model ORDER BY 3 DESC, 1"
            ).fetchall()
        return [Holding(*row) for row in rows]

    def prune(self, *, before: float | None = None, most_bytes: int | None = None, model: str | None = None) -> int:
        """Deletes answers, of one model if it is named, and gives the space back to the disk.

        Args:
            before: Delete what was stored before this time, in seconds since the epoch.
            most_bytes: Then delete the oldest until no more than this is left.

        Returns:
            How many were deleted.
        """
        chosen = ("model = ?", [model]) if model is not None else ("1", [])
        with self._writing():
            deleted = 0
            if before is not None:
                deleted += self._db.execute(
                    f"DELETE FROM answers WHERE {chosen[0]} AND created < ?", [*chosen[1], before]
                ).rowcount
            if most_bytes is not None:
                deleted += self._db.execute(
                    "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, SUM(LENGTH(CAST(value AS BLOB)) + "
                    f"LENGTH(key)) OVER (ORDER BY created DESC, key) AS total FROM answers WHERE {chosen[0]}) "
                    "WHERE total > ?)",
                    [*chosen[1], most_bytes],
                ).rowcount
        try:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise UserError(f"the answers are deleted, but {self.path} did not shrink: {error}") from None
        return deleted


@contextlib.contextmanager
def intact(path: Path) -> Generator[None]:
    """Says of a store that is damaged that it is.

    Raises:
        UserError: SQLite cannot read it, or what it holds is no JSON.
    """
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise UserError(f"cannot read the store {path}: {error}; it is damaged, so take it from a backup") from None


def new_owner() -> str:
    """A name for a claimant by which others on this machine can tell whether its process still lives."""
    return f"{_place()}:{os.getpid()}:{uuid.uuid4().hex}"


def _place() -> str:
    """Where a process number means something: a machine, and on it a namespace."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _died(owner: str) -> bool:
    place, pid, _ = owner.rsplit(":", 2)
    if place != _place() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)  # signal 0 only looks
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, alive
        return False
    try:  # a killed process keeps its number until its parent asks for its exit status
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def connect(path: Path, *schema: str) -> sqlite3.Connection:
    """An SQLite file in WAL mode with the tables of `schema`; several processes may open it at once.

    Raises:
        UserError: not a database, or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError("a folder, a pipe or a device is no store")
        # The garbage collector may close it from any thread; use stays with one.
        db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            _use_wal(db)
            for statement in schema:
                db.execute(statement)
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as error:
        if (lying := _at_rest(path)) is not None:
            return lying
        raise UserError(f"cannot open the store {path}: {error}") from None
    return db


def _at_rest(path: Path) -> sqlite3.Connection | None:
    """A store on a disk that cannot be written, to be read as it lies there; None if the disk can be, or if the store
    was left in the middle of being written."""
    log = path.with_name(f"{path.name}-wal")
    if not path.is_file() or os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
        return None
    name = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    db = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT COUNT(*) FROM sqlite_master")
        db.execute("PRAGMA query_only = 1")
    except sqlite3.Error:
        db.close()
        return None
    return db


def _use_wal(db: sqlite3.Connection, patience: float = 60.0) -> None:
    # The timeout of the connection does not cover a change of journal mode, and several runs may start at once.
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:  # a disk that cannot be written will not change
                raise
            time.sleep(0.05)


class Ledger:
    """Counts what was really asked of whom, over restarts; METHODS names: `teacher_calls`, `local_eval_calls`, …

    Args:
        at_once: Whether each count is written down at once, so that a kill loses none.
    """

    def __init__(self, path: Path, *, at_once: bool = False) -> None:
        self.path = path
        self.at_once = at_once
        self.counts: Counter[str] = Counter(_counts(path) if path.exists() else {})

    def add(self, **counts: int) -> None:
        self.counts.update(counts)
        if self.at_once:
            self._write(durable=False)

    def save(self) -> None:
        self._write(durable=True)

    def _write(self, *, durable: bool) -> None:
        write_atomically(self.path, json.dumps(dict(sorted(self.counts.items())), indent=2) + "\n", durable=durable)


def _counts(path: Path) -> dict[str, int]:
    """What a ledger's file says.

    Raises:
        UserError: it is none.
    """
    try:
        found: object = files.parsed(files.text(path))
        if isinstance(found, dict) and all(type(n) is int and n >= 0 for n in cast(dict[str, object], found).values()):
            return cast(dict[str, int], found)
        raise ValueError("it holds something else than counts")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the ledger {path}: {error}; move it away to count from 0") from None


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replaces a file so that a reader or a crash sees the old or the new one, never a part.

    Args:
        durable: False for what may be older after a power cut: the disk is not waited for.

    Raises:
        UserError: the file cannot be written; the old one is intact.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, UnicodeEncodeError) as error:  # half a surrogate pair, which a file of others can hold
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error}; what was there before is intact") from None
