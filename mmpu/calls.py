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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

# What a pattern takes grows with the text alone: a run of blanks belongs to one place that it may follow, and what may
# be long is found by its end, not by trying all of them.
_OPEN = re.compile(r"<tool_call>\s*(?=\{)")
_CLOSE = re.compile(r"\}\s*</tool_call>")
_LISTED = re.compile(r"\[TOOL_CALLS\]\s*(?=\[)|<\|tool_calls?\|>\s*(?=\[)")
_NAMED = re.compile(r"\[TOOL_CALLS\]([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?(?=\{)")
_NEXT = re.compile(r";\s*(?=\{)")
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
    end, calls = len(text.rstrip()), list[Call]()
    for start, stop, block in reversed(list(_blocks(text))):
        if stop != end:
            break
        calls.insert(0, _call(block))
        end = len(text[:start].rstrip()) if text[start - 1 : start].isspace() else start
    if not calls or any(call.arguments is UNREADABLE for call in calls):
        return text, ()
    return text[:end].rstrip("\n"), tuple(calls)


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Where calls in our form begin and end, and the JSON of each."""
    at = 0
    while opened := _OPEN.search(text, at):
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            return
        yield opened.start(), closed.end(), text[opened.end() : closed.start() + 1]
        at = closed.end()


def read(text: str) -> list[Call]:
    """The calls of an answer in any form that is known, in order: Hermes' and Qwen's `<tool_call>`, Qwen3-Coder's
    `<function=…>`, Mistral's `[TOOL_CALLS]`, and LLaMA's bare `{"name": …, "parameters": …}`."""
    if ours := [_call(block) for _, _, block in _blocks(text)]:
        return ours
    if tagged := [Call(name.strip(), _parameters(body)) for name, body in _tagged(text, "function")]:
        return tagged
    if "<tool_call>" in text:
        return [Call("", UNREADABLE)]
    if named := list(_named(text)):
        return named
    if listed := _LISTED.search(text):
        items = _value(text, listed.end())[0]
        return [_of(item) for item in cast(list[Any], items)] if isinstance(items, list) else [Call("", UNREADABLE)]
    return _bare(text.strip().removeprefix("<|python_tag|>").lstrip())


def _named(text: str) -> Iterator[Call]:
    """Calls as Mistral writes them, up to the first that cannot be read."""
    for match in _NAMED.finditer(text):
        value, _ = _value(text, match.end())
        yield Call(match[1], value)
        if value is UNREADABLE:
            return


def _bare(text: str) -> list[Call]:
    """Calls as LLaMA writes them, one behind another; none where something else stands there."""
    found: list[Call] = []
    at: int | None = 0 if text.startswith("{") else None
    while at is not None:
        value, end = _value(text, at)
        if not isinstance(value, dict) or not {"parameters", "arguments"} & set(cast(dict[str, Any], value)):
            return []
        found.append(_of(cast(object, value)))
        further = _NEXT.search(text, end)
        at = further.end() if further else None
    return found


def _tagged(text: str, tag: str) -> Iterator[tuple[str, str]]:
    """Names and insides of `<tag=name>…</tag>`."""
    opening, closing, at = re.compile(rf"<{tag}=([^<>\n]{{1,200}})>"), f"</{tag}>", 0
    while opened := opening.search(text, at):
        end = text.find(closing, opened.end())
        if end < 0:
            return
        yield opened[1], text[opened.end() : end]
        at = end + len(closing)


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


def _value(text: str, at: int) -> tuple[object, int]:
    """The JSON value that begins at a place of a text, and where it ends."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return UNREADABLE, at


def _parameters(body: str) -> dict[str, object]:
    """Of Qwen3-Coder's form; a parameter that is no JSON is a text."""
    texts = {name.strip(): text.removeprefix("\n").removesuffix("\n") for name, text in _tagged(body, "parameter")}
    return {name: text if (value := _whole(text)) is UNREADABLE else value for name, text in texts.items()}
