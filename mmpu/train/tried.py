"""What was seen of one way to read an evaluator: a row, how it is measured, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmpu.core import NAN
from mmpu.readings import Read
from mmpu.statistics import auc
from mmpu.train.cases import Case

FEW = 4
"""Prompts with a second answer, or pairs of a right and a wrong sample in one group, below which nothing is judged."""
RESAMPLES = 1000
Scores = tuple[Read, ...]


@dataclass(frozen=True)
class Tried:
    """What was seen of one way, a row of the table."""

    name: str
    copies: bool = False
    prompts: int = 0
    """How many it was tried on in the search, and in a row that is confirmed, of the other part."""
    mass: float = NAN
    """Median probability on the options."""
    auc: float = NAN
    """Anchors against other prompts' anchors, over all."""
    low: float = NAN
    """Of the AUC's 95% interval, by resampling prompts; so is `high`."""
    high: float = NAN
    altered: float = NAN
    """The right text against its altered self, within prompts."""
    second: float = NAN
    """Second answers against other prompts' anchors, over all."""
    graded: float = NAN
    """Right samples of the student against wrong ones, within prompts; reported, and used where nothing else can be."""
    spread: float = NAN
    """Standard deviation of the scores of all these texts."""
    tokens: float = NAN
    """Per text graded, through the model."""
    reason: str = ""
    """Why it cannot be taken."""

    @property
    def decisive(self) -> float:
        """The AUC that it is judged by."""
        if not self.copies:
            return self.auc
        return self.second if not math.isnan(self.second) else self.graded

    @property
    def value(self) -> float:
        rest = self.altered if not math.isnan(self.altered) else self.decisive
        return (self.decisive + rest) / 2

    @property
    def rank(self) -> float:
        return -math.inf if self.reason or math.isnan(self.value) else self.value


def measured(row: Tried, cases: Sequence[tuple[Case, Scores]]) -> Tried:
    """The row with the AUCs of these cases, none of which is unread."""
    own = np.array([reads[0].score for _, reads in cases])
    other = np.array([reads[1].score for _, reads in cases])
    second = [(reads[3].score, reads[1].score) for case, reads in cases if case.right]
    hard = [(reads[case.right].score, reads[case.right + (1 if case.right else 2)].score) for case, reads in cases]
    if row.copies:
        hard = [pair for pair, (case, _) in zip(hard, cases, strict=True) if case.right]
    decisive = np.array(second).T if row.copies and len(second) >= FEW else np.array([own, other])
    low, high = interval(*decisive)
    return replace(
        row,
        auc=auc(own.tolist(), other.tolist()),
        low=low,
        high=high,
        altered=float(np.mean([(a > b) + 0.5 * (a == b) for a, b in hard])) if hard else NAN,
        second=auc(*zip(*second, strict=True)) if len(second) >= FEW else NAN,
        spread=float(np.std([read.score for _, reads in cases for read in reads])),
    )


def interval(right: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """95% of the AUC, prompts resampled with both of their texts. Where every pair is told apart it has no width."""
    draws = np.random.default_rng(0).integers(len(right), size=(RESAMPLES, len(right)))
    found = [auc(right[draw].tolist(), wrong[draw].tolist()) for draw in draws]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def gaps(cases: Sequence[Case], reads: Mapping[int, Scores], second: bool) -> np.ndarray:
    """Right minus wrong text of each case that has both, read."""
    found: list[float] = []
    for case in cases:
        if second and not case.right:
            continue
        r = reads[case.number]
        place = case.right if second else 0
        found += [r[place].score - r[1].score, r[place].score - r[place + (1 if place else 2)].score]
    gaps = np.array(found)
    return gaps[~np.isnan(gaps)]


HEADER = ("reading", "prompts", "mass", "AUC", "95%", "altered", "second", "graded", "spread", "tokens", "")


def cells(row: Tried) -> tuple[str, ...]:
    def number(value: float, form: str = ".2f") -> str:
        return "–" if math.isnan(value) else format(value, form)

    bounds = "–" if math.isnan(row.low) else f"[{row.low:.2f}, {row.high:.2f}]"
    values = (number(row.mass), number(row.auc), bounds, number(row.altered), number(row.second), number(row.graded))
    return (row.name, str(row.prompts), *values, number(row.spread, ".3f"), number(row.tokens, ".0f"), row.reason)


def line(row: Tried) -> str:
    """A row in words."""
    named = [f"{n} {v}" for n, v in zip(HEADER[1:-1], cells(row)[1:-1], strict=True) if v != "–" and n != "95%"]
    return f"{row.name}: " + (row.reason or ", ".join(named))
