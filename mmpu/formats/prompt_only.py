"""Prompts without answers, for methods that sample."""

from __future__ import annotations

from mmpu.chats import PICTURES, SCHEMAS, Chat, Format, Row, chat, said
from mmpu.formats.prompt_completion import turns


class PromptOnly(Format):
    """`prompt`, a text or turns, and no answer."""

    columns = ("prompt",)
    rank = -1

    def recognised(self, row: Row) -> str | None:
        """Only where there is nothing else, since more columns may hold what is to be answered."""
        known = {*self.columns, *PICTURES, *SCHEMAS, "system", "id", "split"}
        return super().recognised(row) if set(row) <= known else None

    def chat(self, row: Row) -> Chat:
        system = [said("system", row["system"], "system")] if row.get("system") else []
        return chat([*system, *turns("user", row, "prompt")], row)
