"""Splits by percentage: `splits: {train: 90%, test: 10%}`. A row belongs where a hash of what it is puts it.

So a row stays in its split whatever is added to the file, removed or reordered, and what derives from one `origin` is
never torn apart. Sizes are those of the shares on average, not to the row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mmpu.core import Sample, UserError

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def spelled_out(splits: object) -> object:
    """`90%` in the place of a split's keys is short for `{share: 90%}`."""
    if not isinstance(splits, Mapping):
        return splits
    named = cast(Mapping[str, object], splits)
    return {name: {"share": split} if isinstance(split, str) else split for name, split in named.items()}


def bounds(shares: Mapping[str, str | None], where: str) -> dict[str, tuple[float, float]]:
    """The part of 0..1 that each split takes, in order.

    Args:
        shares: Of the splits of one source, by name; None for a split that takes no share.

    Raises:
        UserError: not a percentage, or more than all together.
    """
    found: dict[str, tuple[float, float]] = {}
    taken = 0.0
    for name, share in shares.items():
        if share is None:
            continue
        match = _PERCENT.fullmatch(share.strip())
        if not match or not float(match[1]):
            raise UserError(f"{where}: the share of the split {name!r} is {share!r}; write it like 90%")
        start, taken = taken, taken + float(match[1]) / 100
        found[name] = (start, taken)
    if taken > 1 + 1e-9:
        raise UserError(f"{where}: the shares of its splits are {100 * taken:g}% together; they can be 100% at most")
    return found


def point(key: str) -> float:
    """Where a key falls in 0..1: the same everywhere and always."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]) / (1 << 56)


def key_of(sample: Sample, folder: Path, *, has_id: bool) -> str:
    """What a sample is put into a split by: its origin, its id where the task gives one, or else what it asks.

    Args:
        folder: Of the pictures, whose place on this machine does not count.
    """
    if "origin" in sample.meta:
        return plain(str(sample.meta["origin"]))
    if has_id:
        return sample.id
    parts = [part for message in sample.prompt for part in message.parts]
    return "\n".join(plain(p.data) if p.kind == "text" else p.data.removeprefix(str(folder)) for p in parts)


def plain(text: str) -> str:
    """A text without case and white space. Signs stay: cos(150) and cos(-150) are two problems."""
    return "".join(text.casefold().split())
