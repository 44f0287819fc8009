"""A language model compares two answers and replies with a letter (PU-RLD, arXiv 2601.20687, evaluation prompt).

Each duel is asked in both orders, since judges favour a slot, and scored by the mean of the orders that could be
read. The letter is read from the next-token distribution in one call; where an endpoint gives none, a short reply is
parsed. What cannot be read stays unread: it is never a tie, a win, a loss or a zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmpu.core import Choice, Engine, Failed, Sample, Sampling, UserError
from mmpu.duel import Duel, Judge, Order, Verdict
from mmpu.prompts import MAX_CHARACTERS, about, prompt_hash, template_of

REPLY = 8
"""Tokens of a reply that is parsed."""


@dataclass(frozen=True)
class Pairwise(Judge):
    engine: Engine
    prompt: str
    """A Jinja file with `question`, `reference`, `a`, `b`; relative to the judge's YAML."""
    name: str = "pairwise"
    describe: str = "a language model judged, both orders"
    revision: str = ""
    """Of the judge's weights, where the endpoint serves a pinned one; part of a verdict's identity."""
    order: Literal["both", "paper"] = "both"
    """`paper` always shows ours first, as the paper did; its position bias is then part of the result."""
    letters: tuple[str, ...] = ("A", "B", "T")
    """The replies for the first answer, the second and, if there is a third, a tie."""
    weighting: Literal["hard", "soft"] = "hard"
    read_from: Literal["probabilities", "text"] = "probabilities"
    """`text` saves a call per reading where an endpoint has no log-probabilities."""
    min_mass: float = 0.5
    """Least probability on the letters together for a reading to count."""
    max_characters: int = MAX_CHARACTERS
    """Of an answer as the judge sees it; the middle of a longer one is left out."""

    def __post_init__(self) -> None:
        template_of(Path(self.prompt))  # one that cannot be used should fail before anything is asked
        if len(self.letters) not in (2, 3) or len(set(self.letters)) != len(self.letters):
            raise UserError(f"judge {self.name}: `letters` are two or three different replies, got {self.letters}")

    @property
    def identity(self) -> str:
        prompt = prompt_hash(Path(self.prompt))
        settings = (self.read_from, self.min_mass, self.max_characters, *self.letters)
        return ":".join(map(str, ("pairwise", self.engine.identity, self.revision, *settings, prompt)))

    @property
    def orders(self) -> tuple[Order, ...]:
        return ("ours_first", "ours_second") if self.order == "both" else ("ours_first",)

    @property
    def reply_tokens(self) -> int:
        return REPLY if self.read_from == "text" else 1

    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        if self.read_from == "text":
            return self._parse(asked)
        answers = self.engine.choose(self.prompts(asked), self.letters)
        read = [self._weigh(duel, order, answer) for (duel, order), answer in zip(asked, answers, strict=True)]
        unread = [i for i, verdict in enumerate(read) if verdict.win is None]
        for i, verdict in zip(unread, self._parse([asked[i] for i in unread]), strict=True):
            read[i] = (
                verdict if verdict.win is not None else replace(read[i], reason=f"{read[i].reason}; {verdict.reason}")
            )
        return read

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        return [self.question(*a) for a in asked]

    def question(self, duel: Duel, order: Order) -> Sample:
        """What the judge is asked: images and question first, so that both orders share the longest prefix."""
        a, b = (duel.ours, duel.theirs) if order == "ours_first" else (duel.theirs, duel.ours)
        return about(
            duel.sample,
            Path(self.prompt),
            longest=self.max_characters,
            reference=duel.sample.reference,
            a=a,
            b=b,
        )

    def _weigh(self, duel: Duel, order: Order, answer: Choice | Failed) -> Verdict:
        if isinstance(answer, Failed):
            return Verdict(duel.sample.id, order, None, reason=answer.reason)
        mass = sum(answer.probs.values())
        if not (mass > 0 and mass >= self.min_mass):  # so written, NaN is unread too
            names = ", ".join(self.letters[:-1]) + f" and {self.letters[-1]}"
            return Verdict(duel.sample.id, order, None, reason=f"{names} have probability {mass:.3f}")
        probs = {option: p / mass for option, p in answer.probs.items()}
        letter = max(self.letters, key=lambda option: probs[option])
        tied = probs[self.letters[2]] if len(self.letters) == 3 else 0.0
        soft = probs[self.letters[0 if order == "ours_first" else 1]] + tied / 2
        return Verdict(duel.sample.id, order, self._win(letter, order), soft, detail=probs)

    def _parse(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        sampling = Sampling(temperature=0.0, max_tokens=REPLY)
        answers = self.engine.generate(self.prompts(asked), 1, sampling)
        verdicts: list[Verdict] = []
        for (duel, order), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failed):
                verdicts.append(Verdict(duel.sample.id, order, None, reason=answer.reason))
                continue
            letter = letter_of(answer[0].text, self.letters)
            win = None if letter is None else self._win(letter, order)
            reason = "" if letter else f"replied {answer[0].text[:60]!r}"
            verdicts.append(Verdict(duel.sample.id, order, win, win, reason))
        return verdicts

    def _win(self, letter: str, order: Order) -> float:
        if letter not in self.letters[:2]:
            return 0.5
        return float(letter == self.letters[0 if order == "ours_first" else 1])


def letter_of(reply: str, letters: Sequence[str]) -> str | None:
    """The letter that a reply consists of; «A tie», «A and B» or «A is worse» are not an A."""
    options = "|".join(map(re.escape, letters))
    pattern = rf"\W*(?:(?:response|answer|option)\W+)?({options})(?:\W*(?:\n|$)|[.:)*]| is better\b)"
    exact = len({letter.casefold() for letter in letters}) < len(letters)
    match = re.match(pattern, reply, 0 if exact else re.IGNORECASE)
    if match is None:
        return None
    return next(letter for letter in letters if letter == match[1] or letter.casefold() == match[1].casefold())
