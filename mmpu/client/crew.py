"""Workers that take one item after another.

Who is done goes on with the next item in the same turn of the event loop; were each item a task of its own, every call
would wait for further turns, each as long as all that is ready takes. Who has to wait before asking again makes room:
another works meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """Nothing of this item is under way, and nothing more is asked for."""


class Crew(Generic[T]):
    """Args:
    most: Workers awake at a time.
    begun: Items begun and not done at a time, most of them waiting to be asked again.
    """

    def __init__(self, items: Iterable[T], most: int, begun: int) -> None:
        self._items: Iterator[T] = iter(items)
        self._most = most
        self._begun = begun
        self._workers = self._awake = 0
        self._broken: Exception | None = None
        self._stop = asyncio.Event()

    async def run(self, work: Callable[[T], Awaitable[None]]) -> None:
        """Does the work on every item.

        Raises:
            Exception: the first that `work` raised. No further item is begun then; those under way end, since their
                calls have been paid for, but are not asked for again.
        """
        self._work = work
        async with asyncio.TaskGroup() as self._tasks:
            for _ in range(self._most):
                self._hire()
        if self._broken is not None:
            raise self._broken

    async def rest(self, seconds: float) -> None:
        """What a worker awaits in the middle of an item to let others work."""
        self._awake -= 1
        if self._workers < self._begun and not self._broken:
            self._hire()
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        finally:
            self._awake += 1
        raise Abandoned

    def _hire(self) -> None:
        self._workers += 1
        self._awake += 1
        self._tasks.create_task(self._labour())

    async def _labour(self) -> None:
        try:
            for item in self._items:
                try:
                    await self._work(item)
                except Abandoned:
                    pass
                except Exception as error:
                    self._broken = self._broken or error
                    self._stop.set()
                if self._awake > self._most or self._broken:
                    return
        finally:
            self._workers -= 1
            self._awake -= 1
