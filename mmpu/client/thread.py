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
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
TOGETHER = 0.002
"""Seconds within which answers are handed over together."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def stream(work: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[T]:
    """What `work` hands to its argument, as it does; leaving the iteration early cancels it.

    Raises:
        Whatever `work` raises, after what was handed over before.
    """
    heard: queue.SimpleQueue[list[T] | _End] = queue.SimpleQueue()
    together: list[T] = []
    loop = asyncio.new_event_loop()

    def hand_over(item: T) -> None:
        if not together:
            loop.call_later(TOGETHER, flush)
        together.append(item)

    def flush() -> None:
        if together:
            heard.put(together.copy())
            together.clear()

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
        while not isinstance(items := heard.get(), _End):
            yield from items
        if items.error is not None:
            raise items.error
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _run(work: Callable[[Callable[[T], None]], Awaitable[None]], hand_over: Callable[[T], None]) -> None:
    await work(hand_over)
