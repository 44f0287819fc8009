"""Rows as Python has them, in the files that tasks read: lists of mappings, `datasets.Dataset`, `pandas.DataFrame`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmpu.core import UserError, digest
from mmpu.store import write_atomically

Rows = Any
"""A sequence of mappings, a `datasets.Dataset` or a `pandas.DataFrame`."""


def listed(rows: Rows) -> list[Mapping[str, object]]:
    """Raises:
    UserError: these are no rows.
    """
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        return cast(list[Mapping[str, object]], rows.to_dict("records"))
    found = list(cast(Iterable[object], rows)) if isinstance(rows, Iterable) else [rows]
    for number, row in enumerate(found, 1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"row {number} is {type(row).__name__}, no mapping; give a list of mappings, a datasets.Dataset or a "
                "DataFrame"
            )
    if not found:
        raise UserError("there are no rows")
    return cast(list[Mapping[str, object]], found)


def write(rows: Sequence[Mapping[str, object]], folder: Path, name: str) -> str:
    """Writes rows as `folder/<name>.jsonl`, pictures as files beside it.

    Returns:
        A digest of what was written.
    """
    lines = [json.dumps({str(k): _plain(v, folder) for k, v in row.items()}, ensure_ascii=False) for row in rows]
    write_atomically(folder / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    return digest(lines)


def _plain(value: object, folder: Path) -> object:
    """A cell as JSON has it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, folder) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item, folder) for item in cast(Sequence[object], value)]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode(), "path": None}
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "tobytes") and hasattr(value, "save"):
        return _picture(value, folder)
    if hasattr(value, "tolist"):  # of numpy
        return cast(Any, value).tolist()
    return str(value)


def _picture(value: Any, folder: Path) -> str:
    """A Pillow image as a PNG, named by its content."""
    name = f"pictures/{digest([value.mode, value.size, base64.b64encode(value.tobytes()).decode()])}.png"
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        value.convert("RGB" if value.mode not in ("RGB", "RGBA", "L") else value.mode).save(path)
    return name
