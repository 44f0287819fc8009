"""Mathematical answers: what the last `\\boxed{}` of a text says is what the gold answer says.

Equal means: the same after the normalisation of the MATH data set (Hendrycks et al. 2021, arXiv 2103.03874), the same
canonical form (numbers, formulas, lists, sets, intervals: `_answer`), or, where a part is none of these, equal to
math-verify, gold first, since its comparison is not symmetric. math-verify runs in a process of its own under a time
and a memory limit; what it read in part only is not equal. A text without a box is wrong, an empty box takes nothing
back, boxes with commas between them are a list, and an answer longer than any real one is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpu.core import Grader, Remark, Sample
from mmpu.graders._answer import key, readings
from mmpu.graders._boxes import last_boxed, stated_box
from mmpu.graders._forms import Form, same
from mmpu.graders._normal import normalise
from mmpu.graders._stated import formula
from mmpu.graders._verify import require, verify
from mmpu.knobs import Seconds

__all__ = ["Math", "last_boxed"]

LONGEST = 1000
"""Characters of an answer that are looked at."""
_ASKED = 12
"""Parts of one answer that math-verify is asked about."""


@dataclass(frozen=True)
class Math(Grader):
    flexible: bool = False
    """Where a text has no box, take what stands after the last «answer is», or its last formula or number."""
    timeout: Seconds = 5.0
    """Seconds that math-verify may take for one answer."""

    def grade(self, sample: Sample, text: str) -> float | None:
        gold = _gold(sample)
        if not gold:
            return None
        require()
        found = self._stated(text)
        return 0.0 if found is None else float(self._equal(gold, found))

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        gold = _gold(sample)
        return (f"\\boxed{{{gold}}}", 1.0) if gold else None

    def key(self, sample: Sample, text: str) -> str | None:
        found = self._stated(text)
        return None if found is None or len(found) > LONGEST else key(found)

    def remarks(self, sample: Sample) -> list[Remark]:
        if sample.answer is None or (_gold(sample) and len(sample.answer) <= LONGEST):
            return []
        why = "is longer than any that is looked at" if _gold(sample) else "says nothing"
        return [Remark("problem", f"the gold answer {sample.answer[:40]!r} {why}")]

    def _stated(self, text: str) -> str | None:
        found = stated_box(text)
        if found is None and self.flexible and last_boxed(text) is None:
            return formula(text)
        return found

    def _equal(self, gold: str, found: str) -> bool:
        if not found.strip():
            return False
        if len(found) > LONGEST:
            return found == gold
        if normalise(gold) == normalise(found):
            return True
        asked = 0

        def otherwise(one: Form, other: Form) -> bool:
            nonlocal asked
            asked += 1
            return asked <= _ASKED and verify(one.source, other.source, self.timeout)

        return any(same(one, other, otherwise) for one in readings(gold) for other in readings(found))


def _gold(sample: Sample) -> str | None:
    boxed = stated_box(sample.answer or "")
    return (sample.answer or "").strip() if boxed is None else boxed
