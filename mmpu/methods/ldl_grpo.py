"""LDL-GRPO (PU-RLD, arXiv 2601.20687): match the student's distribution over its own K candidates to the label
distribution.

    D(k) = softmax_k( log σ(γ r_k) + r_k / τ ),   r_k = s_k − s*        (Eq. 2, anchored margins; a constant)
    q(k) = softmax_k( z_k )                                             (Eq. 3, z_k a sequence log-likelihood)
    loss = mean_x KL(D ‖ q) + β KL(p_θ ‖ p_sft)                         (Eq. 4);  d KL(D ‖ q) / d z_k = q_k − D_k

The form of z_k is a real choice, because likelihood gaps between sequences grow with length. `sum` is the literal Eq.
3: q is nearly one-hot on the likeliest, usually shortest, candidate. `mean` divides by the length. `ratio` subtracts
the log-likelihood before the rollout's first update, Σ_t w_t (log p_θ − log p_old): q starts uniform, at exactly 1/K,
and flat scores give exactly no gradient, whatever sampled; w_t is 1, or a token's importance where the sampler differs
from the trainer. The KL term is reduced over tokens as z is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpu.core import Group
from mmpu.knobs import NotNegative, Positive
from mmpu.learning import Batch, Quantities, Row
from mmpu.losses import KL, group_log_softmax, group_sum, kl_to_start, label_distribution, seq_mean, seq_sum
from mmpu.methods._to_start import ToStart


@dataclass(frozen=True)
class LDLGRPO(ToStart):
    form: Literal["mean", "sum", "ratio"] = "mean"
    """z of a candidate: its mean or summed log-probability, or that minus the one before the first update."""
    label_tau: Positive = 1.2
    """τ of Eq. 2; not the sampling temperature."""
    gamma: NotNegative = 5.0
    """Gate sharpness: what lies below the anchor is told apart with inverse temperature up to 1/τ + γ."""
    beta: NotNegative = 0.01
    """Weight of the KL to the stage's start."""
    kl: KL = "k2"
    """`full` compares whole next-token distributions, at the price of another forward of the stage's start."""
    skip_flat_groups: bool = False
    """Leave out groups whose scores are all equal; no difference under `ratio`."""

    @property
    def listwise(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        sampled = {"old_logp"} if self.form == "ratio" else set[str]()
        return frozenset({"anchor", "responses", "scores", "anchor_score"} | sampled) | self.reference

    @property
    def tempered(self) -> bool:
        return self.form == "ratio"

    def supervise(self, group: Group) -> list[Row]:
        """One row per scored candidate, weighted D(k); masked candidates leave D, which is renormalised over the
        rest."""
        scored = [
            (response, score)
            for response, score in zip(group.responses, group.scores, strict=True)
            if not math.isnan(score) and response.tokens
        ]
        scores = [score for _, score in scored]
        if len(scored) < 2 or math.isnan(group.anchor_score):
            return []
        if self.skip_flat_groups and max(scores) == min(scores):
            return []
        log_d = label_distribution(
            torch.tensor(scores, dtype=torch.float64), group.anchor_score, self.gamma, self.label_tau
        )
        read = group.sample if self.reads_start else None  # by the stage's start
        return [
            Row(group.sample, response, weight, context=read)
            for (response, _), weight in zip(scored, log_d.exp().tolist(), strict=True)
        ]

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logp_BT, mask_BT = quantities.logp_BT, batch.mask_BT
        if self.form == "mean":
            z_B = seq_mean(logp_BT, mask_BT)
        elif self.form == "sum":
            z_B = seq_sum(logp_BT, mask_BT)
        else:
            assert batch.old_logp_BT is not None
            z_B = seq_sum(batch.weighed(logp_BT - batch.old_logp_BT), mask_BT)
        log_q_B = group_log_softmax(z_B, batch.group_B, batch.groups)
        d_B = batch.weight_B
        log_d_B = d_B.clamp(min=torch.finfo(d_B.dtype).tiny).log()
        loss = kl_target = (d_B * (log_d_B - log_q_B)).sum() / batch.total_groups

        q_B = log_q_B.detach().exp()
        top_q_G = q_B.new_zeros(batch.groups).scatter_reduce(0, batch.group_B, q_B, "amax")
        metrics = {
            "kl_target": kl_target.detach(),
            "entropy_d": -(d_B * log_d_B).sum() / batch.total_groups,
            "entropy_q": -(q_B * log_q_B.detach()).sum() / batch.total_groups,
            "max_q": top_q_G.sum() / batch.total_groups,
        }
        if self.penalised:
            size_G = group_sum(torch.ones_like(d_B), batch.group_B, batch.groups)

            def mean_over_candidates(per_token_BT: Tensor) -> Tensor:
                reduce = seq_mean if self.form == "mean" else seq_sum
                per_row_B = reduce(per_token_BT, mask_BT)
                return (per_row_B / size_G[batch.group_B]).sum() / batch.total_groups

            loss = loss + self.beta * mean_over_candidates(kl_to_start(self.kl, quantities))
        return loss, metrics
