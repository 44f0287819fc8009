"""Files that a config names, found beside the config or from the shell's folder: the nearer one is meant.

What stands in a config is looked for beside it first, what is said at the prompt from the shell's folder first; the
other place comes second. Names of tasks, models and data sets stay what they are. Folders that are written to (`run`,
`store`) are the shell's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from mmpu.config import Values

KEYS = frozenset(("path", "model", "data"))
"""Keys that may name a file or a folder, wherever they stand."""
FIRST = {"task": "name", "student": "model"}
"""Keys of a config that may name one, or hold a mapping in which one does."""
SUFFIXED = ("task", "name")
"""Keys whose files have a suffix: a folder of a task's name is no task."""


def found(values: Values, folder: Path, *, beside_first: bool) -> Values:
    """The values with paths that lead somewhere.

    Args:
        folder: Where the config lies.
        beside_first: Whether a file beside the config goes before one in the shell's folder.
    """
    settled = dict(values)
    for key, inner in FIRST.items():
        value = settled.get(key)
        if isinstance(value, str):
            settled[key] = _place(key, value, folder, beside_first)
        elif isinstance(value, Mapping) and isinstance(name := cast(Values, value).get(inner), str):
            settled[key] = {**value, inner: _place(inner, name, folder, beside_first)}
    return cast(Values, _inside(settled, folder, beside_first))


def _inside(value: object, folder: Path, beside_first: bool) -> object:
    if isinstance(value, Mapping):
        return {
            key: _place(key, item, folder, beside_first)
            if key in KEYS and isinstance(item, str)
            else _inside(item, folder, beside_first)
            for key, item in cast(Mapping[str, object], value).items()
        }
    if isinstance(value, list):
        return [_inside(item, folder, beside_first) for item in cast(Sequence[object], value)]
    return value


def _place(key: str, name: str, folder: Path, beside_first: bool) -> str:
    """The name as it was written where it leads from the shell's folder, else the whole path."""
    path = Path(name).expanduser()
    if not name or path.is_absolute() or "://" in name:
        return name
    here, beside = _there(key, path), _there(key, folder / path)
    if not beside or (here and (not beside_first or path.samefile(folder / path))):
        return name
    return str((folder / path).resolve())


def _there(key: str, path: Path) -> bool:
    try:
        return path.is_file() if key in SUFFIXED else path.exists()
    except OSError:  # a name that is too long for one, such as a text
        return False
