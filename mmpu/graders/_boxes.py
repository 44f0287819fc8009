"""The boxes of a LaTeX solution: `\\boxed{…}`, `\\fbox{…}`, `\\boxed 5`."""

from __future__ import annotations

import re

_LONGEST = 1000
"""Characters of a box without braces that are looked at."""
_GAP = 60
"""Characters between two boxes of one list."""
_MOST = 50
"""Boxes of one list."""
_LOOKED_AT = 200
_UNCLOSED = 5
_BEGIN = re.compile(r"\\(?:boxed|fbox)")
_BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_PROSE = re.compile(r"(?:[A-Za-z]{2,}|a)[,.;:]?(?![A-Za-z$\\])")
"""`\\boxed as asked` speaks of the box and is none."""
_WITHOUT_CONTENT = re.compile(r"(?:\\[lcv]?dots|\\q?quad|\\[,;!: ]|\\(?:text|mbox|mathrm)\{\s*\}|[\s.…_?~$]|\{\})*+")
_BETWEEN = re.compile(
    r"(?:[\s,;&$]|\\[()\[\],;!: ]|\\q?quad|\\(?:text|mbox)\{\s*(?:,\s*)?(?:and|or|und|et|y|,)?\s*\}|\b(?:and|or)\b|"
    r"，|、|和|\b[a-zA-Z](?:_\{?\w\}?)?\s*=\s*+)*+"
)
"""What may stand between the boxes of one list; a full stop ends it, any other word takes it back."""


def last_boxed(text: str) -> str | None:
    """The content of the last box, possibly empty; None if there is none, or it never closes."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    match = _BOX.match(text, start) if start >= 0 else None
    if match is None:
        return None
    found = _content(text, match)
    return None if found is None else found[0]


def stated_box(text: str) -> str | None:
    """What the last boxes with content state; boxes of one sentence, with commas or «and» between them, are one list.

    An empty box takes nothing back, nor does the word `\\boxed` in a sentence. None if the last box never closes.
    """
    kept: list[tuple[int, int, str]] = []
    for begin in _begins(text):
        match = _BOX.match(text, begin)
        if match is None or (text[match.end()] != "{" and _PROSE.match(text, match.end())):
            continue
        found = _content(text, match)
        if found is None and not kept:
            return None
        if found is None or (kept and found[1] > kept[-1][0]) or _WITHOUT_CONTENT.fullmatch(found[0]):
            continue  # it is around the one that was found, or empty
        content, end = found
        if kept and not (kept[-1][0] - end <= _GAP and _BETWEEN.fullmatch(text, end, kept[-1][0])):
            break
        kept.append((begin, end, content))
        if len(kept) == _MOST:
            break
    contents = list(dict.fromkeys(content.strip() for _, _, content in reversed(kept)))
    return ", ".join(contents) if contents else None


def boxes(text: str) -> list[tuple[int, int, str]]:
    """The last closed boxes with content: where each begins and ends, and what it holds."""
    found: list[tuple[int, int, str]] = []
    unclosed = 0
    for begin in _begins(text):
        match = _BOX.match(text, begin)
        content = None if match is None else _content(text, match)
        unclosed += content is None
        if unclosed > _UNCLOSED:
            break
        if content is not None and not _WITHOUT_CONTENT.fullmatch(content[0]):
            found.append((begin, content[1], content[0]))
    return found[::-1]


def _begins(text: str) -> list[int]:
    """Where boxes may begin, the last one first, no more than are looked at."""
    return [match.start() for match in _BEGIN.finditer(text)][: -_LOOKED_AT - 1 : -1]


def _content(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    """What a box holds, and where it ends; None if it never closes."""
    start = match.end()
    if text[start] != "{":
        content = re.split(r"[\s$]", text[start : start + _LONGEST], maxsplit=1)[0]
        return content, start + len(content)
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)  # `\{` is a character of the answer, not a brace
        if depth == 0:
            return text[start + 1 : brace.start()], brace.end()
    return None
