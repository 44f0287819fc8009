"""Asks a judge for the readings that the store lacks, and for no other.

Readings of one sample stand next to each other, over all orders and all systems, so that a server's prefix cache holds
the images and the question once. They go out in pieces, several pieces at a time where the engine is a remote one, and
one slow call holds up its own piece only. Each reading is stored when its reply comes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from mmpu.core import UserError, digest
from mmpu.duel import MARKS, Duel, Judge, Order, Verdict
from mmpu.judging.verdicts import Reading, Verdicts, key_of, reading_of

T = TypeVar("T")
PIECE = 32
"""Readings per piece at least."""
LANES = 4
"""Pieces at a time, where the engine serves several calls at once."""


@dataclass(frozen=True)
class Question:
    """A reading to be made."""

    key: str
    duel: Duel
    order: Order
    pairs: tuple[tuple[str, Order], ...] = ()
    """Of a mark: readings of pairs that may hold it, and whose mark it is there. So marks were kept before each stood
    by itself."""


@dataclass(frozen=True)
class Limits:
    """What may be spent."""

    max_calls: int | None = None
    """Readings asked for in this run."""
    rejudge: bool = False
    """Ask anew for what the store has; one that was stopped or killed goes on."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    unread: int
    seconds: float
    cached: float | None = None
    """Share of the prompts' tokens that the server's prefix cache held; None where it does not tell."""

    @property
    def rate(self) -> float:
        """Readings per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to go; None while nothing is known."""
        return (self.total - self.done) / self.rate if self.rate else None


class Stopped(UserError):
    """The budget is spent; what was asked is stored."""


def questions(judge: Judge, duels: Sequence[Duel]) -> list[Question]:
    """All readings that duels need, each once, those of a sample next to each other."""
    first: dict[str, int] = {}
    for duel in duels:
        first.setdefault(duel.sample.id, len(first))
    ordered = sorted((d for d in duels if not d.identical), key=lambda duel: first[duel.sample.id])
    identity = judge.identity
    found: dict[str, Question] = {}
    pairs: dict[str, list[tuple[str, Order]]] = {}
    for duel in ordered:
        keys = [key_of(identity, duel, order) for order in judge.orders]
        for key, order in zip(keys, judge.orders, strict=True):
            found.setdefault(key, Question(key, duel, order))
        if judge.orders == MARKS:
            swapped = Duel(duel.sample, duel.theirs, duel.ours)
            for pair, sides in ((duel, MARKS), (swapped, MARKS[::-1])):
                known = key_of(identity, pair, "none")
                for key, side in zip(keys, sides, strict=True):
                    pairs.setdefault(key, []).append((known, side))
    return [replace(q, pairs=tuple(pairs[q.key])) if q.key in pairs else q for q in found.values()]


def missing(asked: Sequence[Question], store: Verdicts, rejudge: bool = False) -> list[Question]:
    """Those that the store has no readable answer to: never asked, or failed. Of a rejudging, none since it began."""
    since = store.rejudging(_name(asked)) if rejudge else 0
    if since is None:
        return list(asked)
    left = _unread(asked, store, since)
    inherited = set[str]() if rejudge else {reading.key for reading in _inherited(left, store)}
    return [q for q in left if q.key not in inherited]


def _unread(asked: Sequence[Question], store: Verdicts, since: int = 0) -> list[Question]:
    known = store.get((q.key for q in asked), since)
    return [q for q in asked if q.key not in known or known[q.key].win is None]


def _inherited(asked: Sequence[Question], store: Verdicts) -> list[Reading]:
    """Marks that the store holds in readings of pairs only."""
    known = store.get(key for question in asked for key, _ in question.pairs)
    found: list[Reading] = []
    for question in asked:
        marks = ((known[key], known[key].detail.get(side)) for key, side in question.pairs if key in known)
        first = next(((reading, mark) for reading, mark in marks if mark is not None), None)
        if first is not None:
            reading, mark = first
            reason = "from the reading of a pair"
            found.append(
                replace(reading, key=question.key, order="mark", win=mark, soft=None, reason=reason, detail={})
            )
    return found


def _name(asked: Sequence[Question]) -> str:
    """Of a rejudging: what it asks for."""
    return digest(sorted(question.key for question in asked))


def ask(
    judge: Judge,
    asked: Sequence[Question],
    store: Verdicts,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Gets and stores what is missing.

    Returns:
        How many readings were asked for.

    Raises:
        Stopped: `limits.max_calls` was reached before all was asked; the same call goes on from there.
    """
    limits = limits or Limits()
    store.append(_inherited(_unread(asked, store), store))
    pending = missing(asked, store, limits.rejudge)
    allowed = pending if limits.max_calls is None else pending[: limits.max_calls]
    tally: Counter[str] = Counter()
    judge, lanes, size = _lanes(judge, len(allowed), tally)
    pieces = [allowed[i : i + size] for i in range(0, len(allowed), size)]
    if limits.rejudge and allowed:
        store.begin_rejudging(_name(asked))
    identity, start = judge.identity, time.monotonic()
    counts: Counter[bool] = Counter()

    def keep(replies: Sequence[tuple[Question, Verdict]]) -> None:
        readings = [reading_of(question.key, identity, verdict) for question, verdict in replies]
        store.append(readings)
        counts.update(reading.win is None for reading in readings)
        passed = time.monotonic() - start
        progress(Progress(counts.total(), len(allowed), counts[True], passed, _cached(tally)))

    _listen(judge, pieces, lanes, keep)
    if len(allowed) < len(pending):
        raise Stopped(
            f"stopped after {len(allowed)} readings, as told; {len(pending) - len(allowed)} are missing, nothing was "
            f"published. All verdicts are in {store.path}; the same command goes on from there"
        )
    if limits.rejudge:
        store.end_rejudging(_name(asked))
    return counts.total()


def _listen(
    judge: Judge,
    pieces: Sequence[Sequence[Question]],
    lanes: int,
    keep: Callable[[Sequence[tuple[Question, Verdict]]], None],
) -> None:
    """Hands over what the judge says, as it comes; so many pieces are read at a time. A lane goes on when what it said
    is kept, so that no more than its engine's calls under way is ever paid for and not kept.

    Raises:
        Whatever reading a piece raises, after what the pieces under way say was kept: it has been paid for.
        Whatever keeping raises; then no more is asked for.
    """
    heard: SimpleQueue[_Said | None] = SimpleQueue()
    lost = threading.Event()

    def read(piece: Sequence[Question]) -> None:
        for place, verdict in judge.readings([(q.duel, q.order) for q in piece]):
            heard.put(said := _Said(piece[place], verdict))
            said.kept.wait()
            if lost.is_set():
                return

    def keep_what_came() -> None:
        replies = _taken([heard.get()], heard)
        try:
            if replies and not lost.is_set():
                keep([(said.question, said.verdict) for said in replies])
        except BaseException:
            lost.set()
            raise
        finally:
            for said in replies:
                said.kept.set()

    left, under_way = list(reversed(pieces)), set[Future[None]]()
    with ThreadPoolExecutor(lanes) as pool:
        try:
            while left or under_way:
                while left and len(under_way) < lanes:
                    future = pool.submit(read, left.pop())
                    future.add_done_callback(lambda _: heard.put(None))  # wakes who waits
                    under_way.add(future)
                keep_what_came()
                for future in [future for future in under_way if future.done()]:
                    under_way.remove(future)
                    future.result()
        finally:
            while not all(future.done() for future in under_way) or not heard.empty():
                keep_what_came()


@dataclass(frozen=True)
class _Said:
    """A verdict on its way to the store."""

    question: Question
    verdict: Verdict
    kept: threading.Event = field(default_factory=threading.Event)


def _taken(first: list[T | None], queue: SimpleQueue[T | None]) -> list[T]:
    """What else the queue holds, without waiting."""
    with contextlib.suppress(Empty):
        while True:
            first.append(queue.get_nowait())
    return [item for item in first if item is not None]


def _cached(tally: Counter[str]) -> float | None:
    return tally["tokens_cached"] / tally["tokens_in"] if "tokens_cached" in tally and tally["tokens_in"] else None


def _lanes(judge: Judge, calls: int, tally: Counter[str]) -> tuple[Judge, int, int]:
    """The judge with its engine's concurrency shared out, the number of lanes, and readings per piece.

    Args:
        tally: For what the engine's calls take, where it adds that up.
    """
    engine: Any = getattr(judge, "engine", None)
    concurrency = getattr(engine, "concurrency", None)
    if not isinstance(concurrency, int) or not dataclasses.is_dataclass(judge):
        return judge, 1, PIECE
    lanes = max(1, min(LANES, concurrency, calls // PIECE))
    counting = {"tally": tally} if hasattr(engine, "tally") else {}
    share = dataclasses.replace(engine, concurrency=max(1, concurrency // lanes), **counting)
    shared = dataclasses.replace(cast(Any, judge), engine=share)
    return shared, lanes, max(PIECE, 2 * share.concurrency)
