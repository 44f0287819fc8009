"""The task's own grader decides: the better grade wins, equal grades tie. No language model takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import Task, UserError
from mmpu.duel import Duel, Judge, Order, Verdict


@dataclass(frozen=True)
class Rule(Judge):
    task: Task
    name: str = "rule"
    describe: str = "the task's own grader decides, equal grades tie; no language model judged"

    @property
    def identity(self) -> str:
        return f"rule:{self.task.name}"

    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        return [self._verdict(duel) for duel, _ in asked]

    def _verdict(self, duel: Duel) -> Verdict:
        ours, theirs = self.task.grade(duel.sample, duel.ours), self.task.grade(duel.sample, duel.theirs)
        if ours is None or theirs is None:
            raise UserError(
                f"judge rule: task {self.task.name} cannot grade sample {duel.sample.id!r}; use a model judge"
            )
        win = 0.5 if ours == theirs else float(ours > theirs)
        return Verdict(duel.sample.id, "none", win, win, "graded")
