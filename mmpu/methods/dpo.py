"""DPO (arXiv 2305.18290) on pairs of the student's candidates, of the anchor and a candidate, or of the data set's own.

    loss = mean over prompts, over their pairs, of −log σ( β [(log p_θ − log p_ref)(y_w) − (log p_θ − log p_ref)(y_l)] )

Log-probabilities are sums over a sequence; the reference is the stage's start. With `pairs: anchor_vs_sample` this is
SinglePair-DPO, with others AnchorRank-DPO, the baselines of PU-RLD (arXiv 2601.20687), whose paper does not say which
pairs it forms; with `pairs: data` it is DPO as published, on the rows' own chosen and rejected answers. Candidates come
from the stage's start, drawn once per prompt, unless `refresh_every` is set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmpu.core import Group, UserError
from mmpu.knobs import Count, NotNegative, Positive
from mmpu.learning import Batch, Method, Quantities, Row, Shadow, given_pair
from mmpu.losses import pair_weights, seq_sum, sigmoid_pair_loss


@dataclass(frozen=True)
class DPO(Method):
    pairs: Literal["all_ordered", "best_worst", "top_vs_rest", "anchor_vs_sample", "data"] = "all_ordered"
    """`all_ordered`: every two candidates whose scores differ. `anchor_vs_sample` needs no scores, `data` nothing but a
    task whose rows hold pairs (`format: preference`)."""
    beta: Positive = 0.1
    """Weight of the log-ratio to the reference in the margin."""
    delta: NotNegative = 0.0
    """A pair's scores differ by more than this; ties give no pair."""
    max_pairs: Count | None = None
    """Largest margins first, then the order of sampling."""
    include_anchor: bool = False
    """Also prefer the anchor to every candidate that scores below it."""
    refresh_every: Count | None = None
    """Steps after which candidates come from the student as it is then; None keeps the stage's start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs == "anchor_vs_sample" and self.include_anchor:
            raise UserError("dpo: `include_anchor` is for pairs of candidates; anchor_vs_sample has the anchor in all")
        if self.pairs == "data" and (self.include_anchor or self.refresh_every):
            raise UserError(
                "dpo: `include_anchor` and `refresh_every` are for candidates, which `pairs: data` has none of"
            )

    @property
    def needs(self) -> frozenset[str]:
        if self.pairs == "data":
            return frozenset({"pair", "reference"})
        needs = {"responses", "reference"}
        if self.pairs == "anchor_vs_sample":
            return frozenset(needs | {"anchor"})
        return frozenset(needs | {"scores"} | ({"anchor", "anchor_score"} if self.include_anchor else set[str]()))

    @property
    def listwise(self) -> bool:
        return self.pairs not in ("anchor_vs_sample", "data") and not self.include_anchor

    @property
    def shadow(self) -> Shadow | None:
        if self.pairs == "data":
            return None
        return Shadow("copy", every=self.refresh_every) if self.refresh_every else Shadow("start")

    @property
    def offline(self) -> bool:
        return self.pairs != "data"

    def supervise(self, group: Group) -> list[Row]:
        """One row per response that stands in a pair, however many it stands in."""
        responses = list(group.responses)
        if self.pairs == "data":
            return given_pair(group)
        if self.pairs == "anchor_vs_sample":
            anchor = group.taught
            responses = [anchor, *responses]
            found = [(0, i, 1.0) for i, r in enumerate(responses) if i and r.raw.strip() != anchor.raw.strip()]
        else:
            found = self._ranked(group.scores)
            if self.include_anchor and group.anchor is not None:
                anchor = len(responses)
                responses.append(group.taught)
                margins = [(i, group.anchor_score - score) for i, score in enumerate(group.scores)]
                found += [(anchor, i, margin) for i, margin in margins if margin > self.delta]
        found = sorted(found, key=lambda pair: -pair[2])[: self.max_pairs]
        used = sorted({index for better, worse, _ in found for index in (better, worse)})
        place = {index: n for n, index in enumerate(used)}
        beats = {i: tuple(place[worse] for better, worse, _ in found if better == i) for i in used}
        scores = dict(enumerate(group.scores)) if "scores" in self.needs else {}
        return [Row(group.sample, responses[i], score=scores.get(i, group.anchor_score), beats=beats[i]) for i in used]

    def _ranked(self, scores: tuple[float, ...]) -> list[tuple[int, int, float]]:
        """Pairs of candidates: better, worse, margin."""
        known = [i for i, score in enumerate(scores) if not math.isnan(score)]
        pairs = [(i, j, scores[i] - scores[j]) for i in known for j in known if scores[i] - scores[j] > self.delta]
        if self.pairs == "all_ordered" or not pairs:
            return pairs
        best = max(known, key=lambda i: scores[i])
        if self.pairs == "top_vs_rest":
            return [pair for pair in pairs if pair[0] == best]
        worst = min(known, key=lambda i: scores[i])
        return [(best, worst, scores[best] - scores[worst])]

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert quantities.ref_logp_BT is not None
        assert batch.pairs_P2 is not None
        z_B = seq_sum(quantities.logp_BT, batch.mask_BT)
        gain_B = z_B - seq_sum(quantities.ref_logp_BT, batch.mask_BT)
        better_P, worse_P = batch.pairs_P2.unbind(1)
        margin_P = self.beta * (gain_B[better_P] - gain_B[worse_P])
        weight_P = pair_weights(batch.pairs_P2, batch.group_B, batch.groups).to(margin_P) / batch.total_groups
        loss = (weight_P * sigmoid_pair_loss(margin_P)).sum()
        seen_P, z_B = margin_P.detach(), z_B.detach()
        return loss, {
            "margin": (weight_P * seen_P).sum(),
            "pair_accuracy": (weight_P * (seen_P > 0)).sum(),
            "logp_chosen": (weight_P * z_B[better_P]).sum(),
            "logp_rejected": (weight_P * z_B[worse_P]).sum(),
        }
