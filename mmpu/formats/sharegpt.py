"""ShareGPT's conversations, also as LLaVA and LLaMA-Factory have them."""

from __future__ import annotations

from mmpu.chats import Chat, Format, Row, chat, said, turns_of


class ShareGPT(Format):
    """`conversations`: turns of `from` and `value`; with `system`, `tools`, `image` or `images`."""

    columns = ("conversations",)
    rank = 3

    def chat(self, row: Row) -> Chat:
        system = [said("system", row["system"], "system")] if row.get("system") else []
        return chat([*system, *turns_of(row["conversations"], "`conversations`")], row)
