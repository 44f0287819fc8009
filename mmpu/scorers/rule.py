"""The task's own grader as a score: 1 right, 0 wrong, abstains where the task cannot grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import NAN, Group, Sample, Scorer, Task


@dataclass(frozen=True)
class Rule(Scorer):
    task: Task

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        if any(self.task.grade(sample, sample.answer or "") is not None for sample in samples):
            return None
        return f"task {self.task.name} has no grader, or these samples no answer"

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        def grade(group: Group, text: str) -> float:
            value = self.task.grade(group.sample, text)
            return NAN if value is None else value

        return [tuple(grade(group, r.text) for r in group.responses) for group in groups]
