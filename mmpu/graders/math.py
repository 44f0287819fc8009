"""Mathematical answers: the last `\\boxed{}` of a text equals the gold answer.

Equal means: the same after the normalisation of the MATH data set (Hendrycks et al. 2021, arXiv 2103.03874), the same
decimal number (`073` is 73), or equal to math-verify, gold first, since its comparison is not symmetric. math-verify
runs in a process of its own under a time and a memory limit; where it gives up, the normalisation has decided. A text
without a box is wrong, two empty answers are not equal, and an answer longer than any real one is not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from mmpu.core import Grader, Sample
from mmpu.graders._normal import normalise
from mmpu.graders._text import announced
from mmpu.graders._verify import require, verify

LONGEST = 1000
"""Characters of an answer that are looked at."""
_BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])")
_NUMBER = re.compile(r"-?\d[\d,]{0,30}(?:\.\d{1,30})?")


@dataclass(frozen=True)
class Math(Grader):
    flexible: bool = False
    """Where a text has no box, take what stands after the last «answer is», or its last formula or number."""
    timeout: float = 5.0
    """Seconds that math-verify may take for one answer."""

    def grade(self, sample: Sample, text: str) -> float | None:
        gold = _gold(sample)
        if not gold:
            return None
        require()
        found = last_boxed(text)
        if found is not None:
            return float(self._equal(gold, found))
        if not self.flexible:
            return 0.0
        tail = announced(text)
        said = (text if tail is None else tail).strip()
        return float(self._equal(gold, said.rstrip(".")) or verify(gold, said[-LONGEST:], self.timeout, prose=True))

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        gold = _gold(sample)
        return (f"\\boxed{{{gold}}}", 1.0) if gold else None

    def key(self, sample: Sample, text: str) -> str | None:
        found = last_boxed(text)
        if found is None or not found.strip() or len(found) > LONGEST:
            return None
        number = _number(found)
        return normalise(found) if number is None else str(number.normalize())

    def _equal(self, gold: str, found: str) -> bool:
        if not found.strip():
            return False
        if len(found) > LONGEST:
            return found == gold
        numbers = _number(gold), _number(found)
        if None not in numbers:
            return numbers[0] == numbers[1]
        return normalise(gold) == normalise(found) or verify(gold, found, self.timeout)


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, `\\fbox{…}` or `\\boxed 5`; None if there is none, or it never closes."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    match = _BOX.match(text, start) if start >= 0 else None
    if match is None:
        return None
    if text[match.end()] != "{":
        return re.split(r"[\s$]", text[match.end() : match.end() + LONGEST], maxsplit=1)[0]
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[match.end() :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)  # `\{` is a character of the answer, not a brace
        if depth == 0:
            return text[match.end() + 1 : match.end() + brace.start()]
    return None


def _gold(sample: Sample) -> str | None:
    boxed = last_boxed(sample.answer or "")
    return (sample.answer or "").strip() if boxed is None else boxed


def _number(text: str) -> Decimal | None:
    plain = text.strip().strip("$").strip()
    return Decimal(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None
