"""Ctrl-C and SIGTERM: work that can be left is left at once; a step that changes weights is finished before."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)
ECHO = 1.0
"""Seconds within which several processes take a signal for one: torchrun sends on what the terminal sent already."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop. By the convention of shells the exit status is 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Signals:
    """What has been asked for, and whether it has to wait.

    Args:
        several: Several processes work together, which stop at the same step or wait for each other in vain.
    """

    def __init__(self, several: bool = False) -> None:
        self.several = several
        self.received = 0
        """The first signal's number."""
        self.agreed = 0
        """The same over all processes, which `Record.step` finds out."""
        self.insisted = False
        """True once a second signal came: nothing is waited for any more."""
        self._waits = False
        self._at = 0.0

    @contextlib.contextmanager
    def handled(self) -> Generator[Signals]:
        """Handles signals, and gives them back. A signal that the caller ignores stays ignored, and outside the main
        thread, where Python allows none, there are no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in HANDLED}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> None:
        """From here to `go`, what is done is done to its end."""
        self._waits = True

    def go(self) -> None:
        """Raises:
        Interrupted: it was asked for meanwhile, and all processes know.
        """
        if not self.several:
            self._waits = False
            self.agreed = self.received
        if self.agreed:
            raise Interrupted(self.agreed)

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and self.several and now - self._at < ECHO:
            return
        self.insisted = bool(self.received)
        self.received, self._at = self.received or number, now
        if self.insisted or not self._waits:
            raise Interrupted(number)
