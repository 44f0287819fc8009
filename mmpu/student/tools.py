"""What chat templates read of turns besides role and content: the tools that a prompt offers, and calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mmpu.calls import Call
from mmpu.core import Message

Inert = Callable[[str], str]
"""Breaks up the special tokens that a text merely quotes."""


def further(message: Message, inert: Inert) -> dict[str, Any]:
    """The keys of a turn besides role and content."""
    found: dict[str, Any] = json.loads(inert(message.more)) if message.more else {}
    return {key: value for key, value in found.items() if key != "tools"}


def offered(messages: Sequence[Message], inert: Inert) -> list[Any]:
    """The tools that a prompt offers, for a template's `tools`."""
    return [tool for m in messages if m.more for tool in json.loads(inert(m.more)).get("tools", ())]


def called(calls: Sequence[Call]) -> dict[str, Any]:
    """Calls as a turn of the assistant's has them; nothing where there are none, since templates ask for the key."""
    made = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    return {"tool_calls": made} if made else {}


def named(message: Message, inert: Inert) -> list[str]:
    """The names of the tools that a turn offers or calls."""
    tools = [*offered([message], inert), *further(message, inert).get("tool_calls", ())]
    return [str(tool.get("function", tool).get("name", "")) for tool in tools]
