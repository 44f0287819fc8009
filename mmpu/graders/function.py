"""A Python function as a grader: what `mmpu.Task(rows, grader=f)` makes of `f(sample, text)`.

Accepts and refuses what the function does; None cannot be graded.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpu import lent
from mmpu.core import Grader, Sample, UserError


@dataclass(frozen=True)
class Function(Grader):
    of: str
    """The name that `mmpu.lent.lend` gave it."""

    def grade(self, sample: Sample, text: str) -> float | None:
        found = lent.value(self.of, sample, text)
        if found is not None and not 0 <= found <= 1:
            raise UserError(f"{self.of} gave sample {sample.id!r} the grade {found}; grades are 0 to 1, or None")
        return found
