"""The task's own grader as a score: 1 right, 0 wrong, abstains where the task cannot grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpu.core import NAN, Group, Sample, Scorer, Task
from mmpu.knobs import Share
from mmpu.scorers.majority import braced, canonical


@dataclass(frozen=True)
class Rule(Scorer):
    task: Task
    partial: Share = 0.0
    """Least score of a response that gives some answer, as ReFT grants for a wrong number."""
    reward: Literal["task", "opsd_compat"] = "task"
    """`opsd_compat`: 1 if the *first* box of a response and the answer are the same string in lower case, as OPSD's
    GRPO script (siyan-zhao/OPSD) has it; whoever is right in a later box, or in other words, is wrong."""

    @property
    def reads_labels(self) -> bool:
        return True

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        if self.reward == "opsd_compat":
            return None if any(s.answer is not None for s in samples) else "opsd_compat needs samples with an answer"
        if any(self.task.grade(sample, sample.answer or "") is not None for sample in samples):
            return None
        return f"task {self.task.name} has no grader, or these samples no answer"

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        def grade(group: Group, text: str) -> float:
            value = self._value(group.sample, text)
            if value is None:
                return NAN
            return max(value, self.partial) if self.partial and canonical(text) is not None else value

        return [tuple(grade(group, r.text) for r in group.responses) for group in groups]

    def _value(self, sample: Sample, text: str) -> float | None:
        if self.reward == "task":
            return self.task.grade(sample, text)
        return None if sample.answer is None else float(_first_box(text) == sample.answer.strip().lower())


def _first_box(text: str) -> str | None:
    """What stands in a text's first `\\boxed{}`, in lower case; None if there is none, or it is not closed."""
    begin, mark, _ = text.partition("\\boxed{")
    start = len(begin) + len(mark)
    content = braced(text, start)
    return content.strip().lower() if mark and start + len(content) < len(text) else None
