"""All that was read of an evaluator in several ways, and the rows that come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmpu.core import NAN, Group, Task, UserError
from mmpu.readings import Read, Reader
from mmpu.train.cases import Case
from mmpu.train.spending import Spending
from mmpu.train.tried import FEW, Evidence, Tried, measured

ALIKE = 1e-9
"""A spread of scores that is rounding."""
COPIES = "may only copy: without second answers, or right and wrong samples, not judged"


@dataclass
class Trials:
    """Reads by way, case and place of the text, with what they cost."""

    spending: Spending
    reads: dict[str, dict[int, dict[int, Read]]] = field(default_factory=dict[str, dict[int, dict[int, Read]]])
    costs: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Tokens and texts."""
    lengths: dict[tuple[str | int, ...], int] = field(default_factory=dict[tuple[str | int, ...], int])
    """Characters to read, by way, case and places."""
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """Why a way reads nothing."""
    masses: dict[str, float] = field(default_factory=dict[str, float])
    """Probability on the options of the first texts."""
    aside: dict[str, str] = field(default_factory=dict[str, str])
    """Why a way was not tried any further."""

    def missing(self, name: str, cases: Sequence[Case], copies: bool) -> list[tuple[Case, list[int]]]:
        """Texts that judge a way and were not yet read."""
        known = self.reads.get(name, {})
        found = [(case, [p for p in case.judging(copies) if p not in known.get(case.number, {})]) for case in cases]
        return [(case, places) for case, places in found if places]

    def price(self, name: str, reader: Reader, cases: Sequence[Case], copies: bool) -> int:
        """Tokens that `ask` will take, about."""
        characters = 0
        for case, places in self.missing(name, cases, copies):
            key = name, case.number, *places
            if key not in self.lengths:
                self.lengths[key] = reader.length(case.only(places))
            characters += self.lengths[key]
        return self.spending.tokens(characters)

    def ask(self, name: str, reader: Reader, cases: Sequence[Case], copies: bool) -> None:
        """Reads what is missing.

        Args:
            copies: Whether the texts are those that judge a way that may copy.
        """
        asked = self.missing(name, cases, copies)
        if not asked or name in self.failures:
            return
        try:
            (found,), tokens = self.spending.reads([reader], [case.only(places) for case, places in asked])
        except UserError as error:
            self.failures[name] = str(error)
            return
        before = self.costs.get(name, (0, 0))
        self.costs[name] = before[0] + tokens, before[1] + sum(map(len, found))
        known = self.reads.setdefault(name, {})
        for (case, places), reads in zip(asked, found, strict=True):
            known.setdefault(case.number, {}).update(zip(places, reads, strict=True))

    def whole(self, name: str, cases: Sequence[Case]) -> list[tuple[Case, dict[int, Read]]]:
        """Cases of which nothing that was read is unread."""
        known = self.reads.get(name, {})
        pairs = [(case, known[case.number]) for case in cases if case.number in known]
        return [(c, reads) for c, reads in pairs if not any(math.isnan(read.score) for read in reads.values())]

    def evidence(self, name: str, cases: Sequence[Case], copies: bool) -> Evidence:
        return Evidence.of(self.whole(name, cases), copies)

    def row(self, name: str, copies: bool, cases: Sequence[Case], graded: float = NAN) -> Tried:
        """What is known of a way.

        Args:
            graded: Its AUC by grades.
        """
        if name in self.failures:
            return Tried(name, copies, reason=self.failures[name])
        known = [self.reads[name][c.number] for c in cases if c.number in self.reads.get(name, {})]
        masses = [read.mass for reads in known for read in reads.values() if not math.isnan(read.mass)]
        tokens, texts = self.costs.get(name, (0, 0))
        row = Tried(
            name,
            copies,
            len(known),
            float(np.median(masses)) if masses else NAN,
            graded=graded,
            tokens=tokens / texts if texts else NAN,
            reason=self.aside.get(name, ""),
        )
        if not known:
            return row if row.reason or not math.isnan(graded) else replace(row, reason=COPIES)
        whole = self.whole(name, cases)
        if len(whole) < max(2, len(known) / 2):
            unread = [read.reason for reads in known for read in reads.values() if math.isnan(read.score)]
            reason = unread[0] if unread else "one prompt is too few"
            return replace(row, reason=f"unread on {len(known) - len(whole)} of {len(known)}: {reason}")
        row = measured(row, whole)
        if row.spread < ALIKE:
            return replace(row, reason="every text gets the same score")
        if copies and math.isnan(row.decisive) and len(whole) < FEW:
            return replace(row, reason=row.reason or COPIES)
        return row


class Graded:
    """Candidates of the student with their grades."""

    def __init__(self, groups: Sequence[Group], task: Task | None) -> None:
        self._task = task
        self._all = [group for group in groups if len({grade >= 0.5 for grade in self._grades(group)}) == 2]
        self.groups = self._all[0::2]

    def later(self) -> Graded:
        """The other half."""
        found = Graded((), self._task)
        found.groups = self._all[1::2]
        return found

    def price(self, reader: Reader, spending: Spending) -> int:
        """Tokens that `within` will take, about."""
        return spending.tokens(sum(map(reader.length, self.groups)))

    def within(self, reader: Reader, spending: Spending) -> float:
        """AUC of right against wrong candidates of the same group, each pair counting once; NaN if there are few."""
        if not self.groups:
            return NAN
        (found,), _ = spending.reads([reader], self.groups)
        wins: list[float] = []
        for group, reads in zip(self.groups, found, strict=True):
            pairs = zip(self._all_grades(group), reads, strict=True)
            scored = [(g, r.score) for g, r in pairs if g is not None and not math.isnan(r.score)]
            wins += [float(a > b) + 0.5 * float(a == b) for g, a in scored if g >= 0.5 for h, b in scored if h < 0.5]
        return float(np.mean(wins)) if len(wins) >= FEW else NAN

    def _grades(self, group: Group) -> list[float]:
        return [grade for grade in self._all_grades(group) if grade is not None]

    def _all_grades(self, group: Group) -> list[float | None]:
        task = self._task
        return [None if task is None else task.grade(group.sample, response.text) for response in group.responses]
