"""The task's own references as answers: a data set's gold solutions in the teacher's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError


@dataclass(frozen=True)
class Reference(Engine):
    by_id: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return "reference"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return [
            (Response(s.reference),) * n if s.reference else Failed(f"sample {s.id!r} has no reference")
            for s in samples
        ]

    def known(self, samples: Sequence[Sample]) -> list[Response | None]:
        return [Response(sample.reference) if sample.reference else None for sample in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        raise UserError("references are texts and cannot weigh options; use another engine here")
