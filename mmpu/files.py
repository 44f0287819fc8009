"""Files of others. What is read is of bounded size, lies in a regular file, and is a value or one error; a name becomes
a file's name in one way.

Whoever calls says what the error means: everything here raises `OSError` where a file cannot be read and `ValueError`
where its content is not what it should be, and nothing else.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from pathlib import Path
from typing import Any, cast

from mmpu.core import digest

LARGEST = 2**32
"""Bytes of a file that is read whole, such as a task's rows."""
DEPTH = 100
"""Levels of JSON within JSON; what is read by recursion must end long before Python's own limit."""
NAME_BYTES = 150
"""Of a file's name without what is added to it; file systems take 255."""


def content(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: there is none, it is a folder, a pipe or a device, it holds more than `most` bytes, or its name cannot
            be one. Opening never waits.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # NUL, or half a surrogate pair
        raise FileNotFoundError(f"no file can have this name ({error})") from None
    try:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("a folder, a pipe or a device is no file to read")
        if status.st_size > most:
            raise OSError(f"{status.st_size:,} bytes are more than the {most:,} that are read")
        with os.fdopen(os.dup(opened), "rb") as file:
            return file.read()
    finally:
        os.close(opened)


def text(path: Path, most: int = LARGEST, encoding: str = "utf-8-sig") -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark, its lines ended by `\n`.

    Raises:
        OSError: as `content`.
        ValueError: it is not UTF-8.
    """
    return decoded(content(path, most), encoding).replace("\r\n", "\n").replace("\r", "\n")


def decoded(raw: bytes, encoding: str | None = None) -> str:
    """Bytes as text; where no encoding is given UTF-8 with or without a byte order mark, or UTF-16 with one, as
    spreadsheets write tables.

    Raises:
        ValueError: they are none in this encoding; says where, and what to do.
    """
    if encoding is None:
        encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        what = encoding.removesuffix("-sig").upper()
        raise ValueError(f"it is no {what} text ({error.reason} at byte {error.start:,}); save it as UTF-8") from None


def place(name: str) -> Path:
    """A path as it was given, `~` expanded where there is such a user, as a shell does."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_file(path: Path) -> bool:
    """Whether there is a file, or a link to one; False also for what cannot be a name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, NUL
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one; False also for what cannot be a name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def parsed(source: str | bytes, *, once: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        once: Refuse a key that a mapping holds twice, of which one would be lost: for what people write.

    Raises:
        ValueError: it is none, or is nested more than `DEPTH` deep.
    """
    try:
        value: object = json.loads(source, object_pairs_hook=_each_once if once else None)
    except RecursionError:
        raise ValueError(f"lists and mappings stand more than {DEPTH} deep within each other") from None
    plain = source if isinstance(source, str) else source.decode("utf-8", "replace")
    if plain.count("[") + plain.count("{") > DEPTH and _deeper(value, DEPTH):
        raise ValueError(f"lists and mappings stand more than {DEPTH} deep within each other")
    return value


def value_in(path: Path, most: int = LARGEST) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: as `content`.
        ValueError: as `parsed` with `once`, or it is not UTF-8.
    """
    return parsed(text(path, most), once=True)


def writable(value: Any) -> Any:
    """A value whose texts can be written down: half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a
    replacement character."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [writable(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {writable(key): writable(item) for key, item in cast(dict[Any, Any], value).items()}
    return value


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice in one mapping; keep one of them")
    return found


def _deeper(value: object, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [item for each in level for item in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: object) -> list[object]:
    """The lists and mappings directly inside one."""
    if isinstance(value, dict):
        found = list(cast(dict[str, object], value).values())
    else:
        found = cast(list[object], value) if isinstance(value, list) else []
    return [item for item in found if isinstance(item, dict | list)]


def cache() -> Path:
    """The user's folder for what can be made again: `MMPU_CACHE`, else `mmpu` in `XDG_CACHE_HOME` or `~/.cache`."""
    around = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("MMPU_CACHE") or Path(around) / "mmpu").expanduser()


def file_name(name: str) -> str:
    """A file's name for a name: never a path, never hidden, not too long. Names that would fall together get a hash
    each."""
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
    if plain.startswith(".") or not plain:
        plain = f"-{plain.lstrip('.')}"
    while len(plain.encode()) > NAME_BYTES:
        plain = plain[:-1]
    return plain if plain == name else f"{plain}-{digest(name)[:6]}"
