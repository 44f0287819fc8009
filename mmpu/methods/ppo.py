"""PPO (arXiv 1707.06347) with a value head on the student, generalised advantages and a KL penalty in the reward.

    r_t = score at the last token − β (log p_old − log p_ref)_t          k1, detached: an unbiased penalty
    A_t = Σ_l (γλ)^l δ_{t+l},  δ_t = r_t + γ V_{t+1} − V_t,  V = 0 after the last token;  R_t = A_t + V_t
    loss = token mean of −w min(ρ A, clip(ρ) A) + c · ½ max((V − R)², (clip(V, V_old ± ε_v) − R)²)

A is whitened over the step's tokens. Self-PPO of PU-RLD (arXiv 2601.20687) names no critic; the shared linear head is
our choice, the numbers are those of TRL's experimental PPO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpu.core import Group
from mmpu.knobs import NotNegative, Share
from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.losses import Total, aggregate, clipped_surrogate, gae, total_std


@dataclass(frozen=True)
class PPO(Method):
    baseline: Literal["value_head", "ema", "none"] = "value_head"
    """What scores are compared with: the value head, the moving average of earlier steps' scores, nothing."""
    clip: NotNegative = 0.2
    """Ratios outside 1 ± this are clipped."""
    value_clip: NotNegative = 0.2
    """Values move by at most this from the old ones."""
    value_coefficient: NotNegative = 0.1
    """Weight of the value head's loss."""
    discount: Share = 1.0
    """γ of the returns."""
    lam: Share = 0.95
    """λ of generalised advantages."""
    beta: NotNegative = 0.05
    """Weight of the KL penalty."""
    whiten: bool = True
    """Advantages get mean 0 and standard deviation 1."""
    missing_eos_penalty: NotNegative = 0.0
    """Taken off the score of a response that the length limit cut."""

    @property
    def needs(self) -> frozenset[str]:
        needs = {"responses", "scores", "old_logp"}
        needs |= {"reference"} if self.beta > 0 else set()
        return frozenset(needs | ({"value"} if self.baseline == "value_head" else set[str]()))

    @property
    def reads_old(self) -> bool:
        return self.beta > 0

    def supervise(self, group: Group) -> list[Row]:
        """One row per scored response, weighted by its score."""
        rows: list[Row] = []
        for response, score in zip(group.responses, group.scores, strict=True):
            if not math.isnan(score):
                worth = score - (0.0 if response.finished else self.missing_eos_penalty)
                rows.append(Row(group.sample, response, worth, score=score))
        return rows

    def prepare(self, quantities: Quantities, batch: Batch, total: Total) -> Tensor:
        """Advantages, whitened over the step's tokens: their mean taken off, over their standard deviation."""
        advantage_BT = self._advantage(quantities, batch)
        if not self.whiten:
            return advantage_BT
        seen_N = advantage_BT[batch.mask_BT]
        count = total(torch.ones_like(seen_N).sum())
        mean = total(seen_N.sum()) / count
        spread = total_std(seen_N, total) if count > 1 else torch.zeros_like(mean)
        return (advantage_BT - mean) / (spread + 1e-8) * batch.mask_BT

    def _advantage(self, quantities: Quantities, batch: Batch) -> Tensor:
        assert batch.old_logp_BT is not None
        mask_BT = batch.mask_BT
        reward_BT = torch.zeros_like(batch.old_logp_BT)
        if quantities.ref_logp_BT is not None and self.beta > 0:
            reward_BT = -self.beta * (batch.old_logp_BT - quantities.ref_logp_BT)
        baseline = batch.mean_score if self.baseline == "ema" else 0.0
        last_B1 = mask_BT.sum(1, keepdim=True) - 1
        reward_BT = reward_BT.scatter_add(1, last_B1, (batch.weight_B - baseline)[:, None].to(reward_BT))
        value_BT = quantities.old_value_BT
        if value_BT is None:  # without a critic a token is credited with all that follows it
            return gae(reward_BT, torch.zeros_like(reward_BT), mask_BT, self.discount, 1.0)
        return gae(reward_BT, value_BT.to(reward_BT), mask_BT, self.discount, self.lam)

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.old_logp_BT is not None
        assert quantities.weight_BT is not None
        ratio_BT = (quantities.logp_BT - batch.old_logp_BT).exp()
        loss_BT, cut_BT = clipped_surrogate(ratio_BT, quantities.weight_BT, self.clip, self.clip)
        loss = aggregate(batch.weighed(loss_BT), batch.mask_BT, "token_mean", batch)
        metrics = {"clip_fraction": (cut_BT & batch.mask_BT).sum() / batch.total_tokens}
        if quantities.value_BT is not None:
            old_BT = quantities.old_value_BT
            assert old_BT is not None
            return_BT = self._advantage(quantities, batch) + old_BT
            near_BT = old_BT + (quantities.value_BT - old_BT).clamp(-self.value_clip, self.value_clip)
            worse_BT = torch.maximum((quantities.value_BT - return_BT).square(), (near_BT - return_BT).square())
            value_loss = aggregate(worse_BT / 2, batch.mask_BT, "token_mean", batch)
            loss = loss + self.value_coefficient * value_loss
            metrics["value_loss"] = value_loss.detach()
        return loss, metrics
