"""A lock on a file that no process can leave behind: the kernel lets go of it when the process ends, however it ends.

`flock` on a file that names its holder. On NFS, Linux takes it from the server unless the mount says
`local_lock=flock`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

from mmpu.core import UserError

POLL = 0.02
"""Seconds between two tries."""


@contextlib.contextmanager
def locked(path: Path, what: str, patience: float = 0.0) -> Generator[None]:
    """Holds the lock file at `path`, which is gone afterwards.

    Args:
        what: How errors call what is locked.
        patience: Seconds to wait for another holder.

    Raises:
        UserError: another process holds it, named, or the place has no locks.
    """
    new = not path.parent.exists()
    file = _held(path, what, patience)
    try:
        yield
    finally:
        # Gone before it is let go of; who waited for this file looks whether it is still the one at `path`.
        with contextlib.suppress(OSError):
            path.unlink()
            if new:  # nothing may have come of it
                path.parent.rmdir()
        os.close(file)


def _held(path: Path, what: str, patience: float) -> int:
    ends = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path}, the lock of {what}: {error}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                _sign(file)
                return file
        except BlockingIOError:
            if time.monotonic() >= ends:
                os.close(file)
                raise UserError(f"{what} is in use by {_holder(path)}; wait for it to end, or stop it") from None
            time.sleep(POLL)
        except OSError as error:
            os.close(file)
            raise UserError(f"cannot lock {path}: {error}; put {what} on a file system that has locks") from None
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at its path; who held it before takes it away."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _sign(file: int) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    os.ftruncate(file, 0)
    os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):  # it is just signing, or has just gone
        return "another process"
