"""Pure tensor functions that losses are made of. Everything is float32 or better; nothing knows a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpu.learning import Batch, Quantities

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over processes."""
Aggregation = Literal["seq_mean_token_mean", "token_mean", "token_mean_micro", "fixed_len"]
KL = Literal["k2", "k3", "k3+", "full", "none"]
"""How the KL to the stage's start enters a loss: an estimate from sampled tokens, or exact over the vocabulary."""


def seq_sum(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Σ_t over the tokens of each row, (B,)."""
    return (values_BT * mask_BT).sum(1)


def seq_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Σ_t / max(T_y, 1), (B,)."""
    return seq_sum(values_BT, mask_BT) / mask_BT.sum(1).clamp(min=1)


def group_sum(values_B: Tensor, group_B: Tensor, groups: int) -> Tensor:
    """Sums rows of the same group, (G,)."""
    return values_B.new_zeros(groups).index_add(0, group_B, values_B)


def group_log_softmax(z_B: Tensor, group_B: Tensor, groups: int) -> Tensor:
    """log softmax of z within each group, (B,)."""
    top_G = z_B.detach().new_full((groups,), float("-inf"))
    top_G = top_G.scatter_reduce(0, group_B, z_B.detach(), "amax")
    shifted_B = z_B - top_G[group_B]
    return shifted_B - group_sum(shifted_B.exp(), group_B, groups).log()[group_B]


def label_distribution(scores_K: Tensor, anchor_score: float, gamma: float, tau: float) -> Tensor:
    """log D of Eq. 2 of PU-RLD: D(k) = softmax_k(log σ(γ r_k) + r_k / τ), r_k = s_k − s*.

    Stays in log space throughout: neither σ nor exp(r / τ) is ever formed, so margins of any size are safe.
    """
    margin_K = scores_K - anchor_score
    return torch.log_softmax(logsigmoid(gamma * margin_K) + margin_K / tau, 0)


def kl_per_token(form: str, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """KL(p_θ ‖ p_ref) on sampled tokens, r = log p_θ − log p_ref.

    Differentiated as a loss, on-policy: `k1` has zero expected gradient (use it as a detached reward penalty only),
    `k2` = r²/2 the right one, `k3` = e^−r − 1 + r that of KL(p_ref ‖ p_θ); `k3+` has the value of k3 and the gradient
    of k2.
    """
    r = logp - ref_logp
    if form == "k1":
        return r
    if form == "k2":
        return r.square() / 2
    k3 = torch.expm1(-r) + r
    if form == "k3":
        return k3
    if form == "k3+":
        k2 = r.square() / 2
        return k2 + (k3 - k2).detach()
    raise ValueError(f"no KL estimator {form!r}; there is: k1, k2, k3, k3+")


def kl_to_start(form: KL, quantities: Quantities) -> Tensor:
    """KL(p_θ ‖ p_ref) of each token, (B, T): estimated from log-probabilities, or as `full` measured it."""
    if form == "full":
        assert quantities.divergence_BT is not None
        return quantities.divergence_BT
    assert quantities.ref_logp_BT is not None
    return kl_per_token(form, quantities.logp_BT, quantities.ref_logp_BT)


def sigmoid_pair_loss(margin_P: Tensor) -> Tensor:
    """−log σ(m) of each pair, (P,); its gradient by m is −σ(−m)."""
    return -logsigmoid(margin_P)


def clipped_surrogate(
    ratio_BT: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None
) -> tuple[Tensor, Tensor]:
    """−min(ρ A, clip(ρ, 1 − low, 1 + high) A), and where the clip took the gradient away.

    Args:
        advantage: (B, 1) or (B, T).
        dual: Bounds the loss of negative advantages at −dual · A (dual-clip PPO); None leaves it unbounded.
    """
    advantage_BT = advantage.expand_as(ratio_BT)
    plain_BT = ratio_BT * advantage_BT
    clipped_BT = ratio_BT.clamp(1 - low, 1 + high) * advantage_BT
    gain_BT = torch.minimum(plain_BT, clipped_BT)
    cut_BT = clipped_BT < plain_BT
    if dual is not None:
        floor_BT = dual * advantage_BT
        bounded_BT = (advantage_BT < 0) & (floor_BT > gain_BT)
        gain_BT = torch.where(bounded_BT, floor_BT, gain_BT)
        cut_BT = cut_BT | bounded_BT
    return -gain_BT, cut_BT


def group_advantages(scores_K: Tensor, std: str, eps: float = 1e-4, min_std: float = 0.0) -> Tensor:
    """A_i = (r_i − mean r) / (std r + eps) over one group, (K,); exactly zero where all scores are equal.

    Args:
        std: `sample` (n − 1), `population` (n), or `none` and `batch`, which leave the difference as it is here.
        min_std: Least divisor, against the noise of nearly equal scores.
    """
    centred_K = scores_K - scores_K.mean()
    if std in ("none", "batch"):
        return torch.where(scores_K.max() - scores_K.min() < 1e-8, torch.zeros_like(centred_K), centred_K)
    spread = scores_K.std(correction=1 if std == "sample" else 0)
    if spread < 1e-8:
        return torch.zeros_like(centred_K)
    return centred_K / (spread + eps).clamp(min=min_std)


def gae(reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, discount: float, lam: float) -> Tensor:
    """Generalised advantages A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t, V = 0 after the last token, (B, T).

    `value_BT` at t is the value of the state before token t; rows are right-padded.
    """
    value_BT, reward_BT = value_BT * mask_BT, reward_BT * mask_BT
    following_BT = torch.cat([value_BT[:, 1:], torch.zeros_like(value_BT[:, :1])], 1)
    delta_BT = reward_BT + discount * following_BT - value_BT
    carried_B = torch.zeros_like(delta_BT[:, 0])
    columns: list[Tensor] = []
    for t in reversed(range(delta_BT.shape[1])):
        carried_B = delta_BT[:, t] + discount * lam * carried_B
        columns.append(carried_B)
    return torch.stack(columns[::-1], 1) * mask_BT


def overlong_penalty(length: int, longest: int, buffer: int, factor: float = 1.0) -> float:
    """DAPO's soft punishment, 0 up to longest − buffer tokens, −factor at longest and beyond, linear between."""
    beyond = (length - (longest - buffer)) / buffer
    return -factor * min(max(beyond, 0.0), 1.0)


def aggregate(loss_BT: Tensor, mask_BT: Tensor, how: Aggregation, batch: Batch, max_length: int = 0) -> Tensor:
    """This batch's share of the step's loss.

    `seq_mean_token_mean`: mean over rows of the mean over tokens (GRPO). `token_mean`: mean over all tokens of the step
    (DAPO). `token_mean_micro`: over those of this batch, which then counts by its groups. `fixed_len`: every row
    divided by `max_length` (Dr. GRPO).
    """
    if how == "seq_mean_token_mean":
        return seq_mean(loss_BT, mask_BT).sum() / batch.total_rows
    loss = (loss_BT * mask_BT).sum()
    if how == "token_mean":
        return loss / batch.total_tokens
    if how == "fixed_len":
        return loss / (batch.total_rows * max_length)
    return loss / mask_BT.sum().clamp(min=1) * batch.groups / batch.total_groups


def pair_weights(pairs_P2: Tensor, group_B: Tensor, groups: int) -> Tensor:
    """1 / (pairs of the same group) for each pair, (P,)."""
    group_P = group_B[pairs_P2[:, 0]]
    size_G = group_sum(torch.ones_like(group_P, dtype=torch.float64), group_P, groups)
    return 1 / size_G[group_P]


def total_std(values_N: Tensor, total: Total) -> Tensor:
    """Sample standard deviation over all processes' values, in two passes, so that no digits cancel."""
    count = total(torch.tensor(float(len(values_N)), dtype=torch.float64, device=values_N.device))
    mean = total(values_N.double().sum()) / count
    return (total((values_N.double() - mean).square().sum()) / (count - 1).clamp(min=1)).sqrt().to(values_N)
