"""Several scorers as one: a weighted sum, or each its own share of the loss (RL-KD with a judge, arXiv 2604.02621).

    mix: reward    labelled R = Σ_i w_i s_i;   unlabelled: the same over the scorers that read no label, renormalised
    mix: loss      labelled prompts are scored by the label readers, the others by the rest;
                   L = λ L_labelled + (1 − λ) L_unlabelled, λ the label readers' share of the weights

A scorer of weight 0 is never asked, so with λ = 0 no label is read, and with λ = 1 unlabelled prompts abstain. The
source says that rewards are combined, notes on it write a sum of losses; both are here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from mmpu.core import NAN, Group, Sample, Scorer, Task, UserError
from mmpu.knobs import NotNegative
from mmpu.score import Score


@dataclass(frozen=True)
class Mix(Scorer):
    scorers: tuple[Scorer, ...]
    """The parts."""
    weights: tuple[NotNegative, ...]
    """One per scorer, not negative; divided by their sum."""
    task: Task
    labels: tuple[bool, ...] | None = None
    """Which scorers read labels, one per scorer; None asks them."""
    labelled: str | None = None
    """The split whose prompts count as labelled, such as `train[:400]`; None: every prompt with an answer."""
    mix: Literal["reward", "loss"] = "reward"
    """`reward`: one score, a weighted sum; `loss`: each its own share of the loss."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.scorers) or not sum(self.weights) or min(self.weights) < 0:
            raise UserError(
                f"scorer mix: {len(self.scorers)} scorers need as many weights, none negative, not all 0; "
                f"got {list(self.weights)}"
            )
        if self.labels is not None and len(self.labels) != len(self.scorers):
            raise UserError(
                f"scorer mix: `labels` says for each of {len(self.scorers)} scorers whether it reads labels"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*(s.needs for s, _ in self._active))

    @property
    def listwise(self) -> bool:
        return any(scorer.listwise for scorer, _ in self._active)

    @property
    def _active(self) -> list[tuple[Scorer, float]]:
        return [(s, w) for s, w in zip(self.scorers, self.weights, strict=True) if w > 0]

    @cached_property
    def _readers(self) -> tuple[bool, ...]:
        return self.labels or tuple(scorer.reads_labels for scorer in self.scorers)

    @cached_property
    def _known(self) -> frozenset[str] | None:
        return None if self.labelled is None else frozenset(s.id for s in self.task.samples(self.labelled))

    @property
    def shares(self) -> tuple[float, ...]:
        if self.mix == "reward":
            return (1.0,)
        share = sum(w for w, reads in zip(self.weights, self._readers, strict=True) if reads) / sum(self.weights)
        return (share, 1 - share)

    def part(self, sample: Sample) -> int:
        return 0 if self.mix == "reward" or self._is_labelled(sample) else 1

    @property
    def tally(self) -> Mapping[str, int]:
        return sum((Counter(scorer.tally) for scorer, _ in self._active), Counter[str]())

    def settled(self, choose: Callable[[Scorer], Scorer]) -> Scorer:
        return replace(self, scorers=tuple(scorer.settled(choose) for scorer in self.scorers))

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        reasons = [scorer.abstains(samples) for scorer, _ in self._active]
        return "; ".join(r for r in reasons if r) if all(reasons) else None

    def _is_labelled(self, sample: Sample) -> bool:
        return sample.answer is not None if self._known is None else sample.id in self._known

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """The weighted mean of the scores that a prompt may be given; one that abstains makes the mean abstain."""
        return self._mixed(groups, lambda scorer, asked: scorer.score(asked), 0)

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """s* is mixed as scores are."""

        def flat(scorer: Scorer, asked: Sequence[Group]) -> list[tuple[float, ...]]:
            return [(*scores, own) for scores, own in scorer.with_anchors(asked)]

        return [(values[:-1], values[-1]) for values in self._mixed(groups, flat, 1)]

    def _mixed(
        self, groups: Sequence[Group], ask: Callable[[Scorer, Sequence[Group]], list[tuple[float, ...]]], more: int
    ) -> list[tuple[float, ...]]:
        """Means of what `ask` gets of each scorer: per group as many numbers as responses, and `more`."""
        sums = [[0.0] * (len(group.responses) + more) for group in groups]
        total = [0.0] * len(groups)
        parts: list[list[dict[str, float]]] = [[{} for _ in values] for values in sums]
        for place, (scorer, weight, reads) in enumerate(zip(self.scorers, self.weights, self._readers, strict=True)):
            asked = [i for i, g in enumerate(groups) if weight > 0 and self._may(reads, self._is_labelled(g.sample))]
            for i, scores in zip(asked, ask(scorer, [groups[i] for i in asked]) if asked else [], strict=True):
                sums[i] = [sum_ + weight * score for sum_, score in zip(sums[i], scores, strict=True)]
                total[i] += weight
                for told, score in zip(parts[i], scores, strict=True):
                    told[self._named(place)] = score
        return [
            tuple(Score(value / weight, told) if weight else NAN for value, told in zip(values, of, strict=True))
            for values, weight, of in zip(sums, total, parts, strict=True)
        ]

    def _named(self, place: int) -> str:
        """A scorer as people know it; its place tells two of one kind apart."""
        names = [type(scorer).__name__ for scorer in self.scorers]
        return f"{names[place]} {place + 1}" if names.count(names[place]) > 1 else names[place]

    def _may(self, reads_labels: bool, labelled: bool) -> bool:
        """True if such a scorer scores such a prompt."""
        if self.mix == "loss":
            return reads_labels == labelled
        return labelled or not reads_labels
