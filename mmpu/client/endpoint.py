"""How much one endpoint is given to do: a window of calls in flight that rises while latency holds and halves when the
endpoint refuses, and a rest after failures in a row.

The window works in rounds of as many calls as it is wide. At first it doubles from one round to the next, after the
first refusal it grows by one.
"""

from __future__ import annotations

import random

START = 16
"""Calls in flight before anything is known."""
SLACK = 2.0
"""The window rises while a round's mean latency is below this multiple of the lowest so far."""
PATIENCE = 8
"""Failures in a row after which an endpoint is left alone for a while; then one call at a time tries it."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a first second attempt, and at most."""


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed attempt number `attempt`, from 1: doubling, with jitter."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0)


class Endpoint:
    """The state of one endpoint. Times are those of the event loop, in seconds.

    Args:
        most: Widest window.
        rests: Rests in a row, without a success in between, after which it is given up.
    """

    def __init__(self, url: str, most: int, rests: int) -> None:
        self.url = url
        self.most = most
        self.rests = rests
        self.window = min(most, START)
        self.in_flight = 0
        self.rests_until = 0.0
        self.reason = ""
        """Of the last failure."""
        self._failures = self._rested = 0
        self._refused = 0.0  # smoothed share of calls
        self._doubling = True
        self._cut = 0.0
        self._lowest = float("inf")
        self._calls, self._seconds = 0, 0.0

    @property
    def given_up(self) -> bool:
        return self._rested > self.rests

    def has_room(self, now: float) -> bool:
        width = 1 if self._failures >= PATIENCE else self.window
        return not self.given_up and now >= self.rests_until and self.in_flight < width

    def answered(self, started: float, now: float) -> None:
        """A call was served, be it by saying that this one request will not do."""
        self._failures = self._rested = 0
        self._refused *= 0.9
        self._calls += 1
        self._seconds += now - started
        if self._calls < self.window:
            return
        mean = self._seconds / self._calls
        self._lowest = min(self._lowest, mean)
        self._calls, self._seconds = 0, 0.0
        if mean <= SLACK * self._lowest:
            self.window = min(self.most, self.window * 2 if self._doubling else self.window + 1)

    def refused(self, started: float, now: float, wait: float | None) -> None:
        """It was too busy. One window's worth of refusals halves the window once."""
        self._failures = self._rested = 0
        self._refused = 0.9 * self._refused + 0.1
        if started >= self._cut:
            self.window = max(1, self.window // 2)
            self._doubling = False
            self._cut = now
            self._calls, self._seconds = 0, 0.0
        if wait is not None and self._refused > 0.5:  # a limit on the whole endpoint, not on a call now and then
            self.rests_until = max(self.rests_until, now + wait)

    def failed(self, now: float, reason: str, *, for_good: bool = False) -> None:
        """It could not be reached, broke down or talked nonsense.

        Args:
            for_good: Every call will fare alike, since the key or the address is wrong.
        """
        self._failures += 1
        self.reason = reason
        if self._failures >= PATIENCE and now >= self.rests_until:
            self._rested = self.rests + 1 if for_good else self._rested + 1
            self.rests_until = now + backoff(self._rested)
