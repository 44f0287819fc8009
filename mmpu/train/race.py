"""Ways to read an evaluator against each other, within a budget of tokens.

First every way reads one text, which shows what cannot be read at all; ways that differ only in how their answer begins
share these passes. The rest are tried on a few prompts, those that are not significantly below the best on as many
more, and so on, those that are cheap to read first. Where tokens are short there are fewer prompts and then fewer ways,
and the row of one that is left out says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmpu.readings import Read, Reader
from mmpu.train.cases import Case
from mmpu.train.trials import Trials
from mmpu.train.tried import Tried, line

FIRST = 6
"""Prompts of the first round; each further one doubles what was tried."""
LEAST = 4
"""Prompts of a round that a small budget does not afford as a whole."""
OPENING = 0.65
"""The share of what is to be spent on the choice that the first round may take."""
FINALISTS = 3
"""Ways that are averaged, graded and confirmed."""
MARGIN = 0.02
"""A difference of value below which the way that is named first is taken."""
HOPELESS = 0.25
"""A mass on the options of the first text below which a way is not tried any further."""
SURER = 0.05
"""A difference of that mass by which one beginning of an answer is preferred to another."""


@dataclass
class Race:
    """A race over prompts that the best is not confirmed on."""

    trials: Trials
    cases: Sequence[Case]
    """In the order in which they are tried."""
    say: Callable[[str], None]

    def probed(self, readings: Mapping[str, Reader]) -> dict[str, Reader]:
        """The ways that can read a text; of the others it is said why not."""
        shortest = min(self.cases, key=_size).only([0])
        running = {n: w for n, w in readings.items() if not w.question and any(c.judging(w.copies) for c in self.cases)}
        questions: dict[str, dict[str, Reader]] = {}
        for name, way in readings.items():
            if way.question:
                questions.setdefault(way.question, {})[name] = way
        for ways in questions.values():
            found, _ = self.trials.spending.reads(list(ways.values()), [shortest])
            for (name, way), ((read,),) in zip(ways.items(), found, strict=True):
                if (reason := self._hopeless(name, read)) is None:
                    running[name] = way
                else:
                    self.trials.failures[name] = reason
                    self.say(f"{name}: {reason}")
        return {name: way for name, way in readings.items() if name in running}

    def _hopeless(self, name: str, read: Read) -> str | None:
        """Why a way cannot read a text, so that nothing more is spent on it."""
        self.trials.masses[name] = read.mass
        return f"unread: {read.reason}" if math.isnan(read.score) and not read.mass >= HOPELESS else None

    def __call__(self, running: dict[str, Reader], reserve: int) -> int:
        """Tries ways; those that need not be tried further are taken out of `running`.

        Args:
            reserve: Tokens of the budget that are kept for later.

        Returns:
            On how many prompts the best were tried.
        """
        done = 0
        while running and done < len(self.cases) and (len(running) > 1 or not done):
            left = self.trials.spending.left - reserve
            more = self._afforded(running, self.cases[done : max(FIRST, 2 * done)], done, left)
            if not more:
                break
            said = self.trials.spending.told(self._cost(running, more))
            done += len(more)
            self.say(f"{len(running)} ways on {len(more)} prompts: {said}")
            rows: list[Tried] = []
            for name, way in running.items():
                self.trials.ask(name, way, more, way.copies)
                rows.append(self.trials.row(name, way.copies, self.cases[:done]))
                self.say(line(rows[-1]))
            for name in self._behind(rows, done):
                del running[name]
        return done

    def _cost(self, running: Mapping[str, Reader], cases: Sequence[Case]) -> int:
        return sum(self.trials.price(name, way, cases, way.copies) for name, way in running.items())

    def _afforded(self, running: dict[str, Reader], more: Sequence[Case], done: int, left: int) -> Sequence[Case]:
        """The prompts of the next round: where tokens are short first fewer of them, then fewer ways."""
        while self._cost(running, more) > (left if done else OPENING * left):
            if len(more) > LEAST:
                more = more[:-1]
            elif (name := self._least(running, more, done)) is None:
                return () if done else more
            else:
                del running[name]
                why = "set aside for want of tokens" if done else "not tried for want of tokens"
                self.trials.aside[name] = why
                self.say(f"{name}: {why}")
        return more

    def _least(self, running: Mapping[str, Reader], more: Sequence[Case], done: int) -> str | None:
        """The way to leave out, if one can be: at first of those that ask the same the least sure, or else the dearest;
        later the worst."""
        if done:
            ranked = by_rank([self.trials.row(n, way.copies, self.cases[:done]) for n, way in running.items()])
            unranked = [name for name in running if name not in {row.name for row in ranked}]
            return None if len(running) <= 2 else (unranked or [ranked[-1].name])[-1]
        asked = [way.question for way in running.values() if way.question]
        again = [name for name, way in running.items() if asked.count(way.question) > 1]
        if again:
            least = min(self.trials.masses[name] for name in again)
            return [name for name in again if self.trials.masses[name] <= least + SURER][-1]
        if len(running) <= FINALISTS:
            return None
        return max(running, key=lambda name: self._cost({name: running[name]}, more))

    def _behind(self, rows: Sequence[Tried], done: int) -> list[str]:
        """Ways that need not be tried further: unreadable, or significantly below the best."""
        dropped = [row.name for row in rows if row.reason]
        fit = by_rank(rows)
        best = self.trials.evidence(fit[0].name, self.cases[:done], fit[0].copies) if fit else None
        for row in fit[1:]:
            if best is not None and self.trials.evidence(row.name, self.cases[:done], row.copies).behind(best):
                self.trials.aside[row.name] = f"significantly below {fit[0].name}"
                dropped.append(row.name)
        return dropped


def in_order(cases: Sequence[Case]) -> list[Case]:
    """Those with a second answer, by which every way can be judged, and then the others; short ones first."""
    return sorted(cases, key=lambda case: (not case.right, _size(case)))


def _size(case: Case) -> int:
    return sum(len(message.text) for message in case.group.sample.prompt) + 2 * len(case.group.taught.text)


def by_rank(rows: Sequence[Tried]) -> list[Tried]:
    """Those that can be taken, best first; of nearly the same value, in the order in which the reader names them."""
    fit = [row for row in rows if row.rank > -math.inf]
    ordered: list[Tried] = []
    while fit:
        best = max(row.rank for row in fit)
        ordered.append(next(row for row in fit if row.rank >= best - MARGIN))
        fit.remove(ordered[-1])
    return ordered
