"""A prompt and what follows it, two texts or two lists of turns."""

from __future__ import annotations

from mmpu.chats import Chat, Format, Role, Row, chat, said, turns_of
from mmpu.core import Message

NAMES = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("instruction", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
"""What data sets call the two."""


class PromptCompletion(Format):
    """`prompt` and `completion`, texts or turns; also `question` and `answer`, and what else data sets call the two."""

    columns = ("prompt", "completion")

    def recognised(self, row: Row) -> str | None:
        found = _names(row)
        return f"it has `{found[0]}` and `{found[1]}`" if found else None

    def chat(self, row: Row) -> Chat:
        asked, answered = _names(row) or self.columns
        system = [said("system", row["system"], "system")] if row.get("system") else []
        return chat([*system, *turns("user", row, asked), *turns("assistant", row, answered)], row)


def _names(row: Row) -> tuple[str, str] | None:
    return next((names for names in NAMES if all(name in row for name in names)), None)


def turns(role: Role, row: Row, column: str) -> list[Message]:
    """A column that holds a text of one turn, or a list of turns."""
    found = row[column]
    if isinstance(found, list):
        return turns_of(found, f"`{column}`")
    return [said(role, found, column)]
