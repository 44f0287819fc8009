"""The last number of the text equals the answer's number.

A number after `####` or inside `\\boxed{}` wins over a later bare one. Commas, currency signs and a trailing period
are dropped; `3/4` and `50%` are not evaluated. GSM8K's rule (METHODS of lm-eval: `strict-match`, then
`flexible-extract`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmpu.core import Grader, Sample

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\.\d+"
_MARKED = re.compile(rf"(?:####\s*|\\boxed\{{\s*)\$?({_NUMBER})")
_ANY = re.compile(_NUMBER)


@dataclass(frozen=True)
class Number(Grader):
    tolerance: float = 1e-6
    """Largest difference that counts as equal."""

    def grade(self, sample: Sample, text: str) -> float | None:
        gold = last_number(sample.answer or "")
        if gold is None:
            return None
        found = last_number(text)
        return float(found is not None and abs(found - gold) <= self.tolerance)


def last_number(text: str) -> float | None:
    """The marked number of a text if there is one, else its last; None if it has none."""
    found = _MARKED.findall(text) or _ANY.findall(text)
    if not found:
        return None
    digits = re.sub(r"[^\d.-]", "", found[-1])
    return float(digits[:400])
