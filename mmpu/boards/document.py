"""A page as one file that opens from disk and asks nobody for anything.

Form, style and script are files, put in line as they are. Numbers stand in the page as JSON, texts as gzipped JSON in
base64. The content security policy names the scripts and the style by their hashes and forbids every request, so
nothing that a text holds can run or be fetched, whatever a browser makes of it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
"""The form and style of every page, and what their scripts share."""


def document(title: str, scripts: Sequence[Path], numbers: object, texts: object, beside: bool = False) -> str:
    """The page as HTML.

    Args:
        scripts: In the order in which they run.
        numbers: What the page reads at once.
        texts: What it unpacks when it is asked for.
        beside: Whether script files beside the page may be loaded.
    """
    script = "\n".join(_read(path) for path in scripts)
    style = _read(FOLDER / "page.css")
    policy = (
        "default-src 'none'",
        f"script-src {_hash(script)}" + (" 'self' file:" if beside else ""),
        f"style-src {_hash(style)}",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    values = {
        "POLICY": html.escape("; ".join(policy)),
        "TITLE": html.escape(title),
        "STYLE": style,
        "NUMBERS": spelled(numbers),
        "SAMPLES": base64.b64encode(gzip.compress(spelled(texts).encode(), mtime=0)).decode(),
        "SCRIPT": script,
    }
    first, *pieces = _read(FOLDER / "page.html").split("{{")
    filled = [first]
    for piece in pieces:
        key, _, rest = piece.partition("}}")
        filled += [values[key], rest]
    return "".join(filled)


def spelled(values: object) -> str:
    """JSON that can stand in a script element: nothing in it ends one, or begins a comment."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
