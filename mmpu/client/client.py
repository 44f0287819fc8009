"""One call to an endpoint: a reply, or what the trouble is and whether asking again may help.

No reason that is given here names the endpoint's address or the key: reasons are stored and published.

HTTP is aiohttp's: it takes a quarter of the time per call that httpx takes (benchmarks in docs/engines.md), and the
calls of one process share one core.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import os
import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from mmpu import files
from mmpu.client.endpoint import Endpoint
from mmpu.client.pool import Pool
from mmpu.core import UserError

if TYPE_CHECKING:
    from aiohttp import ClientConnectorError, ClientResponse

Reply = dict[str, Any]
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What reading a reply raises if it is not what the protocol says: a proxy's error page, a list, a missing field."""
BUSY = (429, 503)
PASSING = (408, 409, 425, *BUSY)
"""Statuses below 500, and that of an endpoint at its limit, after which the same request may be served."""
FILTERED = re.compile(r"content_?filter|content_policy", re.IGNORECASE)
FINAL = re.compile(rf"invalid|context_length|not_found|{FILTERED.pattern}", re.IGNORECASE)
"""Kinds of errors that the same request meets again."""
LONGEST_REST = 3600.0
"""Seconds of a Retry-After that are believed; the item's deadline ends before that."""
LARGEST_REPLY = 64 * 2**20
TO_CONNECT = 10.0
"""Seconds to reach a host."""


class Trouble(Exception):
    """An attempt that failed."""

    def __init__(self, reason: str, *, again: bool = True, wait: float = 0.0, kind: str = "") -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait
        self.declined = FILTERED.search(kind) is not None
        """A filter will not let this prompt pass, however it is asked."""


@dataclass(frozen=True)
class Terms:
    """How much at once, how long, how often."""

    concurrency: int
    timeout: float
    """Seconds for one attempt."""
    deadline: float
    """Seconds for one item from its first attempt on, with all attempts and waits."""
    retries: int
    """Further attempts at one request."""


class Client:
    """Open connections to endpoints; `async with`, then an `Exchange` (exchange.py) for each item.

    Args:
        urls: Base URLs up to and including /v1.
    """

    def __init__(self, urls: Sequence[str], key: str, terms: Terms) -> None:
        self.terms = terms
        self.pool = Pool([Endpoint(url, terms.concurrency, terms.retries) for url in urls], terms.concurrency)
        self._key = key
        self._proxies = {url: _proxy(url) for url in urls}

    async def __aenter__(self) -> Client:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the pool bounds
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def attempt(self, endpoint: Endpoint, body: bytes, seconds: float) -> tuple[Reply, float]:
        """One call: the reply, and when it was begun.

        Raises:
            Trouble: there is no reply.
        """
        import aiohttp

        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with self._session.post(
                f"{endpoint.url}/chat/completions",
                data=body,
                allow_redirects=False,  # they would carry the key elsewhere
                proxy=self._proxies[endpoint.url],
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=TO_CONNECT),
            ) as response:
                raw = await _bounded(response)
        except TimeoutError:
            reason = f"no answer within {clock() - started:.1f} s"
            endpoint.failed(clock(), reason)
            raise Trouble(reason) from None
        except aiohttp.ClientConnectorError as error:
            endpoint.failed(clock(), reason := f"cannot connect ({_why(error)})")
            raise Trouble(reason) from None
        except (aiohttp.ClientError, OSError) as error:
            endpoint.failed(clock(), reason := f"the connection was lost ({type(error).__name__})")
            raise Trouble(reason) from None
        if response.status // 100 != 2:
            raise self._refusal(endpoint, response, raw, started, clock())
        try:
            reply: object = files.writable(files.parsed(raw))
            if not isinstance(reply, dict):
                raise TypeError
        except (ValueError, TypeError):
            endpoint.failed(clock(), reason := f"the reply is not a JSON object: {self.shown(raw, 80)!r}")
            raise Trouble(reason) from None
        found = cast(Reply, reply)
        if not found.get("choices") and (words := words_of(found)):
            raise self._error_within(endpoint, found, words, started, clock())
        return found, started

    def _error_within(self, endpoint: Endpoint, reply: Reply, words: str, started: float, now: float) -> Trouble:
        """What a reply means that reports an error under the status 200, as gateways do of their providers."""
        code, kind = _kind(reply)
        status = code if isinstance(code, int) else 0
        reason = f"HTTP 200 with error{f' {status}' if status else ''}: {self.shown(words)}"
        if status in BUSY:
            endpoint.refused(started, now, None)
        elif (400 <= status < 500 and status not in PASSING) or FINAL.search(kind):
            endpoint.answered(started, now)
            return Trouble(reason, again=False, kind=kind)
        else:
            endpoint.failed(now, reason)
        return Trouble(reason)

    def _refusal(self, endpoint: Endpoint, response: ClientResponse, raw: bytes, started: float, now: float) -> Trouble:
        status, wait = response.status, retry_after(response.headers.get("Retry-After"))
        reason = f"HTTP {status}: {self.shown(_message(raw))}"
        if status in BUSY and (wait is None or wait <= self.terms.deadline):
            endpoint.refused(started, now, wait)
        elif status in BUSY or status >= 500 or status in PASSING:  # whoever waits for it is answered too late
            endpoint.failed(now, reason)
        elif status in (401, 403, 404) or status < 400:
            endpoint.failed(now, reason, for_good=True)
            return Trouble(reason, again=False)
        else:
            endpoint.answered(started, now)
            return Trouble(reason, again=False, kind=_kind_in(raw))
        return Trouble(reason, wait=wait or 0.0)

    def shown(self, text: str | bytes, most: int = 300) -> str:
        """A text from an endpoint as an error may show it: short, on one line, without our key."""
        plain = text.decode(errors="replace") if isinstance(text, bytes) else text
        if len(self._key) >= 4:
            plain = plain.replace(self._key, "[key]")
        return " ".join(plain[: 4 * most].split())[:most]


def _why(error: ClientConnectorError) -> str:
    # The text of the error itself names the address.
    number = getattr(getattr(error, "_os_error", None), "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


async def _bounded(response: ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > LARGEST_REPLY:
            raise ConnectionError("the reply does not end")
    return bytes(raw)


def _message(raw: bytes) -> str | bytes:
    try:
        return words_of(files.parsed(raw)) or raw
    except MALFORMED:
        return raw


def _kind_in(raw: bytes) -> str:
    try:
        return _kind(files.parsed(raw))[1]
    except MALFORMED:
        return ""


def _kind(reply: Any) -> tuple[object, str]:
    """The code of an error, and the code with the type that goes with it."""
    error = reply.get("error")
    fields = cast(Reply, error if isinstance(error, dict) else reply)
    return fields.get("code"), f"{fields.get('code')} {fields.get('type')}"


def words_of(reply: object) -> str:
    """What an error says in the provider's own words, those of the provider behind a gateway included; empty if it says
    nothing that can be found."""
    if isinstance(reply, list):
        return next((words for each in cast(list[object], reply) if (words := words_of(each))), "")
    if not isinstance(reply, dict):
        return reply if isinstance(reply, str) else ""
    fields = cast(Reply, reply)
    if fields.get("error"):
        return words_of(fields["error"])
    words = next((str(fields[name]) for name in ("message", "detail") if fields.get(name)), "")
    metadata = fields.get("metadata")
    behind = str(cast(Reply, metadata).get("raw") or "") if isinstance(metadata, dict) else ""
    return f"{words} ({behind})" if behind and behind not in words else words


def retry_after(header: str | None) -> float | None:
    """Seconds; the header holds seconds or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_tz(header)
            seconds = email.utils.mktime_tz(date) - time.time() if date else math.nan
        except (ValueError, OverflowError, TypeError, IndexError):  # a date of no calendar
            seconds = math.nan
    return None if math.isnan(seconds) else min(max(0.0, seconds), LONGEST_REST)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL, looked up once: it takes longer than a call."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def checked_key(key: str, name: str) -> str:
    """A key as the environment holds it.

    Raises:
        UserError: no header can hold it; the key itself is not shown.
    """
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {name} holds line breaks or characters that no key has; set it to the key alone"
        )
    return key


def checked_url(url: str) -> str:
    """A base URL without its final slash.

    Raises:
        UserError: it is none, or it carries credentials, which would reach configs and logs.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:  # brackets, a port that is none, a name that is too long
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not url.strip().isprintable() or " " in url.strip():
        raise UserError(f"the endpoint {url!r} is not an address; write it like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"the address of the endpoint at {parts.hostname} carries a password or a query; give it without, and the "
            "key in the environment"
        )
    return url.strip().rstrip("/")
