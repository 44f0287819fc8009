"""Direct answers, soft accuracy: min(1, matches / 3) over the answers that people gave (A-OKVQA, VQA).

The answers are `meta.answers`. A text counts as what stands after the last «answer is», or else as a whole, in lower
case, without punctuation and articles, number words as digits; signs and vowel marks are no punctuation: `5` is not
`-5`, `x < 3` not `x > 3`, `C#` not `C`. A sentence around the answer is wrong, as officially.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mmpu.core import Grader, Sample, UserError
from mmpu.graders._text import announced, composed, unwrapped

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(n) for n, word in enumerate(_NUMBERS)} | {"none": "0"}
_WITHIN = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PUNCTUATION = re.compile(r"[;\[\]{}()\"“”«»„\\_`?!¿¡。，；：？！、]|(?<!\d)[.:,]|[.:,](?!\d)")
_FULL = 3
"""People who must have given an answer for a full grade."""


@dataclass(frozen=True)
class Vqa(Grader):
    def grade(self, sample: Sample, text: str) -> float | None:
        given = _given(sample)
        return min(1.0, given[_plain(text)] / _FULL) if given else None

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        given = _given(sample)
        if not given:
            return None
        answer, count = given.most_common(1)[0]
        return answer, min(1.0, count / _FULL)

    def key(self, sample: Sample, text: str) -> str | None:
        return _plain(text) or None


def _given(sample: Sample) -> Counter[str]:
    answers = sample.meta.get("answers")
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        raise UserError(f"sample {sample.id!r}: grader vqa needs people's answers as a list in `meta.answers`")
    return Counter(_plain(str(answer)) for answer in cast(Sequence[object], answers))


def _plain(text: str) -> str:
    tail = announced(text)
    said = composed(unwrapped(text if tail is None or not tail.strip() else tail).casefold())
    kept = _PUNCTUATION.sub(" ", _WITHIN.sub("", composed(said))).split()
    return " ".join(_DIGITS.get(word, word) for word in kept if word not in ("a", "an", "the"))
