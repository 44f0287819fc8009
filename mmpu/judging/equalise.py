"""`lc_equalised`: the longer of two answers is shortened, and the duel judged again (PU-RLD's length control, as its
published numbers imply).

Lengths are counted in words; a character of Chinese, Japanese or Korean is a word. Answers within a factor of 1.1
stay as they are, so equal lengths give LC = raw exactly. Otherwise, in this order:

1. the longer one ends at the sentence whose end lies nearest to the shorter one's length, within that factor;
2. if there is none, both end at sentences of comparable length, the shorter one keeping at least half;
3. if there is none, the longer one is cut inside a sentence, at the shorter one's length.

The final answer of a text (`\\boxed{…}`, `#### …`, «the answer is …», or the last sentence where the task has short
answers) is kept in all cases, moved up behind what is kept. An empty answer cannot be matched; its duel stays as it
is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

FACTOR = 1.1
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:[.!?]+(?=\s|$)[)\"'”’]*|[。！？]+|[.!?]+|\n+|$)\s*")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKED = re.compile(
    r"####\s*\S[^\n]*|(?:\bthe\s+)?(?:\b(?:final|correct)\s+)?\banswer\s*(?:is|:)[^\n]*?(?:[.!?](?=\s|$)|\n|$)",
    re.IGNORECASE,
)

How = Literal["unchanged", "one", "both", "inside", "empty"]


@dataclass(frozen=True)
class Equalised:
    """Two answers of comparable length, and how they became so."""

    ours: str
    theirs: str
    how: How


@dataclass(frozen=True)
class _Text:
    """A text as sentences with the final answer apart; `ends[k]` is the number of words of the first k sentences and
    the final answer."""

    sentences: tuple[str, ...]
    final: str
    ends: tuple[int, ...]

    def head(self, k: int) -> str:
        return _join("".join(self.sentences[:k]), self.final)


def words(text: str) -> int:
    """The number of words of a text."""
    return sum(1 for _ in _WORD.finditer(text))


def equalise(ours: str, theirs: str, graded: bool) -> Equalised:
    """Two answers brought to comparable lengths.

    Args:
        graded: The task has short answers, so a text without a marked one ends with it.
    """
    swapped = words(ours) < words(theirs)
    long, short = (theirs, ours) if swapped else (ours, theirs)
    long, short, how = _equalise(long, short, graded)
    return Equalised(*((short, long) if swapped else (long, short)), how)


def _equalise(long: str, short: str, graded: bool) -> tuple[str, str, How]:
    size, target = words(long), words(short)
    if target == 0:
        return long, short, "unchanged" if size == 0 else "empty"
    if size <= FACTOR * target:
        return long, short, "unchanged"
    text = _parse(long, graded)
    fitting = [k for k, end in enumerate(text.ends) if target / FACTOR <= end <= FACTOR * target]
    if fitting:
        return text.head(min(fitting, key=lambda k: abs(text.ends[k] - target))), short, "one"
    other = _parse(short, graded)
    for j in range(len(other.ends) - 1, -1, -1):
        if other.ends[j] * 2 < target:
            break
        k = bisect_right(text.ends, FACTOR * other.ends[j]) - 1
        if k >= 0 and text.ends[k] * FACTOR >= other.ends[j]:
            return text.head(k), other.head(j), "both"
    room = max(0, target - words(text.final))
    return _join(_first_words("".join(text.sentences), room), text.final), short, "inside"


def _parse(text: str, graded: bool) -> _Text:
    start, end = _final_answer(text, graded)
    before, after = _split(text[:start]), _split(text[end:])
    final = text[start:end].strip()
    ends = [words(final)]
    for sentence in (*before, *after):
        ends.append(ends[-1] + words(sentence))
    return _Text((*before, *after), final, tuple(ends))


def _split(text: str) -> tuple[str, ...]:
    return tuple(match.group() for match in _SENTENCE.finditer(text) if match.group())


def _final_answer(text: str, graded: bool) -> tuple[int, int]:
    """Where the final answer stands; (len, len) if there is none."""
    boxed = list(_BOXED.finditer(text))
    if boxed:
        return boxed[-1].start(), _closing(text, boxed[-1].end())
    marked = list(_MARKED.finditer(text))
    if marked:
        return marked[-1].span()
    if graded:
        sentences = [s for s in _split(text) if s.strip()]
        if sentences:
            start = text.rindex(sentences[-1])
            return start, len(text)
    return len(text), len(text)


def _closing(text: str, position: int) -> int:
    """Just behind the brace that closes the one before `position`."""
    depth = 1
    for i in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    return len(text)


def _first_words(text: str, count: int) -> str:
    end = 0
    for number, match in enumerate(_WORD.finditer(text)):
        if number == count:
            break
        end = match.end()
    return text[:end]


def _join(head: str, final: str) -> str:
    head = head.rstrip()
    return f"{head} {final}" if head and final else head or final
