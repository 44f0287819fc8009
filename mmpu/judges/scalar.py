"""A language model gives each answer a mark by itself, and the better mark wins: yes or no, or 0 to 10.

`yes_no` reads P(yes) / (P(yes) + P(no)) off the next-token distribution (METHODS 6.1); `0_10` parses a number, since
«10» is one token for some models and two for others. Both marks stand in the verdict beside the win, in 0..1. A mark
is a reading of its own, so an answer is marked once, whomever it meets: a baseline's is not paid for again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpu.core import Choice, Engine, Failed, Sample, Sampling, digest
from mmpu.duel import MARKS, Duel, Judge, Order, Verdict
from mmpu.prompts import MAX_CHARACTERS, about, prompt_hash, template_of

REPLY = 8
"""Tokens of a reply that is parsed."""
YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")
_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_NUMBER = re.compile(
    r"[^\w-]*(?:(?:score|rating|mark|grade)[^\w-]+)?(10|\d)(?:\.0+)?(?:\s*/\s*10)?(?:\W*(?:\n|$)|[.,;:)*])", re.I
)


@dataclass(frozen=True)
class Scalar(Judge):
    engine: Engine
    prompt: str
    """A Jinja file with `question`, `reference`, `answer`, `rubric`; relative to the judge's YAML."""
    scale: Literal["yes_no", "0_10"] = "0_10"
    rubric: str = ""
    """What to look for; a sample's own `meta.rubric` comes before it."""
    name: str = "scalar"
    describe: str = "a language model marked each answer by itself"
    revision: str = ""
    weighting: Literal["hard", "soft"] = "hard"
    min_mass: float = 0.1
    """Least probability on yes and no together for a mark to count."""
    max_characters: int = MAX_CHARACTERS

    def __post_init__(self) -> None:
        template_of(Path(self.prompt))

    @property
    def identity(self) -> str:
        prompt = digest([prompt_hash(Path(self.prompt)), self.rubric])
        settings = (self.scale, self.min_mass, self.max_characters)
        return ":".join(map(str, ("scalar", self.engine.identity, self.revision, *settings, prompt)))

    @property
    def orders(self) -> tuple[Order, ...]:
        return MARKS

    @property
    def reply_tokens(self) -> int:
        return REPLY if self.scale == "0_10" else 1

    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        marks = dict(zip(_answers(asked), self._marks(self.prompts(asked)), strict=True))
        return [_verdict(duel.sample.id, order, marks[duel.sample.id, _alone(duel, order)]) for duel, order in asked]

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        return [self.question(sample, text) for (_, text), sample in _answers(asked).items()]

    def question(self, sample: Sample, answer: str) -> Sample:
        """What the judge is asked about one answer."""
        rubric = str(sample.meta.get("rubric") or self.rubric) or None
        quoted = {"reference": sample.reference, "answer": answer, "rubric": rubric}
        return about(sample, Path(self.prompt), longest=self.max_characters, **quoted)

    def _marks(self, questions: Sequence[Sample]) -> list[float | Failed]:
        if self.scale == "0_10":
            return self._parse(questions)
        marks = [self._weigh(answer) for answer in self.engine.choose(questions, (*YES, *NO))]
        unread = [i for i, mark in enumerate(marks) if isinstance(mark, Failed)]
        for i, mark in zip(unread, self._parse([questions[i] for i in unread]), strict=True):
            marks[i] = mark
        return marks

    def _weigh(self, answer: Choice | Failed) -> float | Failed:
        if isinstance(answer, Failed):
            return answer
        yes, no = (sum(answer.probs[option] for option in options) for options in (YES, NO))
        if not (yes + no > 0 and yes + no >= self.min_mass):
            return Failed(f"yes and no have probability {yes + no:.3f}")
        return yes / (yes + no)

    def _parse(self, questions: Sequence[Sample]) -> list[float | Failed]:
        answers = self.engine.generate(questions, 1, Sampling(temperature=0.0, max_tokens=REPLY))
        return [a if isinstance(a, Failed) else self._mark_of(a[0].text) for a in answers]

    def _mark_of(self, reply: str) -> float | Failed:
        match = (_NUMBER if self.scale == "0_10" else _WORD).match(reply)
        if match is None:
            return Failed(f"replied {reply[:60]!r}")
        return int(match[1]) / 10 if self.scale == "0_10" else float(match[1].casefold() == "yes")


def _answers(asked: Sequence[tuple[Duel, Order]]) -> dict[tuple[str, str], Sample]:
    """The answers to mark, each once."""
    return {(duel.sample.id, _alone(duel, order)): duel.sample for duel, order in asked}


def _alone(duel: Duel, order: Order) -> str:
    return (duel.theirs if order == "theirs" else duel.ours).strip()


def _verdict(sample: str, order: Order, mark: float | Failed) -> Verdict:
    return (
        Verdict(sample, order, None, reason=mark.reason) if isinstance(mark, Failed) else Verdict(sample, order, mark)
    )
