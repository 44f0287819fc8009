"""Packed rows unpacked within bounds: a few kilobytes can hold gigabytes of nothing."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path

LARGEST = 2 * 2**30
"""Bytes that a source may unpack to."""
SURELY = 64 * 2**20
"""Bytes that it may unpack to however small it is."""
DENSEST = 200
"""Beyond that, bytes that one byte may unpack to; rows of text become ten times as long, or twenty."""
BROKEN = (OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""What a damaged, encrypted or unusual archive raises."""


def member(archive: Path, name: str) -> bytes:
    """A file inside a zip file.

    Raises:
        KeyError: it is not there.
    """
    with zipfile.ZipFile(archive) as opened:
        check_size(size := opened.getinfo(name).file_size, opened.getinfo(name).compress_size)
        with opened.open(name) as packed:
            return packed.read(size)


def unzipped(raw: bytes) -> bytes:
    """What a gzip file holds."""
    found = bytearray()
    with gzip.open(io.BytesIO(raw)) as packed:
        while piece := packed.read(2**20):
            found += piece
            check_size(len(found), len(raw))
    return bytes(found)


def check_size(unpacked: int, packed: int) -> None:
    """Raises:
    OSError: more than is read, or so much from so little that it can be no text.
    """
    if unpacked > LARGEST or (unpacked > SURELY and unpacked > DENSEST * packed):
        raise OSError(
            f"it unpacks to {unpacked:,} bytes or more from {packed:,}; unpack it and look, then name the file itself"
        )
