"""What self-evaluation asks for, and how a grade is read off the probabilities of the next token.

    expected   s = Σ_v v p(v) / (9 Σ_v p(v)),  v = 0 … 9
    yes_no     s = P(yes) / (P(yes) + P(no))
    compare    s = ½ [P(A | candidate, anchor) + P(B | anchor, candidate)],  P normalised over A and B

All in [0, 1]. In `compare` the two orders cancel what a model has for a letter, and s* is ½: between two equal texts
there is nothing to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from mmpu.core import NAN, Choice, Failed, Group, Message, Part, Response, Sample
from mmpu.prompts import about
from mmpu.readings import Read
from mmpu.thinking import answer_of

Wording = Literal["full", "short"]
Opening = Literal["none", "bare", "blank"]
DIGITS = tuple("0123456789")
YES, NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
PROMPT = Path(__file__).with_name("self_eval.txt")
SHORT = Path(__file__).with_name("self_eval_short.txt")
COMPARE = Path(__file__).with_name("self_eval_compare.txt")
ASK = {
    "expected": ("Reply with one digit from 0 (wrong) to 9 (perfect).", "Digit:"),
    "generate": ("Reply with a number between 0 (wrong) and 1 (perfect).", "Number:"),
    "yes_no": ("Is the candidate answer right? Reply with Yes or No.", "Yes or No:"),
    "compare": ("Reply with A or B.", "A or B:"),
}
"""What is asked for, and its short reminder. Only the reminder stands behind the candidate: every token there is paid
for once per candidate, all others once per prompt."""
BRIEFLY = {
    "expected": ("How well does the candidate agree with the reference? Reply with one digit, 0 to 9.", "Digit:"),
    "generate": ("How well does the candidate agree with the reference? Reply with a number, 0 to 1.", "Number:"),
    "yes_no": ("Does the candidate say the same as the reference? Reply with Yes or No.", "Yes or No:"),
}
"""The same in the `short` wording, which asks for agreement and nothing else."""
CHOSEN = frozenset({"expected", "yes_no", "compare"})
"""Modes that are read off the probabilities of options."""
EXTREMES = {"expected": ("0", "9"), "yes_no": ("No", "Yes")}
"""How an example's wrong and right candidate are graded."""


@dataclass(frozen=True)
class Example:
    """A graded candidate, shown before the one to be graded."""

    question: str
    reference: str
    candidate: str
    right: bool


@dataclass(frozen=True)
class Asking:
    """A way to ask for a grade."""

    mode: str
    anchor: bool = True
    wording: Wording = "full"
    opening: Opening = "none"
    examples: tuple[Example, ...] = ()
    prompt: Path | None = None
    """In place of the wording's."""

    @property
    def options(self) -> tuple[str, ...]:
        return {"expected": DIGITS, "yes_no": (*YES, *NO), "compare": ("A", "B")}[self.mode]

    def prompts(self, group: Group, response: Response) -> list[Sample]:
        """The prompts that grade a response: one, or one for each order."""
        if self.mode != "compare":
            return [self._graded(group.sample, _anchor(group) if self.anchor else None, response.text)]
        ask, cue = ASK["compare"]
        texts = (_anchor(group) or "", response.text)
        asked = [
            about(group.sample, COMPARE, first=first, second=second, ask=ask, cue=self._behind(cue))
            for first, second in (texts, texts[::-1])
        ]
        return [self._opened(sample, cue) for sample in asked]

    def length(self, group: Group) -> int:
        """Characters of the prompts that grade a group's responses, those that are shared once."""
        prompts = [self.prompts(group, response) for response in group.responses]
        return sum(length(order) for order in zip(*prompts, strict=True))

    def value(self, choices: Sequence[Choice]) -> float:
        """The grade, from the choices of `prompts`; NaN where no option has any probability."""
        if not all(sum(choice.probs.values()) for choice in choices):
            return NAN
        if self.mode == "compare":
            behind, before = (_share(choice.probs, ("A",)) for choice in choices)
            return (before + (1 - behind)) / 2
        if self.mode == "yes_no":
            return _share(choices[0].probs, YES)
        probs = choices[0].probs
        return sum(int(d) * p for d, p in probs.items()) / (9 * sum(probs.values()))

    def _graded(self, sample: Sample, anchor: str | None, candidate: str) -> Sample:
        short = self.wording == "short" and anchor is not None  # it asks for agreement with the reference
        ask, cue = (BRIEFLY if short else ASK)[self.mode]
        template = self.prompt or (SHORT if short else PROMPT)

        def asked(sample: Sample, anchor: str | None, candidate: str) -> Sample:
            behind = self._behind(cue)
            found = about(sample, template, anchor=anchor, candidate=candidate, ask=ask, cue=behind)
            return found if behind else _stripped(found)

        shown: list[Message] = []
        for each in self.examples:
            example = replace(sample, prompt=(Message("user", (Part("text", each.question),)),))
            grade = EXTREMES[self.mode][each.right]
            given = self._opened(asked(example, each.reference, each.candidate), cue, grade)
            shown += given.prompt
        found = self._opened(asked(sample, anchor, candidate), cue)
        return replace(found, prompt=(*shown, *found.prompt))

    def _behind(self, cue: str) -> str:
        """What of the reminder stands in the question itself."""
        return cue if self.opening == "none" else ""

    def _opened(self, sample: Sample, cue: str, grade: str = "") -> Sample:
        """The question with the beginning of its answer, or with all of an example's."""
        begun = {"none": "", "bare": cue, "blank": f"{cue} "}[self.opening]
        said = f"{begun.rstrip()} {grade}".strip() if grade else begun
        return replace(sample, prompt=(*sample.prompt, Message("assistant", (Part("text", said),)))) if said else sample


def _anchor(group: Group) -> str | None:
    return None if group.anchor is None else answer_of(group.anchor)


def _stripped(sample: Sample) -> Sample:
    """Without blank lines at the end, where the reminder would have stood."""
    *before, last = sample.prompt[-1].parts
    return replace(sample, prompt=(Message("user", (*before, Part("text", last.data.rstrip()))),))


def _share(probs: Mapping[str, float], of: Sequence[str]) -> float:
    return sum(probs[option] for option in of) / sum(probs.values())


def mass(choices: Sequence[Choice | Failed]) -> float:
    """Probability on the options, the least over the prompts of one grade."""
    return min((1 - choice.outside for choice in choices if isinstance(choice, Choice)), default=NAN)


def read(
    askings: Sequence[Asking],
    asked: Sequence[tuple[Group, Response]],
    choose: Callable[[Sequence[Sample], Sequence[str]], Sequence[Choice | Failed]],
    least: float,
) -> list[list[Read]]:
    """A grade for each response, by each of several ways to ask for one thing; NaN with the reason where less than
    `least` is on the options.

    Prompts of one order stand together, and so do those of one response: what follows each other then begins alike.
    """
    prompts = [[asking.prompts(group, response) for asking in askings] for group, response in asked]
    orders = range(len(prompts[0][0]) if asked else 0)
    found = iter(choose([ways[order] for order in orders for each in prompts for ways in each], askings[0].options))
    choices = [[[next(found) for _ in askings] for _ in asked] for _ in orders]
    return [
        [_read(asking, [choices[order][i][way] for order in orders], least) for i in range(len(asked))]
        for way, asking in enumerate(askings)
    ]


def length(prompts: Sequence[Sample]) -> int:
    """Characters of prompts that follow each other; what they begin with alike counts once, if it is half of them."""
    texts = ["".join(message.text for message in prompt.prompt) for prompt in prompts]
    shared = [_alike(a, b) for a, b in pairwise(texts)]
    return sum(map(len, texts)) - sum(n for n, text in zip(shared, texts[1:], strict=True) if 2 * n >= len(text))


def _alike(a: str, b: str) -> int:
    """Characters with which both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _read(asking: Asking, choices: Sequence[Choice | Failed], least: float) -> Read:
    for choice in choices:
        if isinstance(choice, Failed):
            return Read(NAN, reason=choice.reason)
    known = [choice for choice in choices if isinstance(choice, Choice)]
    sure = mass(known)
    if sure < least:
        return Read(NAN, sure, f"{sure:.2f} of the next token's probability is on {'/'.join(asking.options[:2])}…")
    return Read(asking.value(known), sure)
