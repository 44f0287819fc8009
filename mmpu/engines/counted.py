"""Any engine with a count of what it is asked: what a scorer costs is read off the ledger, not worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmpu.core import Choice, Engine, Failed, Likelihood, Response, Sample, Sampling
from mmpu.store import Ledger

T = TypeVar("T")


@dataclass(frozen=True)
class Counted(Engine):
    engine: Engine
    ledger: Ledger
    role: str
    """Prefix of the counters: `local_eval` counts local_eval_calls, one for each prompt, and local_eval_failures."""

    @property
    def identity(self) -> str:
        return self.engine.identity

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return self._counted(self.engine.generate(samples, n, sampling))

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        return self._counted(self.engine.choose(samples, options))

    def likelihoods(self, samples: Sequence[Sample], responses: Sequence[Response]) -> list[Likelihood | Failed]:
        return self._counted(self.engine.likelihoods(samples, responses))

    def _counted(self, answers: list[T]) -> list[T]:
        failed = sum(isinstance(answer, Failed) for answer in answers)
        self.ledger.add(**{f"{self.role}_calls": len(answers)} | ({f"{self.role}_failures": failed} if failed else {}))
        return answers
