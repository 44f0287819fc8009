"""A language model gives each answer a mark by itself, and the better mark wins: yes or no, or 0 to 10.

`yes_no` reads P(yes) / (P(yes) + P(no)) off the next-token distribution (METHODS 6.1); `0_10` parses a whole number,
since «10» is one token for some models and two for others. A judge that may reason first is parsed in both. Both marks
stand in the verdict beside the win, in 0..1. A mark is a reading of its own, so an answer is marked once, whomever it
meets: a baseline's is not paid for again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
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
        found = dict(self.readings(asked))
        return [found[place] for place in range(len(asked))]

    def readings(self, asked: Sequence[tuple[Duel, Order]]) -> Iterator[tuple[int, Verdict]]:
        places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for place, (duel, order) in enumerate(asked):
            places[duel.sample.id, _alone(duel, order)].append(place)
        answers = list(places.values())
        for index, mark in self._marks(self.prompts(asked)):
            for place in answers[index]:
                duel, order = asked[place]
                yield place, mark.verdict(duel.sample.id, order)

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        return [self.question(sample, text) for (_, text), sample in _answers(asked).items()]

    def question(self, sample: Sample, answer: str) -> Sample:
        """What the judge is asked about one answer."""
        rubric = str(sample.meta.get("rubric") or self.rubric) or None
        quoted = {"reference": sample.reference, "answer": answer, "rubric": rubric}
        asked = about(sample, Path(self.prompt), longest=self.max_characters, **quoted)
        return self.reply.asked(asked, Path(self.prompt), "7" if self.scale == "0_10" else "Yes")

    def _marks(self, questions: Sequence[Sample]) -> Iterator[tuple[int, _Mark]]:
        if self.scale == "0_10" or self.reasoning:
            yield from self._parse(questions)
            return
        unread: list[int] = []
        for answer in self.engine.choices(questions, (*YES, *NO)):
            mark, choice = self._weigh(answer.value), answer.value
            if mark.value is None and not (isinstance(choice, Failed) and choice.final):
                unread.append(answer.index)
            else:
                yield answer.index, mark
        unread.sort()
        for index, mark in self._parse([questions[i] for i in unread]):
            yield unread[index], mark

    def _weigh(self, answer: Choice | Failed) -> _Mark:
        if isinstance(answer, Failed):
            return _Mark(None, answer.reason)
        yes, no = (sum(answer.probs[option] for option in options) for options in (YES, NO))
        if not (yes + no > 0 and yes + no >= self.min_mass):
            return _Mark(None, f"yes and no have probability {yes + no:.3f}")
        return _Mark(yes / (yes + no))

    def _parse(self, questions: Sequence[Sample]) -> Iterator[tuple[int, _Mark]]:
        for answer in self.engine.answers(questions, 1, self.reply.sampling):
            value = answer.value
            yield answer.index, _Mark(None, value.reason) if isinstance(value, Failed) else self._mark_of(value[0])

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
