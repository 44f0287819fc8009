"""The words at the end: what stands after the last «answer is», or ends the last sentence.

Accepts: `The answer is 12.` · `12` · `The shape is blue.` for "blue" · `The answer is (B) 12.`, `(B)`, `B` where the
right option's letter is known (`meta.letter`). Refuses an option whose letter and text disagree, and anything that
goes on past the answer or takes it back («not 12», «11 or 12»).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmpu.core import Grader, Sample

_ANSWER_IS = re.compile(r"\banswer\s*(?:is|:)\s*:?", re.IGNORECASE)
_UNSAID = {"not", "t", "or", "nor", "neither", "either"}
"""Before an answer, words that take it back: «not 12», «isn't 12», «11 or 12»."""
_OPTION = re.compile(r"\(?([a-z])\)(.*)|([a-z])\W*", re.DOTALL)


@dataclass(frozen=True)
class FinalAnswer(Grader):
    def grade(self, sample: Sample, text: str) -> float | None:
        if sample.answer is None:
            return None
        tail = _tail(text)
        letter = str(sample.meta.get("letter") or "").casefold()
        answer = _words(sample.answer)
        option = _OPTION.fullmatch(tail.casefold().strip())
        if letter and option:
            chosen, rest = option[1] or option[3], _words(option[2] or "")
            return float(chosen == letter and (not rest or rest == answer))
        words = _words(tail)
        if not answer:
            return None
        before = next((w for w in reversed(words[: -len(answer)]) if w not in {"a", "an", "the", letter}), "")
        return float(words[-len(answer) :] == answer and before not in _UNSAID)


def _tail(text: str) -> str:
    parts = _ANSWER_IS.split(text)
    if len(parts) > 1:
        return parts[-1]
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n", text.strip()) if s.strip()]
    return sentences[-1] if sentences else ""


def _words(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?|[^\W\d_]+", text.casefold())
