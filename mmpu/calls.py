"""Tool calls in texts: one form of our own, which every chat template can be given, and the forms that families write.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Rome"}}
    </tool_call>

is ours, as of Hermes and Qwen. An answer that calls tools is kept in it, whatever model it is for: a student's template
writes it in its own form (`student/turns.py`), and what a model wrote in its family's form is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

_OURS = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_TAIL = re.compile(r"(?:\s*<tool_call>\s*\{.*?\}\s*</tool_call>)+\s*\Z", re.DOTALL)
_XML = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_LISTED = re.compile(r"\[TOOL_CALLS\]\s*(?=\[)|<\|tool_calls?\|>\s*(?=\[)")
_NAMED = re.compile(r"\[TOOL_CALLS\]([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?(?=\{)")
_HEAD = re.compile(r"\s*(?:<\|python_tag\|>)?\s*(?=\{)")
UNREADABLE = object()
"""Arguments that are no JSON."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that is called."""

    name: str
    arguments: object
    """A JSON value, or `UNREADABLE`."""


def written(calls: Sequence[Call]) -> str:
    """Calls in our form."""
    blocks = [json.dumps({"name": c.name, "arguments": c.arguments}, ensure_ascii=False) for c in calls]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def parted(text: str) -> tuple[str, tuple[Call, ...]]:
    """The words of an answer, and the calls in our form that it ends with; none where they cannot be read."""
    tail = _TAIL.search(text)
    calls = [] if tail is None else [_call(block) for block in _OURS.findall(tail[0])]
    if tail is None or any(call.arguments is UNREADABLE for call in calls):
        return text, ()
    return text[: tail.start()].rstrip("\n"), tuple(calls)


def read(text: str) -> list[Call]:
    """The calls of an answer in any form that is known, in order: Hermes' and Qwen's `<tool_call>`, Qwen3-Coder's
    `<function=…>`, Mistral's `[TOOL_CALLS]`, and LLaMA's bare `{"name": …, "parameters": …}`."""
    if found := _OURS.findall(text):
        return [_call(block) for block in found]
    if "<tool_call>" in text and not _XML.search(text):
        return [Call("", UNREADABLE)]
    if found := _XML.findall(text):
        return [Call(name.strip(), _parameters(body)) for name, body in found]
    if found := _NAMED.finditer(text):
        named = [Call(match[1], _value(text[match.end() :])) for match in found]
        if named:
            return named
    if listed := _LISTED.search(text):
        items = _value(text[listed.end() :])
        return [_of(item) for item in cast(list[Any], items)] if isinstance(items, list) else [Call("", UNREADABLE)]
    if bare := _HEAD.match(text):
        pieces = [_value(piece) for piece in re.split(r"\s*;\s*(?=\{)", text[bare.end() :].strip())]
        told = all(isinstance(piece, dict) and ("parameters" in piece or "arguments" in piece) for piece in pieces)
        return [_of(piece) for piece in pieces] if told else []
    return []


def _call(block: str) -> Call:
    try:
        return _of(json.loads(block))
    except (ValueError, RecursionError):
        return Call("", UNREADABLE)


def _of(found: object) -> Call:
    """A call as OpenAI, Hermes and LLaMA write one: `arguments`, which may be JSON in a text, or `parameters`."""
    values = cast(Mapping[str, Any], found) if isinstance(found, Mapping) else {}
    values = cast(Mapping[str, Any], values.get("function")) if isinstance(values.get("function"), Mapping) else values
    name = values.get("name")
    if not isinstance(name, str):
        return Call("", UNREADABLE)
    arguments = values["arguments"] if "arguments" in values else values.get("parameters", {})
    return Call(name, arguments_of(arguments))


def arguments_of(written: object) -> object:
    """Arguments, which OpenAI writes as JSON in a text; of nothing, no arguments."""
    if written is None or written == "":
        return {}
    return _whole(written) if isinstance(written, str) else written


def of_openai(found: object) -> Call:
    """A call as it stands in a message.

    Raises:
        ValueError: it has no name, or arguments that are no JSON.
    """
    call = _of(found)
    if not call.name or call.arguments is UNREADABLE:
        raise ValueError(f"{str(found)[:80]} is no tool call: {{function: {{name, arguments}}}}, arguments in JSON")
    return call


def _whole(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return UNREADABLE


def _value(text: str) -> object:
    """The JSON value that a text begins with."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return UNREADABLE


def _parameters(body: str) -> dict[str, object]:
    """Of Qwen3-Coder's form; a parameter that is no JSON is a text."""
    found = {name.strip(): (text, _whole(text)) for name, text in _PARAMETER.findall(body)}
    return {name: text if value is UNREADABLE else value for name, (text, value) in found.items()}
