"""What every arm is held against: unpadded sequences, one at a time, through transformers' own forward, and autograd
of the loss as the paper writes it. Nothing of mmpu's packing, nothing of the arms' coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks import models
from benchmarks.arms import Arm
from benchmarks.problem import Problem, Setting, problem

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """How far an arm is from the reference, and what identifies its results."""

    logp_error: float
    """Largest relative difference of a candidate's log-likelihood."""
    gradient_error: float
    """‖g − g_ref‖ / ‖g_ref‖ over all trainable weights."""
    logp_sum: float
    gradient_norm: float

    @property
    def passed(self) -> bool:
        return self.logp_error <= TOLERANCE and self.gradient_error <= TOLERANCE  # NaN passes neither


@dataclass(frozen=True)
class Reference:
    logp: tuple[tuple[float, ...], ...]
    """Log-probability of every candidate's tokens, group after group."""
    gradients: dict[str, dict[str, Tensor]]
    """By objective and parameter."""


def reference(setting: Setting, objectives: tuple[str, ...]) -> Reference:
    """Exact results under the starting weights."""
    model = models.build(setting.shape, setting.device, setting.torch_dtype, setting.seed)
    work = problem(setting, model)
    gradients: dict[str, dict[str, Tensor]] = {}
    logp: tuple[tuple[float, ...], ...] = ()
    for objective in objectives:
        model.zero_grad(set_to_none=True)
        tokens: list[Any] = [
            checkpoint(_log_probs, model, work, b, use_reentrant=False, preserve_rng_state=False)
            for b in range(len(work.completions))
        ]
        logp = tuple(tuple(logp_T.tolist()) for logp_T in tokens)
        (_ldl if objective == "ldl" else _grpo)(work, torch.stack([logp_T.sum() for logp_T in tokens])).backward()
        gradients[objective] = {n: p.grad for n, p in models.trainable(model) if p.grad is not None}
    return Reference(logp, gradients)


def compare(arm: Arm, expected: Reference) -> Check:
    """Runs the arm once and measures its distance from the reference."""
    logp_B = arm.log_probs().double().cpu()
    true_B = torch.tensor([sum(logp) for logp in expected.logp], dtype=torch.float64)
    arm.model.zero_grad(set_to_none=True)
    arm.gradient()
    wrong = norm = size = 0.0
    true = expected.gradients[arm.objective]
    for name, parameter in models.trainable(arm.model):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wrong += float((found.double().cpu() - true[name].double().cpu()).square().sum())
        size += float(true[name].double().square().sum())
        norm += float(found.double().square().sum())
    arm.model.zero_grad(set_to_none=True)
    return Check(float(((logp_B - true_B) / true_B).abs().max()), (wrong / size) ** 0.5, float(logp_B.sum()), norm**0.5)


def _log_probs(model: Any, work: Problem, b: int) -> Tensor:
    prompt, completion = work.encoded[b // work.setting.k], work.completions[b]
    device = work.setting.device
    ids = torch.tensor([prompt.ids + completion], device=device)
    media = {
        k: v.to(device, work.setting.torch_dtype if v.is_floating_point() else None) for k, v in prompt.media.items()
    }
    if "image_grid_thw" in media:
        media["mm_token_type_ids"] = (ids == models.SPECIAL.index("<|image_pad|>")).int()
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(completion) + 1, **media).logits[0, :-1].float()
    return logits.log_softmax(1).gather(1, torch.tensor(completion, device=device)[:, None])[:, 0]


def _ldl(work: Problem, logp_B: Tensor) -> Tensor:
    """mean over prompts of KL(D ‖ q), q = softmax of sums, of means, or of what changed since sampling."""
    k, form = work.setting.k, work.setting.method.form
    lengths = torch.tensor([float(len(c)) for c in work.completions], device=logp_B.device)
    z_B = {"sum": logp_B, "mean": logp_B / lengths, "ratio": logp_B - logp_B.detach()}[form]
    d_GK = torch.tensor([[row.weight for row in rows] for rows in work.rows], device=logp_B.device)
    return (d_GK * (d_GK.log() - z_B.view(-1, k).log_softmax(1))).sum(1).mean()


def _grpo(work: Problem, logp_B: Tensor) -> Tensor:
    """On-policy GRPO, averaged over the tokens of the batch."""
    return -(work.grpo_advantages().to(logp_B.device) * logp_B).sum() / sum(map(len, work.completions))
