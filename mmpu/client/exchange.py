"""An item's requests, and when they are made again.

Asked again: a refusal for now (429, 503), a breakdown (408, 409, 425, 5xx), a lost or silent connection, a reply that
is not what the protocol says; after Retry-After or a doubling wait with jitter, at another endpoint where there is
one. Not asked again: what the endpoint says is wrong with the request, what its model or its filter will not answer.
Either way the item fails alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar, cast

from mmpu.client.client import MALFORMED, Client, Reply, Trouble
from mmpu.client.endpoint import Endpoint, backoff
from mmpu.client.pool import NoneLeft

T = TypeVar("T")


class Refused(Exception):
    """An item that will not be answered, and why."""


class Declined(Refused):
    """The model, or a filter before it, will not answer."""


class Unusable(Exception):
    """A reply of the right form that lacks what was asked for."""


class Exchange:
    """The dealings with endpoints over one item: one deadline for all its requests, and what they took.

    `async with`: the place of a call that was answered is held until the item is done with or asks again, so that
    what is under way, and what has been paid for and is not written down yet, are no more than the pool has places.

    Args:
        rest: Awaited, with the seconds, before a request is made again.
    """

    def __init__(self, client: Client, rest: Callable[[float], Awaitable[None]]) -> None:
        self.client = client
        self._rest = rest
        self.counts: Counter[str] = Counter()
        self.refusals: list[str] = []
        """Why some of the answers asked for will not come, while others did."""
        self._ends: float | None = None
        self._held: Endpoint | None = None
        """Whose place an answered call still takes."""

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._held is not None:
            self.client.pool.leave(self._held)
            self._held = None

    async def post(self, build: Callable[[], Awaitable[bytes]], read: Callable[[Reply], T]) -> T:
        """Sends a request until its reply can be read.

        Args:
            build: Makes the request's body, when there is a place for it: bodies with images are large.
            read: Raises `Unusable` or one of `MALFORMED` if the reply will not do, `Refused` if none ever will.

        Raises:
            Refused: it cannot, within the terms.
        """
        self._leave()
        clock, terms = asyncio.get_running_loop().time, self.client.terms
        endpoint: Endpoint | None = None
        trouble = Trouble("")
        for attempt in range(1, terms.retries + 2):
            endpoint = self._held = await self._enter(endpoint, trouble)
            ends = self._ends = self._ends or clock() + terms.deadline
            try:
                body = await build()
                self.counts["requests"] += 1
                reply, started = await self.client.attempt(
                    endpoint, body, min(terms.timeout, max(ends - clock(), 0.01))
                )
                return self._read(endpoint, reply, started, read)
            except Trouble as error:
                trouble = error
                self._leave()
            if not trouble.again:
                raise (Declined if trouble.declined else Refused)(str(trouble))
            if attempt > terms.retries:
                break
            wait = max(trouble.wait, backoff(attempt))
            if clock() + wait >= ends:
                raise Refused(
                    f"{trouble} (attempt {attempt}; the next one would come after the deadline of {terms.deadline:g} s)"
                )
            await self._rest(wait)
        raise Refused(f"{trouble} (attempt {terms.retries + 1} of {terms.retries + 1})")

    async def _enter(self, last: Endpoint | None, trouble: Trouble) -> Endpoint:
        pool = self.client.pool
        try:
            if last is None:  # waiting for the first place is nobody's fault
                return await pool.enter()
            async with asyncio.timeout_at(self._ends):
                return await pool.enter(last, first=True)
        except TimeoutError:
            raise Refused(f"{trouble} (no place for another attempt before the deadline)") from None
        except NoneLeft:
            reason = str(trouble) or next((e.reason for e in pool.endpoints if e.reason), "")
            raise Refused(f"no endpoint is left to ask: {reason}") from None

    def _read(self, endpoint: Endpoint, reply: Reply, started: float, read: Callable[[Reply], T]) -> T:
        now = asyncio.get_running_loop().time()
        self.counts.update(_usage(reply))
        try:
            value = read(reply)
        except Refused as error:
            endpoint.answered(started, now)
            raise type(error)(self.client.shown(str(error))) from None
        except Unusable as error:
            endpoint.answered(started, now)
            raise Trouble(self.client.shown(str(error))) from None
        except MALFORMED as error:
            reason = self.client.shown(f"the reply is not a chat completion ({type(error).__name__}: {error})")
            endpoint.failed(now, reason)
            raise Trouble(reason) from None
        endpoint.answered(started, now)
        return value


def _usage(reply: Reply) -> dict[str, int]:
    """Tokens as the endpoint reports them, those of the prompt that its prefix cache held too; nothing where it does
    not."""
    usage = reply.get("usage")
    fields = cast(Reply, usage) if isinstance(usage, dict) else {}
    details = fields.get("prompt_tokens_details")
    named = {
        "tokens_in": fields.get("prompt_tokens"),
        "tokens_cached": cast(Reply, details).get("cached_tokens") if isinstance(details, dict) else None,
        "tokens_out": fields.get("completion_tokens"),
    }
    return {name: n for name, n in named.items() if isinstance(n, int)}
