"""Two answers to one prompt, the first preferred: flat, as turns, or with the prompt inside both."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpu.chats import BadRow, Chat, Format, NotMeant, Role, Row, chat, said
from mmpu.core import Message
from mmpu.formats.prompt_completion import turns

_HH = re.compile(r"\n\n(Human|Assistant):[ ]?")
"""Marks of turns in the texts of HH-RLHF."""


class Preference(Format):
    """`chosen` and `rejected`, texts or turns, with a `prompt` of its own or the one that both begin with."""

    columns = ("chosen", "rejected")
    rank = 5

    def chat(self, row: Row) -> Chat:
        asked = turns("user", row, "prompt") if row.get("prompt") else []
        system = [said("system", row["system"], "system")] if row.get("system") else []
        better, worse = (_turns(row, column, alone=not asked) for column in self.columns)
        whole = all(turns[0].role != "assistant" for turns in (better, worse))
        if not asked or whole:
            begun, better, worse = _parted(better, worse)
            if asked and (not begun or begun[-1].text.strip() != asked[-1].text.strip()):
                raise BadRow("`chosen` and `rejected` begin with other turns than those of `prompt`")
            asked = begun
        answers = [
            self._answer(c, [*system, *asked], a, row) for c, a in zip(self.columns, (better, worse), strict=True)
        ]
        if answers[0] == answers[1]:
            raise NotMeant("`chosen` and `rejected` are the same", "same_answers")
        return Chat(chat([*system, *asked], row).prompt, answers[0], (answers[0], answers[1]))

    def _answer(self, column: str, asked: Sequence[Message], answer: Sequence[Message], row: Row) -> str:
        if len(answer) != 1 or answer[0].role != "assistant":
            roles = ", ".join(turn.role for turn in answer) or "nothing"
            raise BadRow(f"`{column}` holds no single turn of the assistant's behind the prompt, but {roles}")
        return chat([*asked, *answer], row).reference or ""


def _turns(row: Row, column: str, *, alone: bool) -> list[Message]:
    """The turns of a column.

    Args:
        alone: There is no prompt, so that a text may hold all turns as HH-RLHF has them.
    """
    found = row[column]
    pieces = _HH.split(found) if isinstance(found, str) and alone else []
    if len(pieces) < 3:
        told = turns("assistant", row, column)
        if not told:
            raise BadRow(f"`{column}` is empty")
        return told
    if pieces[0].strip():
        raise BadRow(f"`{column}` has words before its first turn: {pieces[0][:60]!r}")
    roles: list[Role] = ["user" if who == "Human" else "assistant" for who in pieces[1::2]]
    return [said(role, text, column) for role, text in zip(roles, pieces[2::2], strict=True)]


def _parted(
    better: Sequence[Message], worse: Sequence[Message]
) -> tuple[Sequence[Message], Sequence[Message], Sequence[Message]]:
    """The prompt that two conversations begin with, or two texts up to their last common white space, and the rest."""
    if len(better) == len(worse) == 1:
        one, other = better[0].text, worse[0].text
        common = next(
            (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        cut = max((match.end() for match in re.finditer(r"\s", one[:common])), default=0)
        if one != other and not one[:cut].strip():
            raise BadRow("`chosen` and `rejected` begin with no prompt; add a column `prompt`")
        first, second = ([said("assistant", text[cut:], "")] for text in (one, other))
        return [said("user", one[:cut].rstrip(), "")], first, second
    common = next((i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b), None)
    if common is None:
        common = min(len(better), len(worse)) - 1
    return better[:common], better[common:], worse[common:]
