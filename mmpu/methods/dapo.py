"""DAPO (arXiv 2503.14476): GRPO with a higher upper clip, the mean over all tokens of the step, no KL, groups that
teach, and a soft punishment of overlong answers.

    r_i = score_i − min(1, max(0, (len_i − (L_max − B)) / B))

Groups whose scores are all equal are replaced: by scores, not by rewards, since length penalties make every group
differ. What is thrown away has been generated and stays in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpu.core import Group, UserError
from mmpu.knobs import Count, CountOrZero, NotNegative, Ratio
from mmpu.learning import Row
from mmpu.losses import KL, Aggregation, overlong_penalty
from mmpu.methods.grpo import GRPO


@dataclass(frozen=True)
class DAPO(GRPO):
    aggregation: Aggregation = "token_mean"
    clip_high: NotNegative = 0.28
    dual_clip: Ratio | None = 10.0
    kl: KL = "none"
    batches: CountOrZero = 10
    """Generation batches a step may take to fill up with groups whose scores differ; 0 trains on all groups."""
    overlong_length: Count | None = None
    """L_max, the length at which the punishment is full; None switches it off."""
    overlong_buffer: Count = 4096
    """B, the tokens below L_max over which it grows."""
    overlong_factor: NotNegative = 1.0
    """Weight of the punishment of overlong answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlong_length is not None and self.overlong_buffer > self.overlong_length:
            raise UserError(
                f"dapo: overlong_buffer={self.overlong_buffer} must be at most overlong_length={self.overlong_length}"
            )

    @property
    def refill(self) -> int:
        return self.batches

    def reward(self, score: float, length: int) -> float:
        if self.overlong_length is None:
            return score
        return score + overlong_penalty(length, self.overlong_length, self.overlong_buffer, self.overlong_factor)

    def supervise(self, group: Group) -> list[Row]:
        known = {score for score in group.scores if score == score}
        return super().supervise(group) if len(known) > 1 or not self.batches else []
