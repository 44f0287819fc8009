"""A language model compares two answers and replies with a letter (PU-RLD, arXiv 2601.20687, evaluation prompt).

Each duel is asked in both orders, since judges favour a slot, and scored by the mean of the orders that could be
read. The letter is read from the next-token distribution in one call; where an endpoint gives none, a reply is parsed:
the letter alone or, of a judge that may reason first, the last `[[A]]`. What cannot be read stays unread: it is never a
tie, a win, a loss or a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmpu.core import Choice, Engine, Failed, Response, Sample, UserError
from mmpu.duel import Duel, Judge, Order, Verdict
from mmpu.knobs import Count, Share
from mmpu.prompts import MAX_CHARACTERS, about, prompt_hash, template_of
from mmpu.replies import SHORT, Reply, letter_of, shortly


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
    reasoning: bool = False
    """The judge may think or reason first; its verdict, the last `[[A]]`, is read from the text, and what it said is
    kept."""
    max_tokens: Count = 4096
    """Of a reply that may reason."""
    min_mass: Share = 0.5
    """Least probability on the letters together for a reading to count."""
    max_characters: Count = MAX_CHARACTERS
    """Of an answer as the judge sees it; the middle of a longer one is left out."""

    def __post_init__(self) -> None:
        template_of(Path(self.prompt))  # one that cannot be used should fail before anything is asked
        if len(self.letters) not in (2, 3) or len(set(self.letters)) != len(self.letters):
            raise UserError(f"judge {self.name}: `letters` are two or three different replies, got {self.letters}")

    @property
    def reply(self) -> Reply:
        return Reply(True, self.max_tokens) if self.reasoning else Reply()

    @property
    def identity(self) -> str:
        prompt = prompt_hash(Path(self.prompt))
        settings = (self.read_from, self.min_mass, self.max_characters, *self.letters)
        settings += ("reasoning", self.max_tokens) if self.reasoning else ()
        return ":".join(map(str, ("pairwise", self.engine.identity, self.revision, *settings, prompt)))

    @property
    def orders(self) -> tuple[Order, ...]:
        return ("ours_first", "ours_second") if self.order == "both" else ("ours_first",)

    @property
    def reply_tokens(self) -> int:
        return self.max_tokens if self.reasoning else SHORT if self.read_from == "text" else 1

    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        found = dict(self.readings(asked))
        return [found[place] for place in range(len(asked))]

    def readings(self, asked: Sequence[tuple[Duel, Order]]) -> Iterator[tuple[int, Verdict]]:
        if self.read_from == "text" or self.reasoning:
            yield from self._parse(asked)
            return
        unread: dict[int, Verdict] = {}
        for answer in self.engine.choices(self.prompts(asked), self.letters):
            verdict = self._weigh(*asked[answer.index], answer.value)
            if verdict.win is None and not _declined(answer.value):
                unread[answer.index] = verdict
            else:
                yield answer.index, verdict
        places = sorted(unread)
        for index, verdict in self._parse([asked[place] for place in places]):
            before = unread[places[index]]
            lost = replace(before, reason=f"{before.reason}; {verdict.reason}")
            yield places[index], lost if verdict.win is None else verdict

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        return [self.reply.asked(self.question(*a), Path(self.prompt), self.letters[0]) for a in asked]

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

    def _parse(self, asked: Sequence[tuple[Duel, Order]]) -> Iterator[tuple[int, Verdict]]:
        for answer in self.engine.answers(self.prompts(asked), 1, self.reply.sampling):
            (duel, order), value = asked[answer.index], answer.value
            if isinstance(value, Failed):
                yield answer.index, Verdict(duel.sample.id, order, None, reason=value.reason)
            else:
                yield answer.index, self._verdict(duel.sample.id, order, value[0])

    def _verdict(self, sample: str, order: Order, response: Response) -> Verdict:
        text, said = self.reply.verdict(response), self.reply.said(response)
        if isinstance(text, Failed):
            return Verdict(sample, order, None, reason=text.reason, said=said)
        letter = letter_of(text, self.letters)
        if letter is None:
            return Verdict(sample, order, None, reason=f"replied {shortly(text)}", said=said)
        win = self._win(letter, order)
        return Verdict(sample, order, win, win, said=said)

    def _win(self, letter: str, order: Order) -> float:
        if letter not in self.letters[:2]:
            return 0.5
        return float(letter == self.letters[0 if order == "ours_first" else 1])


def _declined(answer: Choice | Failed) -> bool:
    return isinstance(answer, Failed) and answer.final
