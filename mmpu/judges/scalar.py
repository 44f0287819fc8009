"""A language model gives each answer a mark by itself, and the better mark wins: yes or no, or 0 to 10.

`yes_no` reads P(yes) / (P(yes) + P(no)) off the next-token distribution (METHODS 6.1); `0_10` parses a whole number,
since «10» is one token for some models and two for others. A judge that may reason first is parsed in both. Both marks
stand in the verdict beside the win, in 0..1. A mark is a reading of its own, so an answer is marked once, whomever it
meets: a baseline's is not paid for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpu.core import Choice, Engine, Failed, Response, Sample, digest
from mmpu.duel import MARKS, Duel, Judge, Order, Verdict
from mmpu.knobs import Count, Share
from mmpu.prompts import MAX_CHARACTERS, about, prompt_hash, template_of
from mmpu.replies import SHORT, Reply, letter_of, out_of_ten, shortly

YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")


@dataclass(frozen=True)
class _Mark:
    """An answer's mark, 0..1, or why there is none, and what the judge said about it."""

    value: float | None
    reason: str = ""
    said: str = ""

    def verdict(self, sample: str, order: Order) -> Verdict:
        return Verdict(sample, order, self.value, reason=self.reason, said=self.said)


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
    min_mass: Share = 0.1
    """Least probability on yes and no together for a mark to count."""
    reasoning: bool = False
    """The judge may think or reason first; its mark is the last `[[7]]` or `[[Yes]]`, and what it said is kept."""
    max_tokens: Count = 4096
    """Of a reply that may reason."""
    max_characters: Count = MAX_CHARACTERS

    def __post_init__(self) -> None:
        template_of(Path(self.prompt))

    @property
    def reply(self) -> Reply:
        return Reply(True, self.max_tokens) if self.reasoning else Reply()

    @property
    def identity(self) -> str:
        prompt = digest([prompt_hash(Path(self.prompt)), self.rubric])
        settings = (self.scale, self.min_mass, self.max_characters)
        settings += ("reasoning", self.max_tokens) if self.reasoning else ()
        return ":".join(map(str, ("scalar", self.engine.identity, self.revision, *settings, prompt)))

    @property
    def orders(self) -> tuple[Order, ...]:
        return MARKS

    @property
    def reply_tokens(self) -> int:
        return self.max_tokens if self.reasoning else SHORT if self.scale == "0_10" else 1

    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        marks = dict(zip(_answers(asked), self._marks(self.prompts(asked)), strict=True))
        return [marks[duel.sample.id, _alone(duel, order)].verdict(duel.sample.id, order) for duel, order in asked]

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        return [self.question(sample, text) for (_, text), sample in _answers(asked).items()]

    def question(self, sample: Sample, answer: str) -> Sample:
        """What the judge is asked about one answer."""
        rubric = str(sample.meta.get("rubric") or self.rubric) or None
        quoted = {"reference": sample.reference, "answer": answer, "rubric": rubric}
        asked = about(sample, Path(self.prompt), longest=self.max_characters, **quoted)
        return self.reply.asked(asked, Path(self.prompt), "7" if self.scale == "0_10" else "Yes")

    def _marks(self, questions: Sequence[Sample]) -> list[_Mark]:
        if self.scale == "0_10" or self.reasoning:
            return self._parse(questions)
        choices = self.engine.choose(questions, (*YES, *NO))
        marks = [self._weigh(choice) for choice in choices]
        declined = [isinstance(choice, Failed) and choice.final for choice in choices]
        unread = [i for i, mark in enumerate(marks) if mark.value is None and not declined[i]]
        for i, mark in zip(unread, self._parse([questions[i] for i in unread]), strict=True):
            marks[i] = mark
        return marks

    def _weigh(self, answer: Choice | Failed) -> _Mark:
        if isinstance(answer, Failed):
            return _Mark(None, answer.reason)
        yes, no = (sum(answer.probs[option] for option in options) for options in (YES, NO))
        if not (yes + no > 0 and yes + no >= self.min_mass):
            return _Mark(None, f"yes and no have probability {yes + no:.3f}")
        return _Mark(yes / (yes + no))

    def _parse(self, questions: Sequence[Sample]) -> list[_Mark]:
        answers = self.engine.generate(questions, 1, self.reply.sampling)
        return [_Mark(None, a.reason) if isinstance(a, Failed) else self._mark_of(a[0]) for a in answers]

    def _mark_of(self, response: Response) -> _Mark:
        text, said = self.reply.verdict(response), self.reply.said(response)
        if isinstance(text, Failed):
            return _Mark(None, text.reason, said)
        if self.scale == "0_10":
            value = out_of_ten(text)
        else:
            word = letter_of(text, (YES[0], NO[0]))
            value = None if word is None else float(word == YES[0])
        return _Mark(value, f"replied {shortly(text)}" if value is None else "", said)


def _answers(asked: Sequence[tuple[Duel, Order]]) -> dict[tuple[str, str], Sample]:
    """The answers to mark, each once."""
    return {(duel.sample.id, _alone(duel, order)): duel.sample for duel, order in asked}


def _alone(duel: Duel, order: Order) -> str:
    return (duel.theirs if order == "theirs" else duel.ours).strip()
