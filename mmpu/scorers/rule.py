"""The task's own grader as a score: 1 right, 0 wrong, abstains where the task cannot grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import NAN, Group, Sample, Scorer, Task
from mmpu.scorers.majority import canonical


@dataclass(frozen=True)
class Rule(Scorer):
    task: Task
    partial: float = 0.0
    """Least score of a response that gives some answer, as ReFT grants for a wrong number."""

    @property
    def reads_labels(self) -> bool:
        return True

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        if any(self.task.grade(sample, sample.answer or "") is not None for sample in samples):
            return None
        return f"task {self.task.name} has no grader, or these samples no answer"

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        def grade(group: Group, text: str) -> float:
            value = self.task.grade(group.sample, text)
            if value is None:
                return NAN
            return max(value, self.partial) if self.partial and canonical(text) is not None else value

        return [tuple(grade(group, r.text) for r in group.responses) for group in groups]
