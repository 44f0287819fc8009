"""Stanford Alpaca's instructions, with LLaMA-Factory's `system` and `history`."""

from __future__ import annotations

from typing import cast

from mmpu.chats import BadRow, Chat, Format, Row, chat, parsed, said


class Alpaca(Format):
    """`instruction`, `output`, and what may be null or absent: `input`, `system`, `history` (pairs), `images`."""

    columns = ("instruction", "output")
    rank = 2

    def chat(self, row: Row) -> Chat:
        turns = [said("system", row["system"], "system")] if row.get("system") else []
        history = parsed(row.get("history") or [])
        for pair in cast(list[object], history if isinstance(history, list) else [history]):
            if not isinstance(pair, list | tuple) or len(cast(list[object], pair)) != 2:
                raise BadRow(f"`history` is no list of pairs: {str(pair)[:60]!r}")
            asked, answered = cast(list[object], pair)
            turns += [said("user", asked, "history"), said("assistant", answered, "history")]
        question = said("user", row["instruction"], "instruction")
        if row.get("input"):
            further = said("user", row["input"], "input")
            question = said("user", "\n".join(filter(None, (question.text, further.text))), "instruction")
        return chat([*turns, question, said("assistant", row["output"], "output")], row)
