"""Images named by URL, fetched once into a cache, only where the user allows it, within bounds of size and time.

Whoever reads a task with `--allow-urls` lets its rows make this machine send requests, also to hosts of the local
network: allow it for tasks whose rows are trusted.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from mmpu.core import Part, Sample, UserError
from mmpu.media.images import MAX_BYTES

SECONDS = 30.0
"""For one file, from the first byte asked to the last received."""
TRIES = 3
AT_ONCE = 16
"""Downloads in flight."""


class _Readable(Protocol):
    def read1(self, n: int, /) -> bytes: ...


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmpu" / "media"


def local(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples with files for images that were named by URL.

    Raises:
        UserError: one cannot be had; names the sample.
    """
    urls = (image for s in samples for image in s.images if image.startswith(("http://", "https://")))
    files = fetch_all(urls)

    def located(sample: Sample, part: Part) -> Part:
        file = files.get(part.data) if part.kind == "image" else None
        if isinstance(file, UserError):
            raise UserError(f"sample {sample.id!r}: {file}")
        return part if file is None else Part("image", file)

    return [
        replace(s, prompt=tuple(replace(m, parts=tuple(located(s, part) for part in m.parts)) for m in s.prompt))
        for s in samples
    ]


def fetch_all(urls: Iterable[str], folder: Path | None = None) -> dict[str, str | UserError]:
    """The local file of every URL, or why there is none. What is there already is not fetched again."""
    folder = folder or cache_folder()

    def one(url: str) -> str | UserError:
        try:
            return str(fetch(url, folder))
        except UserError as error:
            return error

    distinct = list(dict.fromkeys(urls))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip(distinct, threads.map(one, distinct), strict=True))


def fetch(url: str, folder: Path) -> Path:
    """The file behind a URL.

    Raises:
        UserError: it cannot be had, or is too large, or takes too long.
    """
    path = folder / hashlib.sha256(url.encode()).hexdigest()
    if path.exists():
        return path
    ends = time.monotonic() + SECONDS
    reason = ""
    for attempt in range(TRIES):
        try:
            raw = _download(url, ends)
            break
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code}"
            if error.code < 500 and error.code != 429:
                raise UserError(f"image {url}: cannot be fetched ({reason})") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        time.sleep(min(0.2 * 2**attempt, max(0.0, ends - time.monotonic())))
    else:
        raise UserError(f"image {url}: cannot be fetched ({reason})")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(raw)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot keep {url} in {folder}: {error}") from None
    return path


def _download(url: str, ends: float) -> bytes:
    # Only HTTP, also after a redirect: no ftp:, no file:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "mmpu"})
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"not there within {SECONDS:g} s")
    raw = bytearray()
    with opener.open(request, timeout=left) as response:
        while piece := cast(_Readable, response).read1(1 << 16):
            raw += piece
            if len(raw) > MAX_BYTES:
                raise UserError(f"image {url}: larger than {MAX_BYTES >> 20} MiB; shrink it")
            if time.monotonic() > ends:
                raise TimeoutError(f"not there within {SECONDS:g} s")
        if response.headers.get("Content-Length", str(len(raw))) != str(len(raw)):
            raise http.client.HTTPException("the connection was lost")
    return bytes(raw)
