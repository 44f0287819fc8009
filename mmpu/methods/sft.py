"""Supervised fine-tuning on the teacher's answer: −log p(a | x), completion tokens only unless told otherwise, end of
sequence included where the teacher came to one.

Of a whole conversation (`train_on: assistant`) every turn of the assistant's is an answer to the turns before it, each
rendered as it would be asked: what a template makes of a turn that others follow, such as leaving out its thoughts, is
not what a model has to say there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from mmpu.chats import said_by
from mmpu.core import Group, Response, Sample, UserError
from mmpu.learning import Batch, Method, Quantities, Row


@dataclass(frozen=True)
class SFT(Method):
    reduction: Literal["token_mean", "seq_sum"] = "token_mean"
    """`token_mean` over the step's tokens is the practical default; `seq_sum` is the literal sequence likelihood."""
    style: Literal["completion_only", "opsd_compat"] = "completion_only"
    """`opsd_compat` trains on the prompt's tokens too, as OPSD's script does; its first release also applied no chat
    template: `student.template: completion`."""

    train_on: Literal["last", "assistant", "all"] = "last"
    """`last`: the answer. `assistant`: also the assistant's turns in the prompt, but for those that their row marks
    with `loss: false` or `weight: 0`. `all`: every token of the conversation, as `style: opsd_compat`."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"})

    def supervise(self, group: Group) -> list[Row]:
        sample, whole = group.sample, self.style == "opsd_compat" or self.train_on == "all"
        if whole and (untrained := [m for m in sample.prompt if not m.trained]):
            raise UserError(
                f"sample {sample.id!r}: {len(untrained)} turns are marked as not to be trained on, and all tokens are; "
                "take `train_on: assistant`"
            )
        turns = earlier_turns(sample) if self.train_on == "assistant" else []
        return [*turns, Row(sample, group.taught, whole=whole)]

    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        nll = -(quantities.logp_BT * batch.mask_BT).sum()
        loss = nll / (batch.total_tokens if self.reduction == "token_mean" else batch.total_rows)
        return loss, {"nll_per_token": nll.detach() / batch.total_tokens}


def earlier_turns(sample: Sample) -> list[Row]:
    """What the assistant said within a prompt, each turn as an answer to those before it."""
    turns = [n for n, message in enumerate(sample.prompt) if n and message.role == "assistant" and message.trained]
    return [Row(replace(sample, prompt=sample.prompt[:n]), Response(said_by(sample.prompt[n]))) for n in turns]
