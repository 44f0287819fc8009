"""PBSD (arXiv 2605.05040): prefer what the privileged self would say to what the student says.

    y⁺ ~ π_T(· | x, c),  y⁻ ~ p_θ(· | x);  π_T the stage's start with the solution c in its prompt
    m = β { [log p_θ(y⁺|x) − log π_T(y⁺|x,c)] − [log p_θ(y⁻|x) − log π_T(y⁻|x,c)] },   loss = mean −log σ(m)
    gradient: −β σ(−m) [∇ log p_θ(y⁺|x) − ∇ log p_θ(y⁻|x)]                                        (Eq. 12)

The teacher reads another prompt than the student, so this is not DPO with a swapped reference. The population update
comes to rest at p_θ = π_T, for every β; the paper gives no β, prompt, top-p or top-k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from mmpu.core import Group, Sample
from mmpu.knobs import Count, Positive
from mmpu.learning import Batch, Method, Quantities, Row, Shadow, given_pair
from mmpu.losses import pair_weights, seq_mean, seq_sum, sigmoid_pair_loss
from mmpu.prompts import template_path, with_solution

PROMPT = Path(__file__).with_name("opsd.txt")
"""The paper's own wording is unknown; it says that it follows OPSD."""
BETA = {"sum": 0.1, "mean": 2.0}


@dataclass(frozen=True)
class PBSD(Method):
    loglik: Literal["sum", "mean"] = "sum"
    """Sequence log-likelihoods, or their mean per token."""
    beta: Positive | None = None
    """None takes 0.1 for sums and 2.0 for means."""
    pairs: Literal["sampled", "data"] = "sampled"
    """`data` takes the two answers that a row holds (`format: preference`) in the place of what the two selves say."""
    refresh_every: Count | None = None
    """Steps after which the student's weights become the teacher's; None keeps the stage's start."""
    privileged: Literal["reference", "anchor"] = "reference"
    """What the teacher is shown: the task's reference, or the answer of the run's `teacher`."""
    prompt: str | None = None
    """A Jinja file with `question` and `solution`; default: opsd.txt beside this file."""
    max_privileged: Count = 20_000
    """Longest solution in characters; a longer one loses its beginning."""

    @property
    def needs(self) -> frozenset[str]:
        pairs = {"pair"} if self.pairs == "data" else {"responses", "teacher_responses"}
        needs = {*pairs, "context", "teacher_logp"}
        return frozenset(needs | ({"anchor"} if self.privileged == "anchor" else set[str]()))

    @property
    def shadow(self) -> Shadow:
        return Shadow("copy", every=self.refresh_every) if self.refresh_every else Shadow("start")

    def context(self, group: Group) -> Sample:
        solution = group.anchor if self.privileged == "anchor" else group.sample.reference
        template = template_path(self.prompt, PROMPT)
        return with_solution(group.sample, template, solution, self.max_privileged, self.privileged)

    def supervise(self, group: Group) -> list[Row]:
        """y⁺ and y⁻ of each pair; a pair of equal responses teaches nothing and is left out."""
        if self.pairs == "data":
            return given_pair(group)
        rows: list[Row] = []
        for better, worse in zip(group.teacher_responses, group.responses, strict=False):
            if better.tokens != worse.tokens:
                rows.append(Row(group.sample, better, context=group.context, beats=(len(rows) + 1,)))
                rows.append(Row(group.sample, worse, -1.0, context=group.context))
        return rows

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert quantities.teacher_logp_BT is not None
        assert batch.pairs_P2 is not None
        reduce = seq_sum if self.loglik == "sum" else seq_mean
        beta = self.beta if self.beta is not None else BETA[self.loglik]
        gain_B = reduce(quantities.logp_BT - quantities.teacher_logp_BT, batch.mask_BT)
        better_P, worse_P = batch.pairs_P2.unbind(1)
        margin_P = beta * (gain_B[better_P] - gain_B[worse_P])
        weight_P = pair_weights(batch.pairs_P2, batch.group_B, batch.groups).to(margin_P) / batch.total_groups
        seen_P = margin_P.detach()
        return (weight_P * sigmoid_pair_loss(margin_P)).sum(), {
            "margin": (weight_P * seen_P).sum(),
            "pair_weight": (weight_P * (-seen_P).sigmoid()).sum(),
            "saturated_pairs": (weight_P * (seen_P.abs() > 5)).sum(),
            "pair_accuracy": (weight_P * (seen_P > 0)).sum(),
        }
