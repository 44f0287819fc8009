"""Any engine with a count of what it is asked: what a scorer costs is read off the ledger, not worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling
from mmpu.store import Ledger


@dataclass(frozen=True)
class Counted(Engine):
    engine: Engine
    ledger: Ledger
    role: str
    """Prefix of the counter: `local_eval` counts local_eval_calls, one for each prompt."""

    @property
    def identity(self) -> str:
        return self.engine.identity

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        self._count(samples)
        return self.engine.generate(samples, n, sampling)

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        self._count(samples)
        return self.engine.choose(samples, options)

    def _count(self, samples: Sequence[Sample]) -> None:
        self.ledger.add(**{f"{self.role}_calls": len(samples)})
