"""The vocabulary of judging: two answers to a prompt, how they were read, and who reads them.

As `core.py`, this imports no torch: reading a verdict store costs no more than Python itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmpu.core import Sample, UserError


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers to one prompt."""

    sample: Sample
    ours: str
    theirs: str

    @property
    def identical(self) -> bool:
        """True if there is nothing to judge."""
        return self.ours.strip() == self.theirs.strip()


Order = Literal["ours_first", "ours_second", "ours", "theirs", "none"]
"""Which answer a judge sees first, or alone; `none` where no model saw either, or nothing is known of how."""
MARKS: tuple[Order, ...] = ("ours", "theirs")
"""Orders of a judge that marks each answer by itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reading of one duel in one order. `win` is ours: 1, 0, a half for a tie, None if it could not be read. Of an
    answer seen alone it is the mark, 0..1."""

    sample: str
    order: Order
    win: float | None
    soft: float | None = None
    """The same, weighed by the judge's probabilities."""
    reason: str = ""
    """Why it is unread, or how it was decided without a call."""
    detail: Mapping[str, float] = field(default_factory=dict[str, float])
    """What it was read from: probabilities of the letters, or the scores of `ours` and `theirs`."""
    said: str = ""
    """What the judge said before it, and around it."""

    def __post_init__(self) -> None:
        """Whatever made it: a number outside 0..1, or none, such as NaN, is no verdict."""
        for name in ("win", "soft"):
            value: float | None = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                object.__setattr__(self, name, None)
                object.__setattr__(self, "reason", f"the judge gave {value}, which is not in 0..1")
        if not all(map(math.isfinite, self.detail.values())):
            finite = {key: value for key, value in self.detail.items() if math.isfinite(value)}
            object.__setattr__(self, "detail", finite)


class Judge(ABC):
    """Compares two answers to the same prompt."""

    name: str
    describe: str
    """One line for boards: what decided."""
    weighting: Literal["hard", "soft"] = "hard"
    """Which wins are the headline: the letters, or the probabilities behind them."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Judge model, revision and prompt: what a reading depends on besides the duel and its order."""

    @property
    def orders(self) -> tuple[Order, ...]:
        """The orders in which a duel is read; its win is the mean over those that could be read. With `MARKS` each
        answer to a prompt is read once, whatever it meets, and the better mark wins."""
        return ("none",)

    @abstractmethod
    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        """One verdict per duel and order."""

    def readings(self, asked: Sequence[tuple[Duel, Order]]) -> Iterator[tuple[int, Verdict]]:
        """`read`, each verdict as it comes, in any order, with its place in `asked`. Who keeps verdicts keeps them from
        here.

        Raises:
            UserError: `read` returned something else than one verdict for each.
        """
        found = self.read(asked)
        if len(found) != len(asked):
            raise UserError(
                f"judge {self.name}: {type(self).__name__}.read returned {len(found)} verdicts "
                f"for {len(asked)} readings"
            )
        yield from enumerate(found)

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        """What `read` sends to a model, one prompt per call, to know the price beforehand; empty if it asks none."""
        return []

    @property
    def reply_tokens(self) -> int:
        """Tokens that a reply has at most, for its price."""
        return 1

    def compare(self, duels: Sequence[Duel]) -> list[tuple[Verdict, ...]]:
        """Each duel's verdicts, one per order; identical answers are a tie that nobody is asked about."""
        asked: list[tuple[Duel, Order]] = [
            (duel, order) for duel in duels if not duel.identical for order in self.orders
        ]
        found = iter(self.read(asked))
        return [
            (tie(duel.sample),) if duel.identical else settled(tuple(next(found) for _ in self.orders))
            for duel in duels
        ]


IDENTICAL = "identical answers"


def tie(sample: Sample) -> Verdict:
    """The verdict on identical answers."""
    return Verdict(sample.id, "none", 0.5, 0.5, IDENTICAL)


def settled(verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """A duel's verdicts; two marks make one."""
    if tuple(verdict.order for verdict in verdicts) != MARKS:
        return verdicts
    ours, theirs = verdicts
    detail = {v.order: v.win for v in verdicts if v.win is not None}
    said = "\n\n".join(v.said for v in verdicts if v.said)
    if ours.win is None or theirs.win is None:
        reason = (ours if ours.win is None else theirs).reason
        return (Verdict(ours.sample, "none", None, reason=reason, detail=detail, said=said),)
    win = 0.5 if ours.win == theirs.win else float(ours.win > theirs.win)
    return (Verdict(ours.sample, "none", win, 0.5 + (ours.win - theirs.win) / 2, detail=detail, said=said),)
