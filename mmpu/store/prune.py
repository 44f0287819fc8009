"""What a store of answers takes, as a table, and the pruning of it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from mmpu.core import UserError
from mmpu.plugins import suggest
from mmpu.store.store import Store

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def prune_and_show(path: Path, model: str | None, older_than: str | None, keep: str | None, everything: bool) -> str:
    """Deletes what is asked for, and describes what the store then holds.

    Raises:
        UserError: there is no store, no such model in it, or an age or size cannot be read.
    """
    before = time.time() - age(older_than) if older_than else None
    most = 0 if everything else size(keep) if keep else None
    if not path.is_file():
        raise UserError(f"no store at {path}; it stands beside the runs' folders, or where `store:` says")
    store = Store(path)
    models = [holding.model for holding in store.holdings()]
    if model is not None and model not in models:
        raise UserError(f"{path} holds nothing of {model!r}; {suggest(model, models)}")
    lines: list[str] = []
    if before is not None or most is not None:
        lines.append(f"deleted {store.prune(before=before, most_bytes=most, model=model):,} answers")
    shown = [h for h in store.holdings() if model in (None, h.model)]
    width = max([len("model"), *(len(h.model) for h in shown)])
    lines.append(f"{'model':<{width}}  {'answers':>9}  {'size':>9}  oldest      newest")
    lines += [
        f"{h.model:<{width}}  {h.answers:>9,}  {readable(h.bytes):>9}  {_day(h.oldest)}  {_day(h.newest)}"
        for h in shown
    ]
    lines.append(f"{path}: {readable(store.bytes)} on disk")
    return "\n".join(lines)


def age(text: str) -> float:
    """Seconds of `12h`, `30d`, `8w`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if not match:
        raise UserError(f"cannot read the age {text!r}; write 12h, 30d or 8w")
    return float(match[1]) * SECONDS[match[2]]


def size(text: str) -> int:
    """Bytes of `500MB`, `2GB`; a K is 1,024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UserError(f"cannot read the size {text!r}; write 500MB or 2GB")
    return int(float(match[1]) * BYTES[match[2].upper()])


def readable(count: int) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
