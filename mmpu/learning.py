"""The vocabulary of learning: what a method makes of a scored group, and what its loss may look at.

    Group ─Method.supervise→ Rows ─Student→ Quantities ─Method.loss→ update

As `core.py`, this imports no torch. Its legend of shape suffixes holds here too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmpu.core import NAN, Group, Response, Sample, UserError, hold

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One response to train on. Rows of a group stay adjacent from here to the loss."""

    sample: Sample
    response: Response
    weight: float = 1.0
    """What the method wants of this row: the target probability D(k), an advantage, a sign."""
    group: int = 0
    score: float = NAN
    """The scorer's view of the response, where a loss needs more than the weight made of it."""
    context: Sample | None = None
    """The prompt under which the method's teacher reads this response; None if it does not."""
    beats: tuple[int, ...] = ()
    """Rows of the same group, by index, that this one is preferred to."""
    part: int = 0
    """Part of the step whose loss this row counts in."""
    whole: bool = False
    """Train on the prompt's tokens too, all but the first, which nothing predicts."""


def given_pair(group: Group) -> list[Row]:
    """The two answers that a sample of a preference data set has, the first preferred."""
    if group.sample.pair is None:
        raise UserError(f"sample {group.sample.id!r} holds no pair of answers; `format: preference` reads them")
    better, worse = map(Response, group.sample.pair)
    context = group.context
    return [Row(group.sample, better, context=context, beats=(1,)), Row(group.sample, worse, -1.0, context=context)]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A second set of weights that a method keeps beside the student's: its teacher, or its sampler."""

    kind: Literal["start", "live", "ema", "copy", "external"] = "start"
    """`start`: the stage's start. `live`: the student itself, without gradient. `ema`: a moving average of it. `copy`:
    the student as it was every so many steps. `external`: another model that can be loaded."""
    rate: float = 0.0
    """Of `ema`: share of the student taken over at each step."""
    every: int = 0
    """Of `copy`: steps between two copies."""
    model: str = ""
    """Of `external`."""

    def __post_init__(self) -> None:
        if self.kind == "ema" and not 0 < self.rate <= 1:
            raise UserError(f"an EMA teacher needs a rate above 0, at most 1; got {self.rate}")
        if self.kind == "copy" and self.every < 1:
            raise UserError(f"a copied teacher needs `every` of at least 1 step; got {self.every}")


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which divergence, over which part of the vocabulary, in GKD's convention (`student/divergence.py`)."""

    beta: float = 0.0
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_k_of: Literal["teacher", "student"] = "teacher"
    """Whose likeliest."""
    tail: bool = False
    """Put the mass outside the top k into one bucket; without it both distributions are renormalised."""
    clip: float | None = None
    """Largest value of a term; a clipped `entry` loses its gradient, and the sum can turn negative."""
    clip_what: Literal["entry", "token"] = "token"
    """What `clip` bounds: each vocabulary entry before summing, or a token's sum."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1 or self.top_k < 0 or (self.clip is not None and self.clip <= 0):
            raise UserError(f"a divergence needs 0 <= beta <= 1, top_k >= 0 and clip > 0, got {self}")


@dataclass(frozen=True)
class Batch:
    """The rows of an update as tensors, or whole groups of them; denominators are those of the whole optimiser step."""

    mask_BT: Tensor
    """True on completion tokens; by position, never by token id."""
    weight_B: Tensor
    group_B: Tensor
    """Index of each row's group within this batch, 0 .. groups-1, non-decreasing."""
    groups: int
    """Groups in this batch."""
    old_logp_BT: Tensor | None
    """log p before the rollout's first update, as the trainer computes it; None if the method does not compare. Until a
    pass has computed it, what the sampler recorded stands here."""
    total_groups: float
    total_rows: float
    total_tokens: float
    """Global denominators, summed over micro-batches and processes."""
    score_B: Tensor | None = None
    context_B: Tensor | None = None
    """True where the teacher reads the row."""
    pairs_P2: Tensor | None = None
    """Preferred and other row of each pair, by index in this batch; pairs of a group are adjacent."""
    mean_score: float = 0.0
    """Moving average of the scores of earlier steps."""
    importance_BT: Tensor | None = None
    """How much each token counts where the sampler found it less or more likely than the trainer; None: all alike."""
    sampled_logp_BT: Tensor | None = None
    """What the sampler recorded, where `old_logp_BT` is the trainer's."""

    def weighed(self, loss_BT: Tensor) -> Tensor:
        """Losses of tokens, each by its importance."""
        return loss_BT if self.importance_BT is None else loss_BT * self.importance_BT


@dataclass(frozen=True)
class Quantities:
    """What a loss may look at: per-token quantities of the rows, never the model."""

    logp_BT: Tensor
    """log p_theta, float32 (float64 where weights are), zero at padding; carries a gradient, as `divergence_BT` and
    `value_BT` do."""
    ref_logp_BT: Tensor | None = None
    """log p_ref of the stage's starting weights, for methods that need `reference`."""
    divergence_BT: Tensor | None = None
    """Between the teacher's and the student's next-token distributions, as `Method.divergence` says."""
    value_BT: Tensor | None = None
    """The value head's view of the state before each token."""
    old_value_BT: Tensor | None = None
    """The same before the rollout's first update."""
    teacher_logp_BT: Tensor | None = None
    """log p_teacher of the same tokens under the row's context."""
    teacher_entropy_BT: Tensor | None = None
    """Entropy of the teacher's full next-token distribution, nats."""
    weight_BT: Tensor | None = None
    """What `Method.prepare` made for the whole step."""


class Method(ABC):
    """A training method: what to train on, and the loss as a pure function of per-token quantities."""

    def __post_init__(self) -> None:
        hold(self, type(self).__module__.rpartition(".")[2])

    @property
    def needs(self) -> frozenset[str]:
        """What is made for the method, and no more.

        Of a sample: "pair", two answers of the data's own. Of a group: "anchor", "responses", "scores",
        "anchor_score", "context" (the privileged teacher's prompt, see `context`), "teacher_responses". Of tokens:
        "reference", "old_logp", "teacher_logp", "teacher_entropy", "value".
        """
        return frozenset()

    @property
    def listwise(self) -> bool:
        """True if one response per prompt teaches nothing."""
        return False

    @property
    def shadow(self) -> Shadow | None:
        """The second set of weights: who answers as `teacher_*` and `divergence`, and who samples if `offline`."""
        return None

    @property
    def offline(self) -> bool:
        """True if the shadow samples the candidates, not the student."""
        return False

    @property
    def divergence(self) -> Divergence | None:
        """How `Quantities.divergence_BT` is measured; None if it is not needed."""
        return None

    @property
    def refill(self) -> int:
        """Generation batches a step may take until it is full of groups with something to teach; 0 trains on what
        there is."""
        return 0

    @property
    def reads_old(self) -> bool:
        """True if `prepare` reads old log-probabilities, which are then measured before the first update."""
        return False

    @property
    def tempered(self) -> bool:
        """True if log-probabilities and divergences are taken at the sampling temperature, as ratios and distillation
        want; sequence likelihoods are taken at 1."""
        return "old_logp" in self.needs or self.divergence is not None

    def context(self, group: Group) -> Sample | None:
        """The teacher's prompt, known before sampling. Pure.

        Raises:
            UserError: the sample lacks what the teacher should be shown.
        """
        return None

    @abstractmethod
    def supervise(self, group: Group) -> list[Row]:
        """The rows to train on; empty if the group has nothing to teach. Pure."""

    def prepare(self, quantities: Quantities, batch: Batch, total: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Per-token weights (B, T) that depend on the whole step, made once per rollout, without gradient.

        Args:
            quantities: Of all rows of this process; `logp_BT` is the trainer's where `reads_old`, else the sampler's.
            total: Sums a tensor over processes.
        """
        return None

    @abstractmethod
    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's share of the step's loss, and diagnostics normalised so that shares add up."""
