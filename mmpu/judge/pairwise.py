"""A language model compares two answers and replies A, B or T (PU-RLD, arXiv 2601.20687, evaluation prompt).

Each duel is asked in both orders, since judges favour a slot, and scored by the mean of the orders that could be
read. A/B/T is read from the next-token distribution in one call; where an endpoint gives none, a short reply is
parsed. What cannot be read stays unread: it is never a tie, a win, a loss or a zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmpu.core import Choice, Duel, Engine, Failed, Judge, Sample, Sampling, Verdict, digest
from mmpu.prompts import about, template_of

OPTIONS = ("A", "B", "T")
Order = Literal["ours_first", "ours_second"]
_LETTER = re.compile(r"\W*(?:(?:response|answer|option)\W+)?([ABT])(?:\W*(?:\n|$)|[.:)*]| is better\b)", re.IGNORECASE)
"""The letter on its own; «A tie», «A and B» or «A is worse» are not an A."""


@dataclass(frozen=True)
class Pairwise(Judge):
    engine: Engine
    prompt: str
    """A Jinja file with `question`, `reference`, `a`, `b`; relative to the judge's YAML."""
    name: str = "pairwise"
    describe: str = "a language model judged, both orders"
    order: Literal["both", "paper"] = "both"
    """`paper` always shows ours first, as the paper did; its position bias is then part of the result."""
    min_mass: float = 0.5
    """Least probability on A, B and T together for a reading to count."""

    def __post_init__(self) -> None:
        template_of(Path(self.prompt))  # one that cannot be used should fail before anything is asked

    @property
    def identity(self) -> str:
        prompt = digest(Path(self.prompt).read_text(encoding="utf-8"))
        return f"pairwise:{self.engine.identity}:{self.order}:{self.min_mass}:{prompt}"

    def compare(self, duels: Sequence[Duel]) -> list[tuple[Verdict, ...]]:
        orders: tuple[Order, ...] = ("ours_first", "ours_second") if self.order == "both" else ("ours_first",)
        # All orders of a sample stand next to each other, question and images first: a prefix cache reads them once.
        asked: list[tuple[Duel, Order]] = [
            (duel, order) for duel in duels if duel.ours.strip() != duel.theirs.strip() for order in orders
        ]
        answers = self.engine.choose([self._ask(*a) for a in asked], OPTIONS)
        read = [self._read(duel, order, answer) for (duel, order), answer in zip(asked, answers, strict=True)]
        unread = [i for i, verdict in enumerate(read) if verdict.win is None]
        for i, verdict in zip(unread, self._parse([asked[i] for i in unread]), strict=True):
            read[i] = (
                verdict if verdict.win is not None else replace(read[i], reason=f"{read[i].reason}; {verdict.reason}")
            )
        found = iter(read)
        return [
            tuple(next(found) for _ in orders)
            if duel.ours.strip() != duel.theirs.strip()
            else (Verdict(duel.sample.id, "none", 0.5, 0.5, "identical answers"),)
            for duel in duels
        ]

    def _read(self, duel: Duel, order: Order, answer: Choice | Failed) -> Verdict:
        if isinstance(answer, Failed):
            return Verdict(duel.sample.id, order, None, reason=answer.reason)
        mass = sum(answer.probs.values())
        if not (mass > 0 and mass >= self.min_mass):  # so written, NaN is unread too
            return Verdict(duel.sample.id, order, None, reason=f"A, B and T have probability {mass:.3f}")
        probs = {option: p / mass for option, p in answer.probs.items()}
        letter = max(OPTIONS, key=lambda option: probs[option])
        soft = probs["A" if order == "ours_first" else "B"] + probs["T"] / 2
        return Verdict(duel.sample.id, order, _win(letter, order), soft)

    def _parse(self, asked: list[tuple[Duel, Order]]) -> list[Verdict]:
        answers = self.engine.generate([self._ask(*a) for a in asked], 1, Sampling(temperature=0.0, max_tokens=8))
        verdicts: list[Verdict] = []
        for (duel, order), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failed):
                verdicts.append(Verdict(duel.sample.id, order, None, reason=answer.reason))
                continue
            match = _LETTER.match(answer[0].text)
            win = _win(match[1].upper(), order) if match else None
            reason = "" if match else f"replied {answer[0].text[:60]!r}"
            verdicts.append(Verdict(duel.sample.id, order, win, win, reason))
        return verdicts

    def _ask(self, duel: Duel, order: Order) -> Sample:
        a, b = (duel.ours, duel.theirs) if order == "ours_first" else (duel.theirs, duel.ours)
        return about(duel.sample, Path(self.prompt), reference=duel.sample.reference, a=a, b=b)


def _win(letter: str, order: Order) -> float:
    if letter == "T":
        return 0.5
    return float(letter == ("A" if order == "ours_first" else "B"))
