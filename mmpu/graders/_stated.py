"""The formula, number or word that a text gives as its answer, where no box holds it."""

from __future__ import annotations

import re

from mmpu.graders._answer import read
from mmpu.graders._boxes import stated_box
from mmpu.graders._forms import Words
from mmpu.graders._text import announced, composed

_LONGEST = 1000
_MARKED = re.compile(r"####[ \t]*(\S[^\n]*)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[^\s.])[.!?。](?=\s|$)|\n")
_CHUNK = re.compile(r"[^\s,;:!?]*\d(?:[^\s;:!?,]|,(?=\d{3}))*")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+")


def canonical_source(text: str) -> str | None:
    """A text's final answer: its last box, what follows the last `####` or «answer is», or its last number."""
    boxed = stated_box(text)
    if boxed is not None:
        return boxed
    marked = _MARKED.findall(text)
    return _first(marked[-1].strip()) if marked and read(marked[-1]) is not None else formula(text)


def formula(text: str) -> str | None:
    """What a text announces as its answer, or its last formula or number; None if it has none of these."""
    tail = announced(text)
    if tail is not None and tail.strip():
        return _first(tail.strip())
    return _last(text)


def _first(text: str) -> str:
    """The answer at the start of what follows «answer is»."""
    said = _SENTENCE.split(text[:_LONGEST], maxsplit=1)[0].strip()
    found = _formulas(said)
    if len(found) == 1 and read(said) != read(found[0]):
        return found[0]
    if isinstance(read(said), Words) and (numbers := _numbers(said)):
        return numbers[0]
    return said


def _last(text: str) -> str | None:
    end = text[-_LONGEST:]
    found = _formulas(end)
    numbers = _numbers(_FORMULA.sub(" ", end[end.rfind(found[-1]) + len(found[-1]) :] if found else end))
    return numbers[-1] if numbers else found[-1] if found else None


def _formulas(text: str) -> list[str]:
    return [next(group for group in match.groups() if group is not None) for match in _FORMULA.finditer(text)]


def _numbers(text: str) -> list[str]:
    """Numbers with what is written beside them, `2π` and `√2`; as plain numbers where that says nothing."""
    found: list[str] = []
    for chunk in _CHUNK.findall(composed(text)):
        plain = chunk.strip(".\"'*`()[]{}")
        form = None if len(plain) > _LONGEST else read(plain)
        found += [plain] if form is not None and not isinstance(form, Words) else _NUMBER.findall(plain)
    return found
