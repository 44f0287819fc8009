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

    async def run(self, work: Callable[[T], Awaitable[None]]) -> None:
        """Does the work on every item.

        Raises:
            BaseExceptionGroup: what `work` raised; the other items are cancelled.
        """
        self._work = work
        async with asyncio.TaskGroup() as self._tasks:
            for _ in range(self._most):
                self._hire()

    async def rest(self, seconds: float) -> None:
        """What a worker awaits in the middle of an item to let others work."""
        self._awake -= 1
        if self._workers < self._begun:
            self._hire()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._awake += 1

    def _hire(self) -> None:
        self._workers += 1
        self._awake += 1
        self._tasks.create_task(self._labour())

    async def _labour(self) -> None:
        try:
            for item in self._items:
                await self._work(item)
                if self._awake > self._most:
                    return
        finally:
            self._workers -= 1
            self._awake -= 1
