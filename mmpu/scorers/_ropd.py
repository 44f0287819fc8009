"""ROPD's two JSON formats: a rubric, and verdicts on it. Both published families are read into one type.

What a model declares about sums, counts and scores is ignored; everything is computed from the booleans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from mmpu import files
from mmpu.thinking import answer_of

LEAST, MOST = 4, 12
"""Items of a rubric."""
_FENCE = re.compile(r"\A```[a-z]*\s*\n(.*)\n```\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """One yes-or-no criterion."""

    id: str
    category: str
    text: str
    weight: int


def parse_rubric(reply: str) -> tuple[Item, ...]:
    """A rubric of `black_opd.rubric.v1` (weight) or `ropd.rubric.v1` (points).

    Raises:
        ValueError: it is not one, with what is wrong.
    """
    entries = _list(_field(_mapping(_load(reply)), "rubrics", "items"))
    if not LEAST <= len(entries) <= MOST:
        raise ValueError(f"a rubric has {LEAST} to {MOST} items, got {len(entries)}")
    items = tuple(_item(_mapping(entry)) for entry in entries)
    if len({item.id for item in items}) < len(items):
        raise ValueError("two items have the same id")
    return items


def parse_verdicts(reply: str, items: int, answers: int) -> list[tuple[bool, ...]]:
    """One tuple of booleans per answer, from `ropd.batch_verifier.v2` or, for one answer, `black_opd.verifier.v1`.

    Raises:
        ValueError: it is not that, with what is wrong.
    """
    values = _mapping(_load(reply))
    if "answers" not in values and answers == 1:
        return [_booleans(_field(values, "judgements", "judgement"), items)]
    entries = [_mapping(entry) for entry in _list(_field(values, "answers"))]
    indices = [entry.get("answer_index") for entry in entries]
    if indices != list(range(1, answers + 1)) or any(isinstance(index, bool) for index in indices):
        raise ValueError(f"answer_index must run from 1 to {answers}, in order")
    return [_booleans(_field(entry, "judgement", "judgements"), items) for entry in entries]


def reward(items: Sequence[Item], verdicts: Sequence[bool]) -> float:
    """Σ w v / Σ w."""
    return sum(i.weight for i, v in zip(items, verdicts, strict=True) if v) / sum(i.weight for i in items)


def _load(reply: str) -> object:
    """The JSON of a reply without its thinking, out of its fence."""
    text = answer_of(reply).strip()
    fenced = _FENCE.match(text)
    try:
        return files.parsed(fenced[1] if fenced else text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _item(entry: dict[str, Any]) -> Item:
    weight = _field(entry, "weight", "points")
    name = str(_field(entry, "criterion_id", "id")).casefold()
    text = _field(entry, "criterion", "text")
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 5:
        raise ValueError(f"item {name!r}: a weight is a whole number from 1 to 5, got {weight!r}")
    if not re.fullmatch(r"c\d+", name):
        raise ValueError(f"an id is c and digits, got {name!r}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"item {name!r} has no text")
    return Item(name, str(entry.get("category", "")), text.strip(), weight)


def _booleans(value: object, items: int) -> tuple[bool, ...]:
    found = [cast(dict[str, object], v).get("judgement") if isinstance(v, dict) else v for v in _list(value)]
    if len(found) != items or not all(isinstance(v, bool) for v in found):
        raise ValueError(f"a judgement is {items} JSON booleans, got {found!r}")
    return tuple(cast(list[bool], found))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return cast(dict[str, Any], value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    return cast(list[object], value)


def _field(values: dict[str, Any], *names: str) -> object:
    for name in names:
        if name in values:
            return values[name]
    raise ValueError(f"no {' or '.join(repr(n) for n in names)}")
