"""Tool calls: those of a text against the gold calls.

    Thought: …
    Action: getFacts
    Action Input: {"limit": 3}

is ToolAlpaca's text form; a text without an action is read in the form of its model's family (`calls.py`). The answer
is JSON: a list of `{"Action": name, "Action_Input": JSON text}` or of OpenAI's calls. Strict: the same sequence of
names, each with equal arguments; arguments are read by a JSON decoder, and a malformed call is wrong. With `compat:
true` the rule of the published numbers (SDFT, SDPO), defects included: names match `\\w+` and are compared as
multisets, arguments end at the first `}`, are merged over all calls, and dropped where they are not JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from mmpu import files
from mmpu.calls import UNREADABLE, of_openai, read
from mmpu.core import Grader, Sample

_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_INPUT = re.compile(r"\s*Action[ _]Input:\s*")
_FENCE = re.compile(r"```(?:json)?\s*")
_COMPAT_ACTION = re.compile(r"Action:\s*(\w+)")
_COMPAT_INPUT = re.compile(r"Action Input:\s*(\{[^}]*\})")
_MALFORMED = object()

Call = tuple[str, object]


@dataclass(frozen=True)
class ToolCalls(Grader):
    compat: bool = False
    """Score as published, for comparison with published numbers."""

    def grade(self, sample: Sample, text: str) -> float | None:
        gold = _gold(sample)
        if gold is None:
            return None
        if self.compat:
            names, arguments = _published(text)
            return float(names == Counter(n for n, _ in gold) and arguments == _merged(a for _, a in gold))
        calls = _calls(text)
        right = len(calls) == len(gold) and all(
            name == wanted and _same(arguments, expected)
            for (name, arguments), (wanted, expected) in zip(calls, gold, strict=True)
        )
        return float(right)

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        gold = _gold(sample)
        if gold is None:
            return None
        text = "\n".join(f"Action: {name}\nAction Input: {json.dumps(arguments)}" for name, arguments in gold)
        return text, self.grade(sample, text) or 0.0  # 0 where the published rule cannot read a gold answer

    def key(self, sample: Sample, text: str) -> str | None:
        calls = _calls(text)
        if not calls or any(arguments is _MALFORMED for _, arguments in calls):
            return None
        return json.dumps(calls, sort_keys=True)


def _gold(sample: Sample) -> list[Call] | None:
    """The gold calls; None if there are none, or they are not JSON, as a few published ones are."""
    try:
        calls = cast(list[dict[str, Any]], files.parsed(sample.answer or ""))
        if calls and "Action" not in calls[0]:
            return [(call.name, call.arguments) for call in map(of_openai, calls)]
        return [(str(c["Action"]), files.parsed(c["Action_Input"] or "{}")) for c in calls]
    except (ValueError, TypeError, KeyError):
        return None


def _calls(text: str) -> list[Call]:
    """The calls of a text in order; arguments that cannot be read are `_MALFORMED`."""
    calls: list[Call] = []
    found = list(_ACTION.finditer(text))
    for match, following in zip_longest(found, found[1:]):
        end = following.start() if following else len(text)
        start = _INPUT.match(text, match.end(), end)
        calls.append((match[1].strip("`*\"'"), _arguments(text[start.end() : end]) if start else _MALFORMED))
    if calls:
        return calls
    return [(call.name, _MALFORMED if call.arguments is UNREADABLE else call.arguments) for call in read(text)]


def _arguments(text: str) -> object:
    fence = _FENCE.match(text)
    try:
        value, end = json.JSONDecoder().raw_decode(text, fence.end() if fence else 0)
    except (ValueError, RecursionError):
        return _MALFORMED
    rest = text[end:].lstrip().removeprefix("```").lstrip()
    # What follows may be an observation or the next thought, but not more of the arguments.
    return _MALFORMED if rest[:1] in ("}", "]", ",", ":", '"', "{", "[") else value


def _same(a: object, b: object) -> bool:
    """Equality of JSON values, where `true` is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = cast(dict[str, object], a), cast(dict[str, object], b)
        return left.keys() == right.keys() and all(_same(v, right[k]) for k, v in left.items())
    if isinstance(a, list) and isinstance(b, list):
        these, those = cast(list[object], a), cast(list[object], b)
        return len(these) == len(those) and all(map(_same, these, those))
    return a == b


def _published(text: str) -> tuple[Counter[str], dict[str, object]]:
    values: list[object] = []
    # Without what follows the last brace every search ends at one; else unclosed ones cost the square of the length.
    for found in _COMPAT_INPUT.findall(text[: text.rfind("}") + 1]):
        try:
            values.append(files.parsed(found))
        except ValueError:
            continue  # the published rule drops it: a malformed call then equals one without arguments
    return Counter(_COMPAT_ACTION.findall(text)), _merged(values)


def _merged(arguments: Any) -> dict[str, object]:
    merged: dict[str, object] = {}
    for value in arguments:
        if isinstance(value, dict):
            merged.update(cast(dict[str, object], value))
    return merged
