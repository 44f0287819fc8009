"""Full-vocabulary divergences between a teacher's and a student's next-token distributions (GKD's convention).

    β = 0: KL(T ‖ S), forward      β = 1: KL(S ‖ T), reverse
    else:  JSD_β = β KL(T ‖ M) + (1 − β) KL(S ‖ M),   M = (1 − β) S + β T

The interior is no interpolation of strength: JSD_β / β → KL(T ‖ S) as β → 0, so β = 1e-4 is 10⁴ times weaker than 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmpu.learning import Divergence

FLOOR = -1e4
"""Stands for log 0: its exponential is 0 in every dtype, and 0 · FLOOR is no NaN."""


REVERSE = Divergence(1.0)
"""KL(S ‖ T) over the whole vocabulary: the exact form of a KL to the stage's start."""


def log_softmax(logits_NV: Tensor) -> Tensor:
    """log softmax over the vocabulary, bounded below so that banned tokens stay harmless."""
    return logits_NV.log_softmax(1).clamp(min=FLOOR)


def divergence(student_NV: Tensor, teacher_NV: Tensor, form: Divergence) -> Tensor:
    """Divergence of each token, (N,), from log-probabilities; the teacher's carry no gradient."""
    teacher_NV = teacher_NV.detach()
    if 0 < form.top_k < student_NV.shape[1]:
        student_NV, teacher_NV = _restrict(student_NV, teacher_NV, form)
    terms_NV = _terms(student_NV, teacher_NV, form.beta)
    if form.clip is not None and form.clip_what == "entry":
        terms_NV = terms_NV.clamp(max=form.clip)
    sum_N = terms_NV.sum(1)
    return sum_N.clamp(max=form.clip) if form.clip is not None and form.clip_what == "token" else sum_N


def _terms(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    if beta == 0:
        return teacher_NV.exp() * (teacher_NV - student_NV)
    if beta == 1:
        return student_NV.exp() * (student_NV - teacher_NV)
    mixed_NV = torch.logaddexp(student_NV + math.log1p(-beta), teacher_NV + math.log(beta))
    to_teacher = teacher_NV.exp() * (teacher_NV - mixed_NV)
    return beta * to_teacher + (1 - beta) * student_NV.exp() * (student_NV - mixed_NV)


def _restrict(student_NV: Tensor, teacher_NV: Tensor, form: Divergence) -> tuple[Tensor, Tensor]:
    """Both on the likeliest tokens of one of them, renormalised or with a bucket for the rest."""
    chooser = teacher_NV if form.top_k_of == "teacher" else student_NV.detach()
    index_NK = chooser.topk(form.top_k, 1).indices
    parts = [logp.gather(1, index_NK) for logp in (student_NV, teacher_NV)]
    if form.tail:
        student_NK, teacher_NK = (torch.cat([p, _log_rest(p)], 1) for p in parts)
    else:
        student_NK, teacher_NK = (p.log_softmax(1) for p in parts)
    return student_NK, teacher_NK


def _log_rest(logp_NK: Tensor) -> Tensor:
    """log(1 − Σ p), (N, 1); where rounding leaves nothing, the smallest mass that float32 tells from none."""
    rest_N1 = 1 - logp_NK.exp().sum(1, keepdim=True)
    return rest_N1.clamp(min=torch.finfo(torch.float32).eps).log()
