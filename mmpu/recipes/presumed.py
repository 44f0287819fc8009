"""What stands for a model's answers where a price is wanted and no answer: those of an earlier evaluation, or texts as
long as an answer may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError
from mmpu.files import file_name

if TYPE_CHECKING:
    from mmpu.evaluation import Contender

WORD = "text"
"""A token of about four letters."""


@dataclass(frozen=True)
class Longest(Engine):
    """Answers as long as the sampling allows, another one to each sample and of each system."""

    name: str

    @property
    def identity(self) -> str:
        return f"longest:{self.name}"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return [
            tuple(Response(f"{self.name} {sample.id} {k} {WORD * sampling.max_tokens}") for k in range(n))
            for sample in samples
        ]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        raise UserError("what stands for answers weighs no options")


def presumed(name: str, target: str, place: Path) -> Contender:
    """A system that is not asked.

    Args:
        place: Where an earlier evaluation kept answers to the same prompts.
    """
    from mmpu.engines.replay import Replay
    from mmpu.evaluation import Contender

    kept = place / f"{file_name(name)}.outputs.jsonl"
    return Contender(name, target, Replay(str(kept), Longest(name)) if kept.is_file() else Longest(name), "none")
