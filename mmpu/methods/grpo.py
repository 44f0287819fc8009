"""GRPO (arXiv 2402.03300): a clipped policy ratio times the group-relative advantage.

    A_i = (r_i − mean r) / (std r + ε)                                       constant, shared by all tokens of y_i
    loss = −mean( w min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) ) + β KL,  ρ = exp(log p_θ − log p_old) per token

p_old is the trainer's before the rollout's first update, w a token's importance where the sampler's differs from it.

«GRPO» without its aggregation is not a loss: the paper's is `seq_mean_token_mean`, DAPO's `token_mean`, Dr. GRPO's
`fixed_len` with `adv_std: none`. With one update per rollout ρ = 1, and the loss value says nothing; its gradient does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpu.core import Group, UserError
from mmpu.knobs import CountOrZero, NotNegative, Ratio
from mmpu.learning import Batch, Quantities, Row
from mmpu.losses import KL, Aggregation, Total, aggregate, clipped_surrogate, group_advantages, kl_to_start, total_std
from mmpu.methods._to_start import ToStart


@dataclass(frozen=True)
class GRPO(ToStart):
    aggregation: Aggregation = "seq_mean_token_mean"
    """`token_mean_micro` divides by the tokens of a micro-batch: the only mode that `tokens_per_pass` changes."""
    max_length: CountOrZero = 0
    """Of `fixed_len`: the length that every response counts as."""
    adv_std: Literal["sample", "population", "batch", "none"] = "sample"
    """Divisor of the advantage; `batch` takes the standard deviation of all scores of the step."""
    adv_eps: NotNegative = 1e-4
    """Added to the standard deviation by which advantages are divided."""
    min_std: NotNegative = 0.0
    """Least divisor: keeps the noise of nearly equal scores from being blown up to unit variance."""
    clip_low: NotNegative = 0.2
    """Ratios below 1 − this are clipped."""
    clip_high: NotNegative = 0.2
    """Ratios above 1 + this are clipped."""
    dual_clip: Ratio | None = None
    """Bounds the loss of negative advantages at −dual_clip · A."""
    kl: KL = "k3"
    """`full` compares whole next-token distributions, at the price of another forward of the stage's start."""
    beta: NotNegative = 0.01
    """Weight of the KL to the stage's start."""
    mask_truncated: bool = False
    """Leave out responses that the length limit cut; they still count in the group's mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation == "fixed_len" and self.max_length < 1:
            raise UserError("`aggregation: fixed_len` needs `max_length`, the tokens that every response counts as")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"responses", "scores", "old_logp"}) | self.reference

    @property
    def listwise(self) -> bool:
        return True

    def reward(self, score: float, length: int) -> float:
        """What a response of so many tokens is worth, given its score."""
        return score

    def supervise(self, group: Group) -> list[Row]:
        """One row per scored candidate, weighted by its advantage over all scored candidates."""
        scored = [(r, s) for r, s in zip(group.responses, group.scores, strict=True) if not math.isnan(s)]
        if len(scored) < 2:
            return []
        rewards = torch.tensor([self.reward(s, len(r.tokens or ())) for r, s in scored], dtype=torch.float64)
        advantages = group_advantages(rewards, self.adv_std, self.adv_eps, self.min_std).tolist()
        read = group.sample if self.reads_start else None  # by the stage's start
        return [
            Row(group.sample, response, advantage, score=reward, context=read)
            for (response, _), advantage, reward in zip(scored, advantages, rewards.tolist(), strict=True)
            if response.finished or not self.mask_truncated
        ]

    def prepare(self, quantities: Quantities, batch: Batch, total: Total) -> Tensor | None:
        """Advantages over the standard deviation of the whole step's scores."""
        if self.adv_std != "batch":
            return None
        assert batch.score_B is not None
        divisor = (total_std(batch.score_B, total) + self.adv_eps).clamp(min=self.min_std)
        return (batch.weight_B / divisor)[:, None] * batch.mask_BT

    def token_loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate of each token, (B, T), before any KL."""
        assert batch.old_logp_BT is not None
        ratio_BT = (quantities.logp_BT - batch.old_logp_BT).exp()
        advantage = batch.weight_B[:, None] if self.adv_std != "batch" else quantities.weight_BT
        assert advantage is not None
        loss_BT, cut_BT = clipped_surrogate(ratio_BT, advantage, self.clip_low, self.clip_high, self.dual_clip)
        clipped = (cut_BT & batch.mask_BT).sum() / batch.total_tokens
        return batch.weighed(loss_BT), {"clip_fraction": clipped}

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss_BT, metrics = self.token_loss(quantities, batch)
        if self.penalised:
            loss_BT = loss_BT + self.beta * kl_to_start(self.kl, quantities)
        return aggregate(loss_BT, batch.mask_BT, self.aggregation, batch, self.max_length), metrics
