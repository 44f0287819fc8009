"""Supervised fine-tuning on the teacher's answer: −log p(a | x), completion tokens only unless told otherwise, end of
sequence included where the teacher came to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmpu.core import Group
from mmpu.learning import Batch, Method, Quantities, Row


@dataclass(frozen=True)
class SFT(Method):
    reduction: Literal["token_mean", "seq_sum"] = "token_mean"
    """`token_mean` over the step's tokens is the practical default; `seq_sum` is the literal sequence likelihood."""
    style: Literal["completion_only", "opsd_compat"] = "completion_only"
    """`opsd_compat` trains on the prompt's tokens too, as OPSD's script does; its first release also applied no chat
    template: `student.template: completion`."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"})

    def supervise(self, group: Group) -> list[Row]:
        return [Row(group.sample, group.taught, whole=self.style == "opsd_compat")]

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        nll = -(quantities.logp_BT * batch.mask_BT).sum()
        loss = nll / (batch.total_tokens if self.reduction == "token_mean" else batch.total_rows)
        return loss, {"nll_per_token": nll.detach() / batch.total_tokens}
