"""One page for boards: a file that opens from disk, asks nobody for anything, and shows the answers behind the numbers.

The page's form, style and script are the files in `page/`, put in line as they are; a plug-in adds a column or a panel
by a file `page/<name>.js` of its own. Numbers stand in the page as JSON, samples as gzipped JSON in base64. The content
security policy names the scripts and the style by their hashes and forbids every request, so nothing that an answer
holds can run or be fetched, whatever a browser makes of it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmpu import __version__, plugins
from mmpu.boards.board import Board
from mmpu.boards.every_eval_ever import records
from mmpu.boards.tables import markdown
from mmpu.core import UserError

FOLDER = Path(__file__).parent / "page"
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
                "board": asdict(s.board),
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
    packed = base64.b64encode(gzip.compress(_json(samples).encode(), mtime=0)).decode()
    title = ", ".join(f"{s.board.task} · {s.board.judge}" for s in shown)
    return {f"{name}.html": _filled(title, _json(numbers), packed, bool(files)), **files}


def _filled(title: str, numbers: str, packed: str, beside: bool) -> str:
    scripts = [_read(FOLDER / f"{name}.js") for name in SCRIPTS[:-1]]
    scripts += [_read(path) for path in _plugged()]
    scripts.append(_read(FOLDER / f"{SCRIPTS[-1]}.js"))
    script = "\n".join(scripts)
    style = _read(FOLDER / "page.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}" + (" 'self' file:" if beside else ""),
            f"style-src {_hash(style)}",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    values = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(title),
        "STYLE": style,
        "NUMBERS": numbers,
        "SAMPLES": packed,
        "SCRIPT": script,
    }
    form = _read(FOLDER / "page.html")
    first, *pieces = form.split("{{")
    filled = [first]
    for piece in pieces:
        key, _, rest = piece.partition("}}")
        filled += [values[key], rest]
    return "".join(filled)


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
    return f"mmpu.pictures({at}, {_json(list(piece))});\n"


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _json(values: object) -> str:
    """JSON that can stand in a script element: nothing in it ends one, or begins a comment."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
