"""Answers with a thumb up or down, as KTO takes them."""

from __future__ import annotations

from mmpu.chats import BadRow, Chat, Format, NotMeant, Row, chat
from mmpu.formats.prompt_completion import turns


class Labelled(Format):
    """`prompt`, `completion` and `label`: true to learn from, false to be left out and counted."""

    columns = ("prompt", "completion", "label")
    rank = 4

    def recognised(self, row: Row) -> str | None:
        return super().recognised(row) if row.get("label") in (0, 1) else None

    def chat(self, row: Row) -> Chat:
        if row["label"] not in (0, 1):
            raise BadRow(f"`label` is {row['label']!r}, neither true nor false")
        if not row["label"]:
            raise NotMeant("its `label` is false", "label")
        return chat([*turns("user", row, "prompt"), *turns("assistant", row, "completion")], row)
