"""How synchronous code hears of answers as they come: the event loop runs in a thread of its own, so it goes on while
an answer is written down, and works in a notebook, where a loop already runs.

Answers that arrive together are handed over together: to wake the other thread for each took a sixth of the processor
time of a call (benchmarks/b5_client.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
TOGETHER = 0.002
"""Seconds within which answers are handed over together."""


@dataclass(frozen=True)
class _Batch(Generic[T]):
    """Items that are handed over together."""

    items: list[T] = field(default_factory=list[T])
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def stream(work: Callable[[Callable[[T], Awaitable[None]]], Awaitable[None]]) -> Iterator[T]:
    """What `work` hands to its argument, as it does; leaving the iteration early cancels it. Who awaits what the
    argument returns goes on when whoever iterates has done with the item, and with those that came together with it.

    Raises:
        Whatever `work` raises, after what was handed over before.
    """
    heard: queue.SimpleQueue[_Batch[T] | _End] = queue.SimpleQueue()
    together: list[_Batch[T]] = []
    loop = asyncio.new_event_loop()

    async def hand_over(item: T) -> None:
        if not together:
            together.append(_Batch())
            loop.call_later(TOGETHER, flush)
        batch = together[0]
        batch.items.append(item)
        await batch.done.wait()

    def flush() -> None:
        if together:
            heard.put(together.pop())

    task = loop.create_task(_run(work, hand_over))

    def run() -> None:
        error: BaseException | None = None
        try:
            loop.run_until_complete(task)
        except BaseException as raised:
            error = raised
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            flush()
            heard.put(_End(error))

    thread = threading.Thread(target=run, name="mmpu-client", daemon=True)
    thread.start()
    try:
        while not isinstance(batch := heard.get(), _End):
            yield from batch.items
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(batch.done.set)
        if batch.error is not None:
            raise batch.error
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _run(
    work: Callable[[Callable[[T], Awaitable[None]]], Awaitable[None]], hand_over: Callable[[T], Awaitable[None]]
) -> None:
    await work(hand_over)
