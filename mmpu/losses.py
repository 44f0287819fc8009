"""Pure tensor functions that losses are made of. Everything is float32 or better; nothing knows a model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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
