"""The number of a text equals the answer's number: GSM8K's rule, strict or flexible.

Flexible: the last number, but one after `####`, in `\\boxed{}`, in `<answer>` or in a field `"answer"` wins over a
later bare one; in such a mark the whole content counts if it is a number (`x = 18`, `\\$1{,}234`, `\\frac{3}{4}`,
`2^{10}`), else its first number after the last `=`. Strict: the first number after `#### `, as OpenAI's
grade-school-math scores; a text without one is wrong. Numbers are compared as numbers: `1,000`, `1e3` and `10^3` are
equal, `2/6` is `1/3`, and `50%` may be said for 50 or for 0.5. An answer that is not one number (`2:30`, `5 or 6`)
abstains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context
from fractions import Fraction
from functools import lru_cache

from mmpu.core import Grader, Remark, Sample
from mmpu.graders._boxes import boxes
from mmpu.graders._number import Quantity, inside, last, single, whole
from mmpu.graders._text import closed_marks
from mmpu.knobs import NotNegative

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_HASHES = re.compile(r"####\s*([^\n]*)")
_REFUSED = re.compile(r"(?:####\s*|\\boxed\{\s*)([^\n}]*)")
_LONGEST = 300
"""Digits that the strict rule reads; the largest float has 309."""
_CLOSE = Fraction(1, 10**6)
_SHARE = Fraction(1, 1000)
_PROSE = 4
"""Words from which an answer is a solution, whose last number counts."""


@dataclass(frozen=True)
class Number(Grader):
    tolerance: NotNegative | None = None
    """Largest difference that counts as equal. None: 1e-6, but no more than a thousandth of the answer, so that 2e-6 is
    not 3e-6."""
    relative: NotNegative = 0.0
    """The same as a share of the answer; the larger of the two counts."""
    strict: bool = False
    """Only what stands after `#### ` counts."""
    refusal: str | None = None
    """The gold answer of problems without a solution, such as `None`; right is then that word after `####`."""

    def grade(self, sample: Sample, text: str) -> float | None:
        if self._insoluble(sample):
            return float(_refused(text) == str(self.refusal).casefold())
        gold = _gold(sample.answer or "")
        if gold is None:
            return None
        found = self._read(text)
        return float(found is not None and self._equal(gold, found))

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        if self._insoluble(sample):
            return f"#### {self.refusal}", 1.0
        gold = _gold(sample.answer or "")
        return None if gold is None else (f"#### {_written(gold.value)}", 1.0)

    def key(self, sample: Sample, text: str) -> str | None:
        number = self._read(text)
        if number is None:
            return _refused(text) if self.refusal else None
        return str(number.value)

    def remarks(self, sample: Sample) -> list[Remark]:
        if sample.answer is None or self._insoluble(sample) or _gold(sample.answer) is not None:
            return []
        return [Remark("problem", f"the gold answer {sample.answer[:40]!r} cannot be read as one number")]

    def _read(self, text: str) -> Quantity | None:
        if not self.strict:
            return _last(text)
        found = _STRICT.search(text)
        return _plain(found[1]) if found else None

    def _equal(self, gold: Quantity, found: Quantity) -> bool:
        if self._close(gold.value, found.value):
            return True
        if gold.percent == found.percent:
            return False
        hundredth = gold.value / 100 if gold.percent else found.value / 100
        return self._close(hundredth, found.value if gold.percent else gold.value)

    def _close(self, gold: Fraction, found: Fraction) -> bool:
        if self.tolerance is not None:
            allowed = Fraction(self.tolerance)
        else:
            allowed = min(_CLOSE, abs(gold) * _SHARE) if gold else _CLOSE
        return abs(gold - found) <= max(allowed, Fraction(self.relative) * abs(gold))

    def _insoluble(self, sample: Sample) -> bool:
        return self.refusal is not None and (sample.answer or "").strip().casefold() == self.refusal.casefold()


def last_number(text: str) -> Fraction | None:
    """The marked number of a text if there is one, else its last; None if it has none."""
    found = _last(text)
    return None if found is None else found.value


def _last(text: str) -> Quantity | None:
    for content in reversed(_marked(text)):
        if (found := inside(content)) is not None:
            return found
    return last(text)


def _marked(text: str) -> list[str]:
    """What the marks of a text hold, in order."""
    places = [(match.start(), match[1]) for match in _HASHES.finditer(text)]
    places += [(start, content) for start, _, content in (*boxes(text), *closed_marks(text))]
    return [content for _, content in sorted(places)]


@lru_cache(maxsize=4096)
def _gold(answer: str) -> Quantity | None:
    """An answer's number: what its last mark holds, or all of it, or the last number of a solution in sentences."""
    marked = _marked(answer)
    said = marked[-1] if marked else answer
    if (found := whole(said)) is not None:
        return found
    if "=" in said and "," not in said and (found := whole(said.rpartition("=")[2])) is not None:
        return found
    if (found := single(said)) is not None and not re.search(r"[\\^√:=*/]|\d[A-Za-z]", said):
        return found
    solution = "\n" in said.strip() or len(re.findall(r"[^\W\d_]{2,}", said)) >= _PROSE
    return last(said) if solution and not marked else None


def _plain(digits: str) -> Quantity | None:
    try:
        return Quantity(Fraction(digits.replace(",", "").rstrip(".")[:_LONGEST]))
    except ValueError:  # `1.2.3`, which the strict pattern lets through
        return None


def _written(value: Fraction) -> str:
    """A fraction as a decimal, exactly or to 30 digits."""
    return format(Context(prec=400 if value.denominator == 1 else 30).divide(value.numerator, value.denominator), "f")


def _refused(text: str) -> str | None:
    marked = _REFUSED.findall(text)
    return marked[-1].strip().rstrip(".").casefold() if marked else None
