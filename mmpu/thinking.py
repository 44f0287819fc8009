"""What a model thinks before it answers is no part of its answer.

A block of thinking begins with `<think>` and ends with `</think>`; `<thinking>`, `<seed:think>`, `[THINK]` and
`◁think▷` of other families are read alike. Chat templates may write the opening mark into the prompt, so a closing mark
that nothing opened ends a block that began with the text. A block that never closes takes the rest of the text. Marks
in code quotes are talked about, not meant.
"""

from __future__ import annotations

import re

_NAME = r"(?:seed:)?think(?:ing)?\s*"
_MARK = re.compile(rf"(?<!`)(?:<\s*(?P<a>/?)\s*{_NAME}>|\[(?P<b>/?)THINK\]|◁(?P<c>/?)think▷)(?!`)", re.IGNORECASE)
_CLOSED = re.compile(rf"(?:(?:<{_NAME}>|\[THINK\]|◁think▷)\s*)?(?:</{_NAME}>|\[/THINK\]|◁/think▷)\s*\Z", re.IGNORECASE)
_OPENED = re.compile(rf"(?:<{_NAME}>|\[THINK\]|◁think▷)\s*\Z", re.IGNORECASE)


def answer_of(text: str) -> str:
    """A text without its thinking; exactly the text where there is none."""
    return _read(text)[0]


def thinks_on(text: str) -> bool:
    """True if the text ends inside a block of thinking: the answer has not begun, or was broken off."""
    return _read(text)[1]


def opening(prompt: str) -> str:
    """The mark, with the white space behind it, by which a prompt lets its answer begin inside a block; or nothing."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def closing(opening: str) -> str:
    """What ends a thought of nothing that was begun with this mark."""
    mark = opening.strip()
    return f"\n\n{mark[0]}/{mark[1:]}\n\n" if mark else ""


def thought_nothing(prompt: str) -> bool:
    """True if a prompt ends behind a thought of nothing: what is said to it begins with the answer."""
    return _CLOSED.search(prompt) is not None


def is_mark(token: str) -> bool:
    """True if a token is a mark of thinking and no more."""
    return _MARK.fullmatch(token.strip()) is not None


def _read(text: str) -> tuple[str, bool]:
    """What stands outside the blocks, and whether the last one is open."""
    kept: list[str] = []
    begin, inside = 0, False
    marks = 0
    for mark in _MARK.finditer(text):
        marks += 1
        if any(mark.group("a", "b", "c")):
            if not inside:  # it began with the text
                kept.clear()
            begin, inside = mark.end(), False
        elif not inside:
            kept.append(text[begin : mark.start()])
            inside = True
    if not marks:
        return text, False
    if not inside:
        kept.append(text[begin:])
    return "".join(kept).strip(), inside
