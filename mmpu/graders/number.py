"""The number of a text equals the answer's number: GSM8K's rule, strict or flexible.

Flexible: the last number, but one after `####` or inside `\\boxed{}` wins over a later bare one. Strict: the first
number after `#### `, as OpenAI's grade-school-math scores; a text without one is wrong. Commas, currency signs and a
trailing period are dropped, numbers are compared as numbers; `3/4` and `50%` are not evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmpu.core import Grader, Sample

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\.\d+"
_MARKED = re.compile(rf"(?:####\s*|\\boxed\{{\s*)\$?({_NUMBER})")
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_ANY = re.compile(_NUMBER)
_MARK = re.compile(r"(?:####\s*|\\boxed\{\s*)([^\n}]*)")
_LONGEST = 400
"""Digits that are read; the largest float has 309."""


@dataclass(frozen=True)
class Number(Grader):
    tolerance: float = 1e-6
    """Largest difference that counts as equal."""
    strict: bool = False
    """Only what stands after `#### ` counts."""
    refusal: str | None = None
    """The gold answer of problems without a solution, such as `None`; right is then that word after `####`."""

    def grade(self, sample: Sample, text: str) -> float | None:
        if self._insoluble(sample):
            return float(_refused(text) == str(self.refusal).casefold())
        gold = last_number(sample.answer or "")
        if gold is None:
            return None
        found = self._read(text)
        return float(found is not None and abs(found - gold) <= self.tolerance)

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        if self._insoluble(sample):
            return f"#### {self.refusal}", 1.0
        gold = last_number(sample.answer or "")
        return None if gold is None else (f"#### {gold:f}", 1.0)

    def key(self, sample: Sample, text: str) -> str | None:
        number = self._read(text)
        if number is None:
            return _refused(text) if self.refusal else None
        return repr(number)

    def _read(self, text: str) -> float | None:
        if not self.strict:
            return last_number(text)
        found = _STRICT.search(text)
        return _value(found[1]) if found else None

    def _insoluble(self, sample: Sample) -> bool:
        return self.refusal is not None and (sample.answer or "").strip().casefold() == self.refusal.casefold()


def last_number(text: str) -> float | None:
    """The marked number of a text if there is one, else its last; None if it has none."""
    found = _MARKED.findall(text) or _ANY.findall(text)
    return _value(found[-1]) if found else None


def _value(digits: str) -> float | None:
    try:
        return float(re.sub(r"[^\d.-]", "", digits).rstrip(".")[:_LONGEST])
    except ValueError:  # `1.2.3`, which the strict pattern lets through
        return None


def _refused(text: str) -> str | None:
    marked = _MARK.findall(text)
    return marked[-1].strip().rstrip(".").casefold() if marked else None
