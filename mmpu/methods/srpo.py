"""SRPO (arXiv 2604.02288): right answers learn by reward, wrong ones from a right sibling.

    correct, or no correct sibling:  GRPO's token loss, advantage over all rollouts
    wrong, with a correct sibling:   min(ρ, 2) · w · D( p_EMA(· | x, sibling, y_<t), p_θ(· | x, y_<t) )
    w = exp(−b H_teacher) / its mean over the routed tokens of the step;   loss = sum over all tokens / their number

D is a Jensen-Shannon divergence on the student's top 100 tokens and a bucket for the rest; the teacher's entropy is
that of its full distribution. Both branches share one denominator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from mmpu.core import Group, UserError
from mmpu.knobs import Count, CountOrZero, NotNegative, Rate, Ratio, Share
from mmpu.learning import Batch, Divergence, Quantities, Row, Shadow
from mmpu.losses import KL, Aggregation, Total
from mmpu.methods.grpo import GRPO
from mmpu.prompts import template_path, with_solution

PROMPT = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class SRPO(GRPO):
    aggregation: Aggregation = "token_mean"
    adv_std: Literal["sample", "population", "batch", "none"] = "none"
    clip_high: NotNegative = 0.28
    kl: KL = "none"
    correct: float = 0.5
    """Least score of a right answer."""
    entropy_weight: NotNegative = 1.0
    """b: how much less a teacher counts where it is unsure; 0 weighs all tokens alike."""
    jsd: Share = 0.5
    """β of the divergence, in GKD's convention."""
    top_k: CountOrZero = 100
    """Tokens of the teacher whose probabilities are compared one by one, the rest as one."""
    max_ratio: Ratio = 2.0
    """Largest ratio by which a token's loss is weighed."""
    ema_rate: Rate = 0.05
    """Share of the student's weights that the averaged teacher takes on at each step."""
    solution: Literal["sibling", "reference"] = "sibling"
    """What the teacher is shown: a right answer of the same group, or the task's reference."""
    prompt: str | None = None
    """A Jinja file with `question` and `solution`; default: srpo.txt beside this file."""
    max_privileged: Count = 20_000
    """Characters of the solution that is shown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation != "token_mean" or self.adv_std == "batch" or self.kl != "none":
            raise UserError(
                "srpo's branches share one denominator, the step's tokens, and it has no KL: leave `aggregation` at "
                "token_mean and `kl` at none; `adv_std: batch` is not to be had"
            )
        _ = self.divergence, self.shadow

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"teacher_entropy"} if self.entropy_weight else set[str]())

    @property
    def shadow(self) -> Shadow:
        return Shadow("ema", self.ema_rate)

    @property
    def divergence(self) -> Divergence:
        return Divergence(self.jsd, self.top_k, "student", tail=True)

    def supervise(self, group: Group) -> list[Row]:
        """GRPO's rows; a wrong one gets the teacher's prompt if there is something to show the teacher."""
        right = next((r for r, s in zip(group.responses, group.scores, strict=True) if s >= self.correct), None)
        shown = group.sample.reference if self.solution == "reference" else right.raw if right else None
        rows = super().supervise(group)
        if shown is None:
            return rows
        template = template_path(self.prompt, PROMPT)
        context = with_solution(group.sample, template, shown, self.max_privileged, self.solution)
        return [row if row.score >= self.correct else replace(row, context=context) for row in rows]

    def prepare(self, quantities: Quantities, batch: Batch, total: Total) -> Tensor | None:
        """exp(−b H) over its mean on the routed tokens of the step."""
        assert batch.context_B is not None
        routed_BT = batch.mask_BT & batch.context_B[:, None]
        if quantities.teacher_entropy_BT is None:
            return routed_BT.float()
        weight_BT = (-self.entropy_weight * quantities.teacher_entropy_BT).exp() * routed_BT
        mean = total(weight_BT.sum()) / total(routed_BT.sum()).clamp(min=1)
        return weight_BT / mean.clamp(min=1e-30)

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.context_B is not None
        assert batch.old_logp_BT is not None
        assert quantities.weight_BT is not None
        loss_BT, metrics = self.token_loss(quantities, batch)
        routed_B1 = batch.context_B[:, None]
        metrics["routed"] = batch.context_B.sum() / batch.total_rows
        if quantities.divergence_BT is not None:
            ratio_BT = (quantities.logp_BT.detach() - batch.old_logp_BT).exp().clamp(max=self.max_ratio)
            distilled_BT = batch.weighed(ratio_BT * quantities.weight_BT * quantities.divergence_BT)
            loss_BT = loss_BT.where(~routed_B1, distilled_BT)
            metrics["divergence"] = (distilled_BT.detach() * routed_B1 * batch.mask_BT).sum() / batch.total_tokens
        return (loss_BT * batch.mask_BT).sum() / batch.total_tokens, metrics
