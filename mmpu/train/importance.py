"""What the sampler recorded, beside the trainer's own old log-probabilities.

Ratios compare the trainer with itself: at a rollout's first update they are 1 whatever computed the sampler's numbers,
in whichever type. Where the sampler found a token less or more likely than the trainer did, the token counts with

    w_t = min(cap, p_old(y_t) / p_sampler(y_t))

a truncated importance weight (TIS). How far the two are apart is measured at every update.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmpu.learning import Batch

GREATEST = "sampler_gap_max"
"""The one diagnostic that is a maximum, not a sum."""
ADVICE = "the sampler computes otherwise than the trainer: look at its weights, type, template and temperature"
ADVISED = {"sampler_gap": ADVICE, "sampler_kl": ADVICE}


def against(batch: Batch, old_BT: Tensor, cap: float | None) -> tuple[Batch, dict[str, Tensor]]:
    """The batch with the trainer's old log-probabilities in the place of the sampler's, and the weights of its tokens;
    mean and greatest |log p_old − log p_sampler|, and an estimate of KL(p_sampler ‖ p_old), in nats per token.

    Args:
        cap: None counts all tokens alike.
    """
    assert batch.old_logp_BT is not None
    gap_BT = (old_BT - batch.old_logp_BT) * batch.mask_BT
    weight_BT = gap_BT.exp()
    found = {
        "sampler_gap": gap_BT.abs().sum() / batch.total_tokens,
        "sampler_kl": (weight_BT - 1 - gap_BT).sum() / batch.total_tokens,
        GREATEST: gap_BT.abs().max(),
    }
    weight = None if cap is None else weight_BT.clamp(max=cap)
    own = replace(batch, old_logp_BT=old_BT, sampled_logp_BT=batch.old_logp_BT, importance_BT=weight)
    return own, found
