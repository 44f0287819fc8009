"""Finds the way in which an evaluator can be read, without labels: it must prefer a prompt's own anchor to another's.

Ways race on half of the prompts (`race.py`), and the best is confirmed on the others. On each prompt a way grades

    the anchor (or, where it might only recognise it, a second answer of the teacher's), another prompt's anchor, and
    the same text with its numbers changed, or its end taken from the other: much the same, and wrong.

A way's value is the mean of two AUCs: against the other's anchor over all prompts, and against the altered text within
each prompt, since differences within a group are what a student learns from. A way that copies can only be judged by
second answers or, where there are none and the task grades, by the grades of the student's own samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmpu.core import NAN, Group, Task
from mmpu.readings import Read, Reader
from mmpu.train.cases import Case, case_of
from mmpu.train.race import FINALISTS, Race, by_rank, in_order
from mmpu.train.spending import Spending
from mmpu.train.trials import Graded, Trials
from mmpu.train.tried import Tried, gaps, line

RESERVE = 0.25
"""The most of a budget that is kept for confirming the best; what the choice leaves over is spent on it too."""
CONFIRMING = 12
"""Prompts that the best is confirmed on even where the budget is spent."""
SECOND = 0.25
"""The most of what is left that one of the best may cost on second answers, if it was not judged by them."""
CHANCE = 0.5


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    rows: tuple[Tried, ...]
    confirmed: tuple[Tried, ...]
    """On the other prompts, the one that is taken last."""
    settings: Mapping[str, object] | None
    """Of the way to take; None if none can be."""
    tokens: int = 0
    """That went through the model."""


@dataclass
class Search:
    """One search.

    Args:
        reader: What can be read in several ways.
        min_auc: What is good enough, on the prompts that the best is confirmed on.
        tokens: How many tokens have been through the model so far.
        say: Told what is about to be done and what it will cost, and of every row as soon as it is known.
        budget: Tokens to spend.
    """

    reader: Reader
    min_auc: float
    tokens: Callable[[], int] = lambda: 0
    say: Callable[[str], None] = lambda _: None
    budget: int = 50_000

    def __call__(
        self,
        groups: Sequence[Group],
        seconds: Mapping[str, str],
        sampled: Sequence[Group] = (),
        task: Task | None = None,
    ) -> Found:
        """Args:
        groups: Anchored; the two shortest are shown as examples and not tried.
        seconds: Further answers of the teacher, by sample id.
        sampled: Groups with the student's candidates.
        """
        groups, examples = _apart(groups, seconds)
        readings = self.reader.readings(examples)
        cases = [case for i in range(len(groups)) if (case := case_of(groups, i, seconds)) is not None]
        trial, fresh = in_order(cases[0::2]), cases[1::2]
        if not fresh:
            reason = "the anchors are empty, or all the same: there is nothing to tell apart"
            return Found(tuple(Tried(name, each.copies, reason=reason) for name, each in readings.items()), (), None)
        self.say(
            f"{len(readings)} ways to grade, {len(trial)} prompts to choose by, {len(fresh)} to confirm the best on: "
            f"at most {self.budget:,} tokens through the model"
        )
        trials = Trials(Spending(self.budget, self.tokens))
        race = Race(trials, trial, self.say)
        running = race.probed(readings)
        dearest = max((trials.price(name, way, fresh, way.copies) for name, way in running.items()), default=0)
        trial = trial[: race(running, round(min(dearest, RESERVE * self.budget)))]
        averaged = self._average(trials, readings, trial, examples)
        ways, grades = {**readings, **averaged}, Graded(sampled, task)
        rows = [trials.row(name, each.copies, trial) for name, each in ways.items()]
        rows = self._graded(trials, ways, rows, trial, grades)
        confirmed, settings = self._confirmed(trials.spending, ways, rows, fresh, grades.later())
        return Found(tuple(rows), tuple(confirmed), settings, trials.spending.spent)

    def _average(
        self, trials: Trials, readings: Mapping[str, Reader], cases: Sequence[Case], examples: Sequence[Group]
    ) -> dict[str, Reader]:
        """The best ways of different modes, weighted as a linear discriminant with independent parts would: by the mean
        difference between right and wrong over its variance. For this they all read second answers, where there are
        any."""
        chosen: list[str] = []
        for row in by_rank([trials.row(name, each.copies, cases) for name, each in readings.items()]):
            if row.rank > CHANCE and row.name.split()[0] not in {name.split()[0] for name in chosen}:
                chosen.append(row.name)
        chosen = chosen[:FINALISTS]
        for name in chosen:
            if trials.price(name, readings[name], cases, copies=True) <= SECOND * trials.spending.left:
                trials.ask(name, readings[name], cases, copies=True)
        copies = any(readings[name].copies for name in chosen)
        known = {name: {case.number: reads for case, reads in trials.whole(name, cases)} for name in chosen}
        apart = {name: gaps(cases, reads, copies) for name, reads in known.items()}
        weights = {n: max(0.0, float(g.mean()) / (float(g.var()) + 1e-6)) for n, g in apart.items() if len(g) > 1}
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items() if total and weight >= 0.05 * total}
        if len(weights) < 2:
            return {}
        name = "average of " + ", ".join(f"{weight:.2f} {each}" for each, weight in weights.items())
        trials.reads[name] = {
            number: {p: _mean([each[p] for each in reads], list(weights.values())) for p in case.judging(copies)}
            for number, case, reads in (
                (case.number, case, [known[each].get(case.number, {}) for each in weights]) for case in cases
            )
            if case.judging(copies) and all(p in each for each in reads for p in case.judging(copies))
        }
        costs = [trials.costs.get(each, (0, 1)) for each in weights]
        trials.costs[name] = round(sum(tokens / texts for tokens, texts in costs)), 1
        return {name: self.reader.averaged(weights, examples)}

    def _graded(
        self,
        trials: Trials,
        ways: Mapping[str, Reader],
        rows: Sequence[Tried],
        cases: Sequence[Case],
        grades: Graded,
    ) -> list[Tried]:
        """The rows, with grades for the best of them and for those that nothing else can judge."""
        finalists = {row.name for row in by_rank(rows)[:FINALISTS]}
        found: list[Tried] = []
        for row in rows:
            way = ways[row.name]
            unjudged = row.copies and math.isnan(row.second) and row.name not in trials.failures
            cost = grades.price(way, trials.spending)
            if grades.groups and (row.name in finalists or unjudged) and cost <= trials.spending.left:
                row = trials.row(row.name, row.copies, cases, grades.within(way, trials.spending))
                self.say(line(row))
            found.append(row)
        return found

    def _confirmed(
        self,
        spending: Spending,
        ways: Mapping[str, Reader],
        rows: Sequence[Tried],
        fresh: Sequence[Case],
        grades: Graded,
    ) -> tuple[list[Tried], Mapping[str, object] | None]:
        """The best on prompts that it was not chosen by, and then the next, until one is good enough."""
        confirmed: list[Tried] = []
        for row in by_rank(rows)[:FINALISTS]:
            way, trials = ways[row.name], Trials(spending)
            if row.hope < self.min_auc:
                continue
            cases = [case for case in fresh if case.judging(way.copies)]
            while len(cases) > CONFIRMING and trials.price(row.name, way, cases, way.copies) > spending.left:
                cases = cases[:-1]
            cost = trials.price(row.name, way, cases, way.copies)
            if confirmed and cost > spending.left:
                break
            self.say(f"confirming {row.name} on {len(cases)} other prompts: {spending.told(cost)}")
            trials.ask(row.name, way, cases, way.copies)
            graded = NAN
            if not cases or grades.price(way, spending) <= spending.left:
                graded = grades.within(way, spending)
            confirmed.append(trials.row(row.name, way.copies, cases, graded))
            if self._passes(confirmed[-1]):
                self.say("confirmed " + line(confirmed[-1]))
                return confirmed, way.settings
            self.say("not confirmed: " + line(confirmed[-1]))
        return confirmed, None

    def _passes(self, row: Tried) -> bool:
        """Whether a confirmed AUC is good enough and, unless chance is, for certain above it."""
        sure = math.isnan(row.low) or row.low > CHANCE or self.min_auc <= CHANCE
        return row.rank > -math.inf and row.decisive >= self.min_auc and sure


def _apart(groups: Sequence[Group], seconds: Mapping[str, str]) -> tuple[list[Group], list[Group]]:
    """The groups, and two that are shown as examples: those without a second answer first, short ones first."""

    def rank(i: int) -> tuple[bool, bool, int]:
        anchor = (groups[i].anchor or "").strip()
        text = sum(len(message.text) for message in groups[i].sample.prompt) + len(anchor)
        return not anchor, groups[i].sample.id in seconds, text

    chosen = sorted(range(len(groups)), key=rank)[:2]
    return [group for i, group in enumerate(groups) if i not in chosen], [groups[i] for i in chosen]


def _mean(reads: Sequence[Read], weights: Sequence[float]) -> Read:
    value = sum(w * read.score for w, read in zip(weights, reads, strict=True)) / sum(weights)
    masses = [read.mass for read in reads if not math.isnan(read.mass)]
    return Read(value, min(masses, default=NAN), next((read.reason for read in reads if read.reason), ""))
