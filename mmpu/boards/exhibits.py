"""What a page shows of the prompts: `samples.jsonl` beside an evaluation's answers, pictures as thumbnails.

A board holds numbers and an evaluation's answers hold texts; without the prompts nobody can look at either. A task
whose licence forbids it says `redistribute: false`, and nothing is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmpu import files
from mmpu.core import Sample, UserError, digest
from mmpu.media import prompt_key, thumbnail
from mmpu.store import write_atomically

FILE = "samples.jsonl"
GONE = "a picture that could not be read when the samples were kept"


def keep(samples: Sequence[Sample], folder: Path) -> None:
    """Writes the samples' prompts, references and short answers to `folder/samples.jsonl`; thumbnails that are there
    are not made again.

    Raises:
        UserError: the file cannot be written.
    """
    path = folder / FILE
    known = {row["key"]: row for row in _rows(path)} if path.exists() else {}
    rows = [_row(sample, known) for sample in samples]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """The samples of an evaluation by id, as `keep` wrote them.

    Raises:
        UserError: they are not there, or damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"{path} is not there; run `mmpu eval` again, nothing is paid for twice")
    return {row["id"]: row for row in _rows(path)}


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    try:
        rows = [files.parsed(line) for line in files.text(path).split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the samples {path}: {error}; delete it and run `mmpu eval` again") from None
    for number, row in enumerate(rows, 1):
        if not _is_sample(row):
            raise UserError(f"{path}, line {number} is no sample; delete the file and run `mmpu eval` again")
    return rows


def _is_sample(row: Any) -> bool:
    """Whether a row is one that `keep` wrote."""
    if not isinstance(row, dict):
        return False
    found = cast(dict[str, Any], row)
    texts = (found.get("id"), found.get("key"), found.get("reference") or "", found.get("answer") or "")
    turns = found.get("prompt")
    return all(isinstance(text, str) for text in texts) and isinstance(turns, list) and all(map(_is_turn, turns))


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("parts"), list):
        return False
    parts = cast(list[Any], turn["parts"])
    return all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in parts)


def _row(sample: Sample, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    key = digest([sample.id, prompt_key(sample.prompt)])
    prompt = known[key]["prompt"] if key in known else [_turn(m.role, m.parts) for m in sample.prompt]
    return {"id": sample.id, "key": key, "prompt": prompt, "reference": sample.reference, "answer": sample.answer}


def _turn(role: str, parts: Iterable[Any]) -> dict[str, Any]:
    return {"role": role, "parts": [_part(part.kind, part.data) for part in parts]}


def _part(kind: str, data: str) -> dict[str, str]:
    if kind != "image":
        return {"text": data}
    try:
        return {"image": thumbnail(data)}
    except UserError:
        return {"missing": GONE}
