"""What was seen of one way to read an evaluator: a row, how it is measured, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmpu.core import NAN
from mmpu.readings import Read
from mmpu.statistics import auc_limits
from mmpu.train.cases import Case

FEW = 4
"""Prompts with a second answer, or pairs of a right and a wrong sample in one group, below which nothing is judged."""
RESAMPLES = 1000
Scores = Mapping[int, Read]
"""Reads of a case's texts, by their places."""


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
    """Of the 95% interval of the AUC that it is judged by; so is `high`."""
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
    def hope(self) -> float:
        """The most that the AUC by which it is judged may be."""
        return self.decisive if math.isnan(self.high) else self.high

    @property
    def value(self) -> float:
        rest = self.altered if not math.isnan(self.altered) else self.decisive
        return (self.decisive + rest) / 2

    @property
    def rank(self) -> float:
        return -math.inf if self.reason or math.isnan(self.value) else self.value


@dataclass(frozen=True, eq=False)
class Evidence:
    """How right texts compare with wrong ones: 1 above, ½ equal, 0 below."""

    numbers: tuple[int, ...]
    """Of the cases."""
    above_NN: np.ndarray
    """The right text of prompt n against the wrong one of prompt m."""
    altered_N: np.ndarray
    """The right text against its altered self."""

    @classmethod
    def of(cls, cases: Sequence[tuple[Case, Scores]], copies: bool) -> Evidence:
        judged = [(case, reads) for case, reads in cases if all(p in reads for p in case.judging(copies))]
        judged = [(case, reads) for case, reads in judged if case.right or not copies]
        right, wrong, altered = (
            np.array([reads[place].score for place, reads in column])
            for column in (
                [(case.right if copies else 0, reads) for case, reads in judged],
                [(1, reads) for _, reads in judged],
                [(case.right + 1 if copies else 2, reads) for case, reads in judged],
            )
        )
        return cls(
            tuple(case.number for case, _ in judged), _above(right[:, None], wrong[None, :]), _above(right, altered)
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def drawn(self, draws_DN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUC, and value of a way, for every draw of prompts, (D,) each."""
        auc_D = self.above_NN[draws_DN[:, :, None], draws_DN[:, None, :]].mean((1, 2))
        return auc_D, (auc_D + self.altered_N[draws_DN].mean(1)) / 2

    def resampled(self) -> np.ndarray:
        """Draws of as many prompts: the same for the same number."""
        return np.random.default_rng(0).integers(len(self), size=(RESAMPLES, len(self)))

    @property
    def interval(self) -> tuple[float, float]:
        """95% of the AUC: the wider, on either side, of prompts resampled with both of their texts and of the interval
        for independent texts. Resampling alone has no doubt where every pair is told apart."""
        auc_D, _ = self.drawn(self.resampled())
        low, high = auc_limits(float(self.above_NN.mean()), len(self), len(self))
        return min(low, float(np.quantile(auc_D, 0.025))), max(high, float(np.quantile(auc_D, 0.975)))

    def behind(self, best: Evidence) -> bool:
        """Whether the value is below the best's, for 97.5% of the draws. The same prompts are drawn for both."""
        if min(len(self), len(best)) < FEW:
            return False
        ours, theirs = self.drawn(self.resampled())[1], best.drawn(best.resampled())[1]
        return float(np.quantile(ours - theirs, 0.975)) < 0


def _above(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return (right > wrong) + 0.5 * (right == wrong)


def measured(row: Tried, cases: Sequence[tuple[Case, Scores]]) -> Tried:
    """The row with the AUCs of these cases, none of which is unread."""
    asked, copied = Evidence.of(cases, copies=False), Evidence.of(cases, copies=True)
    second = float(copied.above_NN.mean()) if len(copied) >= FEW else NAN
    judged = copied if row.copies else asked
    low, high = judged.interval if len(judged) >= (FEW if row.copies else 1) else (NAN, NAN)
    return replace(
        row,
        auc=float(asked.above_NN.mean()) if len(asked) else NAN,
        low=low,
        high=high,
        altered=float(judged.altered_N.mean()) if len(judged) else NAN,
        second=second,
        spread=float(np.std([read.score for _, reads in cases for read in reads.values()])),
    )


def gaps(cases: Sequence[Case], reads: Mapping[int, Scores], copies: bool) -> np.ndarray:
    """Right minus wrong text of each case that has both, read."""
    found: list[float] = []
    for case in cases:
        places, known = case.judging(copies), reads.get(case.number, {})
        if not places or not all(place in known for place in places):
            continue
        wrong, right, altered = (known[p].score for p in places) if copies else (known[p].score for p in (1, 0, 2))
        found += [right - wrong, right - altered]
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
