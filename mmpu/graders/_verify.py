"""math-verify at arm's length: one worker process that is killed when an answer takes too long or too much memory.

sympy evaluates what it parses, so `9^{9^{9^9}}` would take the machine, and math-verify's own limits are signals, which
work in a main thread only.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path

from mmpu.core import UserError

_START = 120.0
"""Seconds that importing sympy may take on a busy machine."""
_lock = threading.Lock()
_worker: tuple[int, subprocess.Popen[bytes]] | None = None
"""The process that started the worker, and the worker: a fork must not talk on its parent's pipe."""


@functools.cache
def require() -> None:
    """Asked before the first answer, so that no run gets as far as the first one that only math-verify can read.

    Raises:
        UserError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("grader math needs math-verify, which is not installed; run `pip install 'mmpu[math]'`")


def verify(gold: str, found: str, timeout: float) -> bool:
    """Whether math-verify holds `found` equal to `gold`; False also where it fails, takes longer than
    `timeout`, or read one of them in part only.

    Args:
        gold: LaTeX, without `$`.
        found: The same.
        timeout: Seconds.
    """
    question = json.dumps({"gold": gold, "found": found}).encode() + b"\n"
    with _lock:
        worker = _started()
        answer = None
        try:
            assert worker.stdin is not None
            worker.stdin.write(question)
            answer = _line(worker, timeout)
        except OSError:  # it died, for want of memory
            pass
        if answer is None:
            _stop()
        return answer == b"1\n"


def _started() -> subprocess.Popen[bytes]:
    global _worker
    if _worker is not None and _worker[0] == os.getpid() and _worker[1].poll() is None:
        return _worker[1]
    worker = subprocess.Popen(
        # -P: the folder of graders holds a math.py, which must not hide the standard library's.
        [sys.executable, "-P", str(Path(__file__).with_name("_verify_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    _worker = os.getpid(), worker
    if _line(worker, _START) is None:
        _stop()
        raise UserError("grader math: the process of math-verify does not start; try `python -c 'import math_verify'`")
    return worker


def _line(worker: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """What the worker says next; None if it dies or says nothing in time."""
    assert worker.stdout is not None
    end = time.monotonic() + timeout
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while not said.endswith(b"\n"):
            if not selector.select(max(0.0, end - time.monotonic())):
                return None
            piece = worker.stdout.read(64)
            if not piece:
                return None
            said += piece
    return said


@atexit.register
def _stop() -> None:
    global _worker
    if _worker is not None and _worker[0] == os.getpid():
        process = _worker[1]
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    _worker = None
