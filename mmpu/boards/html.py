"""The page of boards: their tables and plots, and the answers behind the numbers.

A plug-in adds a column or a panel by a file `page/<name>.js` of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpu import __version__, plugins
from mmpu.boards.board import Board
from mmpu.boards.document import FOLDER, document, spelled
from mmpu.boards.every_eval_ever import records
from mmpu.boards.tables import markdown
from mmpu.core import UserError

SCRIPTS = ("page", "state", "table", "plots", "audit", "diff", "samples", "provenance", "takeaway", "main")
"""In the order in which they run."""
PICTURES = 8 * 2**20
"""Characters of pictures that a page holds itself; those beyond stand in script files beside it."""
PIECE = 4 * 2**20
"""Characters of pictures in one of these files."""


@dataclass(frozen=True)
class Shown:
    """What a page shows of one board."""

    board: Board
    ranks: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict[str, Mapping[str, tuple[int, int]]])
    """By view (`view_of`) and system, the first and the last place that it may have."""
    strengths: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """By view and system, Bradley–Terry's chance to beat the average one."""
    matches: Sequence[Mapping[str, Any]] = ()
    """Of systems with the baseline: `view`, `system`, and `items`; see docs/pages.md."""
    silent: str = ""
    """Why there are no samples, where there are none."""


@dataclass(frozen=True)
class Texts:
    """Samples, answers and pictures of a page, each held once."""

    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    texts: list[str] = field(default_factory=list[str])
    pictures: list[str] = field(default_factory=list[str])
    _places: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def text(self, text: str) -> int:
        """The place of a text."""
        return self._place("text", text, self.texts)

    def picture(self, uri: str) -> int:
        """The place of a picture."""
        return self._place("picture", uri, self.pictures)

    def sample(self, row: Mapping[str, Any], where: str) -> int:
        """The place of a sample of `boards.kept`; `where` tells apart those of one id."""
        key = ("sample", f"{where}\n{row['id']}")
        if key not in self._places:
            self._places[key] = len(self.samples)
            prompt = [{"role": turn["role"], "parts": [self._part(p) for p in turn["parts"]]} for turn in row["prompt"]]
            known = {"id": row["id"], "reference": row.get("reference"), "answer": row.get("answer")}
            self.samples.append({**known, "prompt": prompt})
        return self._places[key]

    def _part(self, part: Mapping[str, str]) -> dict[str, Any]:
        return {"picture": self.picture(part["image"])} if "image" in part else dict(part)

    def _place(self, kind: str, value: str, values: list[str]) -> int:
        if (kind, value) not in self._places:
            self._places[kind, value] = len(values)
            values.append(value)
        return self._places[kind, value]


def view_of(split: str, baseline: str, judge_identity: str) -> str:
    """Which rows may be compared: one split, one baseline, one judge; spelled as JavaScript spells it."""
    return json.dumps([split, baseline, judge_identity], ensure_ascii=False, separators=(",", ":"))


def page(shown: Sequence[Shown], texts: Texts, name: str = "page") -> dict[str, str]:
    """The files of a page by name: `<name>.html`, and script files with pictures that it has no room for.

    Raises:
        UserError: there is no board, or two of the same task and judge.
    """
    if not shown:
        raise UserError("a page needs a board; name its JSON file")
    names = [(s.board.task, s.board.judge) for s in shown]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"two boards are of {twice[0]} under {twice[1]}; merge them, or make two pages")
    inside, beside = _split(texts.pictures)
    files = {f"{name}.pictures-{number}.js": _pictures(at, piece) for number, (at, piece) in enumerate(beside)}
    numbers = {
        "mmpu": __version__,
        "pictures": list(files),
        "boards": [
            {
                "board": _without_items(s.board),
                "ranks": s.ranks,
                "strengths": s.strengths,
                "silent": s.silent,
                "samples": sum(len(m["items"]) for m in s.matches),
                "markdown": markdown(s.board),
                "every_eval_ever": records(s.board),
            }
            for s in shown
        ],
    }
    samples = {
        "samples": texts.samples,
        "texts": texts.texts,
        "pictures": inside,
        "matches": [list(s.matches) for s in shown],
    }
    title = ", ".join(f"{s.board.task} · {s.board.judge}" for s in shown)
    own = [FOLDER / f"{name}.js" for name in SCRIPTS]
    scripts = [*own[:-1], *_plugged(), own[-1]]
    return {f"{name}.html": document(title, scripts, numbers, samples, bool(files)), **files}


def _without_items(board: Board) -> dict[str, Any]:
    """A page shows the win of a prompt with its answers."""
    return asdict(replace(board, entries=tuple(replace(e, items={}, resampled={}) for e in board.entries)))


def _plugged() -> list[Path]:
    """Scripts of plug-ins; mmpu's own folder holds none."""
    return [path for root in plugins.roots() for path in sorted((root.data / "page").glob("*.js"))]


def _split(pictures: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The pictures that fit the page, and the others in pieces, each with the place of its first."""
    room, inside = PICTURES, 0
    while inside < len(pictures) and len(pictures[inside]) <= room:
        room -= len(pictures[inside])
        inside += 1
    beside: list[tuple[int, list[str]]] = []
    full = PIECE
    for place in range(inside, len(pictures)):
        if full >= PIECE:
            beside.append((place, []))
            full = 0
        beside[-1][1].append(pictures[place])
        full += len(pictures[place])
    return list(pictures[:inside]), beside


def _pictures(at: int, piece: Sequence[str]) -> str:
    return f"mmpu.pictures({at}, {spelled(list(piece))});\n"
