"""Who gets the next free place at which endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.client.endpoint import Endpoint


class NoneLeft(Exception):
    """Every endpoint has been given up."""


@dataclass(frozen=True)
class _Waiting:
    place: asyncio.Future[Endpoint]
    rather_not: Endpoint | None


class Pool:
    """Endpoints that share the load, with at most `most` calls in flight over all of them."""

    def __init__(self, endpoints: Sequence[Endpoint], most: int) -> None:
        self.endpoints = endpoints
        self.most = most
        self._in_flight = 0
        self._queue: deque[_Waiting] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def enter(self, rather_not: Endpoint | None = None, *, first: bool = False) -> Endpoint:
        """Waits for a place.

        Args:
            rather_not: An endpoint to avoid where another has room.
            first: Go to the head of the queue.

        Raises:
            NoneLeft: waiting is of no use.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), rather_not)
        if first:
            self._queue.appendleft(waiting)
        else:
            self._queue.append(waiting)
        self._serve()
        try:
            return await waiting.place
        except asyncio.CancelledError:
            if waiting.place.done() and not waiting.place.cancelled() and not waiting.place.exception():
                self.leave(waiting.place.result())
            raise

    def leave(self, endpoint: Endpoint) -> None:
        endpoint.in_flight -= 1
        self._in_flight -= 1
        self._serve()

    def _serve(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._queue and self._in_flight < self.most:
            endpoint = self._free(now, self._queue[0].rather_not)
            if endpoint is None:
                break
            place = self._queue.popleft().place
            if not place.done():
                endpoint.in_flight += 1
                self._in_flight += 1
                place.set_result(endpoint)
        if self._queue:
            self._wait_or_give_up(now)

    def _free(self, now: float, rather_not: Endpoint | None) -> Endpoint | None:
        if len(self.endpoints) == 1:
            return self.endpoints[0] if self.endpoints[0].has_room(now) else None
        free = [endpoint for endpoint in self.endpoints if endpoint.has_room(now)]
        return min(free, key=lambda e: (e is rather_not, e.in_flight / e.window), default=None)

    def _wait_or_give_up(self, now: float) -> None:
        left = [endpoint for endpoint in self.endpoints if not endpoint.given_up]
        if not left and not self._in_flight:  # a call still in flight may bring one back
            while self._queue:
                place = self._queue.popleft().place
                if not place.done():
                    place.set_exception(NoneLeft)
            return
        resting = [endpoint.rests_until for endpoint in left if endpoint.rests_until > now]
        if resting:
            if self._alarm:
                self._alarm.cancel()
            self._alarm = asyncio.get_running_loop().call_at(min(resting), self._serve)
