"""OPSD, on-policy self-distillation (baseline of arXiv 2605.05040): the student's own words, weighed by itself with
the solution in its prompt.

    y ~ p_θ(· | x);   loss = mean over tokens of D( π_T(· | x, c, y_<t) ‖ p_θ(· | x, y_<t) ),   full vocabulary

The divergence follows GKD's convention (`mmpu/student/divergence.py`); both sides are taken at the sampling
temperature, and the gradient goes through the student's side alone, not through sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mmpu.core import Group, Sample, UserError
from mmpu.knobs import Count, CountOrZero, Positive, Rate, Ratio, Share
from mmpu.learning import Batch, Divergence, Method, Quantities, Row, Shadow
from mmpu.losses import Aggregation, aggregate
from mmpu.prompts import template_path, with_solution

PROMPT = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class OPSD(Method):
    beta: Share = 0.0
    """0 forward KL(T ‖ S), 1 reverse KL(S ‖ T), between: generalised JSD."""
    clip: Positive | None = None
    """Largest value of a term."""
    clip_what: Literal["entry", "token"] = "entry"
    """`entry` bounds each vocabulary entry, as the released code does: the sum may turn negative and its gradient point
    away from the teacher. `token` bounds a token's sum."""
    top_k: CountOrZero = 0
    """Compare on the teacher's k likeliest tokens, both renormalised; 0 compares on all."""
    aggregation: Aggregation = "token_mean"
    """How losses of tokens become one."""
    skip_first: CountOrZero = 0
    """First tokens of a response that are left out of the loss."""
    max_ratio: Ratio | None = None
    """Weigh each response by p_θ / p_sampler, at most this: for a sampler that is not quite the student."""
    teacher: Literal["start", "ema", "live"] = "start"
    """Whose weights read the solution."""
    ema_rate: Rate = 0.001
    """Share of the student that an EMA teacher takes over at each step."""
    privileged: Literal["reference", "anchor"] = "reference"
    """What the teacher is shown: the task's reference, or the answer of the run's `teacher`."""
    prompt: str | None = None
    """A Jinja file with `question` and `solution`; default: the method's .txt beside its file."""
    max_privileged: Count = 20_000
    """Longest solution in characters; a longer one loses its beginning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation == "fixed_len":
            raise UserError(f"{type(self).__name__}: `fixed_len` is for grpo; take token_mean or seq_mean_token_mean")
        _ = self.divergence, self.shadow

    @property
    def needs(self) -> frozenset[str]:
        needs = {"responses", "context"} | ({"anchor"} if self.privileged == "anchor" else set[str]())
        return frozenset(needs | ({"old_logp"} if self.max_ratio is not None else set[str]()))

    @property
    def shadow(self) -> Shadow:
        return Shadow(self.teacher, self.ema_rate if self.teacher == "ema" else 0.0)

    @property
    def divergence(self) -> Divergence:
        return Divergence(self.beta, self.top_k, clip=self.clip, clip_what=self.clip_what)

    def context(self, group: Group) -> Sample:
        solution = group.anchor if self.privileged == "anchor" else group.sample.reference
        template = template_path(self.prompt, self._template())
        return with_solution(group.sample, template, solution, self.max_privileged, self.privileged)

    def _template(self) -> Path:
        return PROMPT

    def supervise(self, group: Group) -> list[Row]:
        return [
            Row(group.sample, r, context=group.context)
            for r in group.responses
            if len(r.tokens or ()) > self.skip_first
        ]

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert quantities.divergence_BT is not None
        read_BT = batch.mask_BT & (torch.arange(batch.mask_BT.shape[1], device=batch.mask_BT.device) >= self.skip_first)
        loss_BT = quantities.divergence_BT
        if self.max_ratio is not None:
            sampled_BT = batch.old_logp_BT if batch.sampled_logp_BT is None else batch.sampled_logp_BT
            assert sampled_BT is not None
            moved_B = ((quantities.logp_BT.detach() - sampled_BT) * batch.mask_BT).sum(1)
            loss_BT = loss_BT * moved_B.exp().clamp(max=self.max_ratio)[:, None]
        # Every row is longer than what is skipped, so the step's denominator is known without looking at its rows.
        read = replace(batch, total_tokens=batch.total_tokens - self.skip_first * batch.total_rows)
        loss = aggregate(loss_BT, read_BT, self.aggregation, read)
        return loss, {"divergence": (quantities.divergence_BT.detach() * read_BT).sum() / read.total_tokens}
