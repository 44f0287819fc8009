"""Small copies of the pictures that a run's prompts show, so that its page can show them too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from mmpu.core import UserError
from mmpu.train.rows import values

MOST = 1_000
"""Pictures that a run keeps; the names of those beyond are in its groups."""


class Pictures:
    """`pictures.jsonl`: rows of `name` and `image`, a data URI; each picture once.

    Args:
        thumbnail: Makes a small copy of a picture.
    """

    def __init__(self, path: Path, thumbnail: Callable[[str], str]) -> None:
        self.path = path
        self.thumbnail = thumbnail
        self._names: set[str] | None = None

    def keep(self, named: Iterable[tuple[str, str]]) -> None:
        """Keeps pictures that are not there yet, given by name; one that cannot be read is left out."""
        known, rows = self._known(), list[str]()
        for name, image in named:
            if name in known or len(known) >= MOST:
                continue
            known.add(name)
            try:
                rows.append(json.dumps({"name": name, "image": self.thumbnail(image)}))
            except UserError:  # what trains on it says so
                continue
        if rows:
            with self.path.open("a", encoding="utf-8") as file:  # a crash may have cut the line before
                file.write("".join(f"\n{row}" for row in rows))

    def _known(self) -> set[str]:
        if self._names is None:
            self._names = {name for name, _ in read(self.path)}
        return self._names


def read(path: Path) -> list[tuple[str, str]]:
    """Names and data URIs; a line that a crash cut short, or that is none, is left out."""
    found: list[tuple[str, str]] = []
    try:
        rows = values(path)
    except (OSError, ValueError):
        return []
    for row in rows:
        if isinstance(row, dict):
            name, image = row.get("name"), row.get("image")  # pyright: ignore
            if isinstance(name, str) and isinstance(image, str) and image.startswith("data:image/"):
                found.append((name, image))
    return found
