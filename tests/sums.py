"""A small task of sums, from which tests of tasks make variants."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

from PIL import Image

ROWS: list[dict[str, Any]] = [{"n": i, "q": f"What is {i}+1?", "a": str(i + 1)} for i in range(10)]
SUMS: dict[str, Any] = {
    "about": "Sums.",
    "source": "rows.jsonl",
    "prompt": [{"user": "{{ q }}"}],
    "answer": "{{ a }}",
    "grader": "number",
    "splits": {"train": {"where": "n < 6"}, "test": {"where": "n >= 6"}},
}


def jsonl(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()
