"""LOPD, on-policy distillation from a teacher's distribution (baseline of ROPD, arXiv 2605.07396).

    y ~ p_θ(· | x);   loss = mean over tokens of KL( p_θ(· | x, y_<t) ‖ π_T(· | x, y_<t) )

Reverse KL, the same prompt on both sides; the teacher is another model that can be loaded and shares the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpu.core import Group, Sample, UserError
from mmpu.knobs import Share
from mmpu.learning import Shadow
from mmpu.methods.opsd import OPSD


@dataclass(frozen=True)
class LOPD(OPSD):
    beta: Share = 1.0
    model: str = ""
    """The teacher: a bundled student, a folder or a hub id."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError(
                "lopd reads the teacher's next-token distribution, which an engine that only answers does not give; "
                "name a model that can be loaded: `method: {name: lopd, model: …}`"
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        return super().needs - {"anchor"}

    @property
    def shadow(self) -> Shadow:
        return Shadow("external", model=self.model)

    def context(self, group: Group) -> Sample:
        return group.sample
