"""OpenAI's chats, which the Hugging Face hub has as well."""

from __future__ import annotations

from mmpu.chats import Chat, Format, Row, chat, turns_of


class Messages(Format):
    """`messages`: turns of `role` and `content` (a text or parts); with `images` and `tools` if there are any."""

    columns = ("messages",)
    rank = 3

    def chat(self, row: Row) -> Chat:
        return chat(turns_of(row["messages"], "`messages`"), row)
