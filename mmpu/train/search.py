"""Finds the way in which an evaluator can be read, without labels: it must prefer a prompt's own anchor to another's.

Every way is tried on a few prompts, the better half on as many more, and so on; the best is confirmed on prompts that
took no part in the choice. On each prompt it grades

    the anchor (or, where it might only recognise it, a second answer of the teacher's), another prompt's anchor, and
    the same text with its numbers changed, or its end taken from the other: much the same, and wrong.

A way's value is the mean of two AUCs: against the other's anchor over all prompts, and against the altered text within
each prompt, since differences within a group are what a student learns from. A way that copies can only be judged by
second answers or, where there are none and the task grades, by the grades of the student's own samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmpu.core import NAN, Group, Task, UserError
from mmpu.readings import Read, Reader
from mmpu.train.cases import Case, case_of
from mmpu.train.tried import FEW, Scores, Tried, gaps, line, measured

FIRST = 2
"""Prompts of the first round, after which only what cannot be read is dropped; each further one doubles what was
tried."""
FINALISTS = 3
"""Ways that are never dropped for being worse than others."""
MARGIN = 0.02
"""A difference of value below which the way that is named first is taken."""
HOPELESS = 0.25
"""A mass on the options of the first text below which a way is not tried any further."""
ALIKE = 1e-9
"""A spread of scores that is rounding."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    rows: tuple[Tried, ...]
    confirmed: tuple[Tried, ...]
    """On the other prompts, the one that is taken last."""
    settings: Mapping[str, object] | None
    """Of the way to take; None if none can be."""


@dataclass
class Search:
    """One search.

    Args:
        reader: What can be read in several ways.
        tokens: How many tokens have been through the model so far.
        say: Told of every row as soon as it is known.
    """

    reader: Reader
    min_auc: float
    tokens: Callable[[], int] = lambda: 0
    say: Callable[[str], None] = lambda _: None
    reads: dict[str, dict[int, Scores]] = field(default_factory=dict[str, dict[int, Scores]])
    costs: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    seconds: int = 0
    """Prompts of the search with a second answer."""

    def __call__(
        self,
        groups: Sequence[Group],
        seconds: Mapping[str, str],
        sampled: Sequence[Group] = (),
        task: Task | None = None,
    ) -> Found:
        """Args:
        groups: Anchored; the last two are shown as examples and not tried.
        seconds: Further answers of the teacher, by sample id.
        sampled: Groups with the student's candidates.
        """
        groups, examples = groups[:-2], groups[-2:]
        readings = self.reader.readings(examples)
        cases = [case for i in range(len(groups)) if (case := case_of(groups, i, seconds)) is not None]
        trial, fresh = cases[0::2], cases[1::2]
        self.seconds = sum(bool(case.right) for case in trial)
        if not fresh:
            reason = "the anchors are empty, or all the same: there is nothing to tell apart"
            return Found(tuple(Tried(name, each.copies, reason=reason) for name, each in readings.items()), (), None)
        grades = _Graded(sampled, task) if task is not None else None
        rows = self._race(readings, trial, grades)
        averaged = self._average(readings, rows, trial, examples)
        everything = {**readings, **averaged}
        rows += [self._row(name, each, trial, None) for name, each in averaged.items()]
        confirmed: list[Tried] = []
        for row in _by_rank(rows)[:FINALISTS]:
            if row.decisive < self.min_auc:
                break
            reader = everything[row.name]
            other = Search(reader, self.min_auc, self.tokens)
            other._ask(row.name, reader, fresh)
            confirmed.append(other._row(row.name, reader, fresh, grades.later() if grades is not None else None))
            self.say("confirmed " + line(confirmed[-1]))
            if confirmed[-1].rank > -math.inf and confirmed[-1].decisive >= self.min_auc:
                return Found(tuple(rows), tuple(confirmed), reader.settings)
        return Found(tuple(rows), tuple(confirmed), None)

    def _race(self, readings: Mapping[str, Reader], cases: Sequence[Case], grades: _Graded | None) -> list[Tried]:
        rows: dict[str, Tried] = {}
        for name, reader in readings.items():
            if (row := self._hopeless(name, reader, cases[0])) is not None:
                rows[name] = row
                self.say(line(row))
        running = {name: reader for name, reader in readings.items() if name not in rows}
        done = 0
        while running and done < len(cases):
            until = min(len(cases), max(FIRST, 2 * done))
            for name, reader in running.items():
                self._ask(name, reader, cases[done:until])
                rows[name] = self._row(name, reader, cases[:until], None)
                if done == 0 or until == len(cases):
                    self.say(line(rows[name]))
            kept = _by_rank([rows[name] for name in running])
            most = max(FINALISTS, (len(kept) + 1) // 2) if done else len(kept)
            better = {row.name for row in kept[:most]} | {name for name in running if self._waits(rows[name])}
            running = {name: reader for name, reader in running.items() if name in better}
            done = until
        rows = {name: rows[name] for name in readings}
        # Those that copy and had no second answers to show themselves on.
        if grades is not None and grades.groups:
            for name in list(rows):
                unjudged = rows[name].copies and math.isnan(rows[name].second)
                if name in running or (unjudged and name not in self.failures):
                    rows[name] = self._row(name, readings[name], cases[:done], grades)
                    self.say(line(rows[name]))
        return list(rows.values())

    def _hopeless(self, name: str, reader: Reader, case: Case) -> Tried | None:
        """The row of a way that cannot read one text, so that nothing more is spent on it; None for all others."""
        try:
            ((read,),) = reader.reads([replace(case.group, responses=case.group.responses[:1])])
        except UserError as error:
            self.failures[name] = str(error)
            return Tried(name, reader.copies, reason=str(error))
        if not math.isnan(read.score) or read.mass >= HOPELESS:
            return None
        self.failures[name] = read.reason
        return Tried(name, reader.copies, 1, read.mass, reason=f"unread: {read.reason}")

    def _waits(self, row: Tried) -> bool:
        """Whether it was not yet tried on enough second answers to be judged."""
        return row.copies and not row.reason and math.isnan(row.second)

    def _ask(self, name: str, reader: Reader, cases: Sequence[Case]) -> None:
        before = self.tokens()
        try:
            found = reader.reads([case.group for case in cases])
        except UserError as error:
            self.failures[name] = str(error)
            return
        texts = sum(len(scores) for scores in found)
        self.costs.setdefault(name, []).append(round((self.tokens() - before) / max(1, texts)))
        known = self.reads.setdefault(name, {})
        known.update({case.number: scores for case, scores in zip(cases, found, strict=True)})

    def _row(self, name: str, reader: Reader, cases: Sequence[Case], grades: _Graded | None) -> Tried:
        if name in self.failures:
            return Tried(name, reader.copies, reason=self.failures[name])
        known = self.reads[name]
        pairs = [(case, known[case.number]) for case in cases if case.number in known]
        whole = [(c, r) for c, r in pairs if not any(math.isnan(read.score) for read in r)]
        masses = [read.mass for _, r in pairs for read in r if not math.isnan(read.mass)]
        row = Tried(
            name,
            reader.copies,
            len(pairs),
            float(np.median(masses)) if masses else NAN,
            tokens=float(np.mean(self.costs[name])) if name in self.costs else NAN,
        )
        if len(whole) < max(2, len(pairs) / 2):
            reasons = [read.reason for _, r in pairs for read in r if math.isnan(read.score)]
            return replace(row, reason=f"unread on {len(pairs) - len(whole)} of {len(pairs)}: {reasons[0]}")
        row = measured(row, whole)
        if row.spread < ALIKE:
            return replace(row, reason="every text gets the same score")
        if grades is not None:
            row = replace(row, graded=grades.within(reader))
        if math.isnan(row.decisive) and row.copies and self.seconds < FEW:
            return replace(row, reason="may only copy: without second answers, or right and wrong samples, not judged")
        return row

    def _average(
        self, readings: Mapping[str, Reader], rows: Sequence[Tried], cases: Sequence[Case], examples: Sequence[Group]
    ) -> dict[str, Reader]:
        """The best ways of different modes, weighted as a linear discriminant with independent parts would: by the mean
        difference between right and wrong over its variance. Made of scores that are known."""
        chosen: list[str] = []
        for row in _by_rank(rows):
            fresh = row.name.split()[0] not in {name.split()[0] for name in chosen}
            if fresh and row.rank > 0.5 and len(self.reads[row.name]) == len(cases):
                chosen.append(row.name)
        chosen = chosen[:FINALISTS]
        if len(chosen) < 2:
            return {}
        copies = any(readings[name].copies for name in chosen)
        apart = {name: gaps(cases, self.reads[name], copies) for name in chosen}
        weights = {n: max(0.0, float(g.mean()) / (float(g.var()) + 1e-6)) for n, g in apart.items() if len(g) > 1}
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items() if total and weight >= 0.05 * total}
        if len(weights) < 2:
            return {}
        name = "average of " + ", ".join(f"{weight:.2f} {each}" for each, weight in weights.items())
        self.reads[name] = {
            case.number: tuple(
                _mean([self.reads[each][case.number][k] for each in weights], list(weights.values()))
                for k in range(len(case.group.responses))
            )
            for case in cases
        }
        self.costs[name] = [round(sum(float(np.mean(self.costs[each])) for each in weights))]
        return {name: self.reader.averaged(weights, examples)}


class _Graded:
    """Candidates of the student with their grades."""

    def __init__(self, groups: Sequence[Group], task: Task) -> None:
        self._task = task
        self._all = [group for group in groups if len(self._sides(group)) == 2]
        self.groups = self._all[0::2]

    def later(self) -> _Graded:
        """The other half."""
        found = _Graded((), self._task)
        found.groups = self._all[1::2]
        return found

    def within(self, reader: Reader) -> float:
        """AUC of right against wrong candidates of the same group, each pair counting once; NaN if there are few."""
        wins: list[float] = []
        for group, reads in zip(self.groups, reader.reads(self.groups) if self.groups else [], strict=True):
            grades = [self._task.grade(group.sample, response.text) for response in group.responses]
            scored = [
                (g, r.score) for g, r in zip(grades, reads, strict=True) if g is not None and not math.isnan(r.score)
            ]
            wins += [float(a > b) + 0.5 * float(a == b) for g, a in scored if g >= 0.5 for h, b in scored if h < 0.5]
        return float(np.mean(wins)) if len(wins) >= FEW else NAN

    def _sides(self, group: Group) -> set[bool]:
        grades = [self._task.grade(group.sample, response.text) for response in group.responses]
        return {grade >= 0.5 for grade in grades if grade is not None}


def _by_rank(rows: Sequence[Tried]) -> list[Tried]:
    """Those that can be taken, best first; of nearly the same value, in the order in which the reader names them."""
    fit = [row for row in rows if row.rank > -math.inf]
    ordered: list[Tried] = []
    while fit:
        best = max(row.rank for row in fit)
        ordered.append(next(row for row in fit if row.rank >= best - MARGIN))
        fit.remove(ordered[-1])
    return ordered


def _mean(reads: Sequence[Read], weights: Sequence[float]) -> Read:
    value = sum(w * read.score for w, read in zip(weights, reads, strict=True)) / sum(weights)
    masses = [read.mass for read in reads if not math.isnan(read.mass)]
    return Read(value, min(masses, default=NAN), next((read.reason for read in reads if read.reason), ""))
