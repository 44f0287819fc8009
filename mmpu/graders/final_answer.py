"""The words at the end: what stands after the last «answer is», in a box, tag or field, or ends the last sentence.

Accepts: `The answer is 12.` · `12` · `\\boxed{12}` · `{"answer": "12"}` · `答案：12` · `The shape is blue.` for "blue"
· `The answer is (B) 12.`, `(B)`, `**B**`, `\\text{B}` where the right option's letter is known (`meta.letter`). Refuses
an option whose letter and text disagree, and anything that goes on past the answer or takes it back («not 12», «11 or
12»). Signs and vowel marks count: `x < 3` is not `x > 3`, `C#` not `C`, `−5` is `-5` and not `5`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmpu.core import Grader, Sample
from mmpu.graders import _labels
from mmpu.graders._text import UNSAID, alike, announced, words

_OPTION = re.compile(r"(?:option |choice )?\(?([a-z])[).:](.*)|(?:option |choice )?\W*([a-z])\W*", re.DOTALL)

_LONGEST = 100_000
"""Characters at the end of a text that are looked at."""


@dataclass(frozen=True)
class FinalAnswer(Grader):
    def grade(self, sample: Sample, text: str) -> float | None:
        if sample.answer is None:
            return None
        tail = _tail(text)
        letter = str(sample.meta.get("letter") or "").casefold()
        answer = words(sample.answer)
        option = _OPTION.fullmatch(_labels.before_reason(_labels.plain(tail)).casefold().strip())
        if letter and option:
            chosen, rest = option[1] or option[3], words(option[2] or "")
            return float(chosen == letter and (not rest or alike(rest, answer)))
        said = words(tail)
        if not answer:
            return None
        before = next((w for w in reversed(said[: -len(answer)]) if w not in {"a", "an", "the", letter}), "")
        return float(alike(said[-len(answer) :], answer) and before not in UNSAID)

    def key(self, sample: Sample, text: str) -> str | None:
        return " ".join(words(_tail(text))) or None


def _tail(text: str) -> str:
    text = text[-_LONGEST:]
    found = announced(text)
    if found is not None and found.strip():
        return found
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|[。！？\n]", text.strip()) if s.strip()]
    return sentences[-1] if sentences else ""
