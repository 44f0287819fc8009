"""Anchored self-evaluation g(x, a, y) of PU-RLD (arXiv 2601.20687): the student grades a candidate in the anchor's
light.

Three ways to read a score, all in [0, 1]:

* `expected` (default): one digit is asked for and its distribution read once, s = Σ v p(v) / (9 Σ p(v)). Dense and
deterministic.
* `generate`: the paper's literal way, greedy decoding of a reply that is a number and nothing else.
* `yes_no`: P(yes) / (P(yes) + P(no)).

Below `min_mass` on the options, `expected` falls back to `generate`; what stays unreadable abstains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpu.core import NAN, Choice, Engine, Failed, Group, Response, Sample, Sampling, Scorer
from mmpu.prompts import about, template_path
from mmpu.replies import score_of
from mmpu.thinking import answer_of

PROMPT = Path(__file__).with_suffix(".txt")
DIGITS = tuple("0123456789")
YES, NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
ASK = {
    "expected": ("Reply with one digit from 0 (wrong) to 9 (perfect).", "Digit:"),
    "generate": ("Reply with a number between 0 (wrong) and 1 (perfect).", "Number:"),
    "yes_no": ("Is the candidate answer right? Reply with Yes or No.", "Yes or No:"),
}
"""What is asked for, and its short reminder. Only the reminder stands behind the candidate: every token there is paid
for once per candidate, all others once per prompt."""


@dataclass(frozen=True)
class SelfEval(Scorer):
    engine: Engine
    mode: Literal["expected", "generate", "yes_no"] = "expected"
    anchor: bool = True
    """Show the teacher's answer; without it the student grades from its own knowledge."""
    prompt: str | None = None
    """A Jinja file with `question`, `anchor`, `candidate`, `ask` and `cue`, in place of the toolkit's own."""
    min_mass: float = 0.5
    """Least probability on the options for a reading to count."""
    weights: Literal["frozen", "live"] = "frozen"
    """Who grades: the stage's start, or the student as it is now, which may learn to please itself."""
    live: Engine | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"}) if self.anchor else frozenset()

    @property
    def _grader(self) -> Engine:
        if self.weights == "frozen":
            return self.engine
        assert self.live is not None, "`weights: live` is wired by the recipe"
        return self.live

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """An empty response is worth 0 without a call; one that cannot be read abstains."""
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        read = {"expected": self._expected, "generate": self._generate, "yes_no": self._yes_no}[self.mode]
        values = read(asked)
        if self.mode == "generate":  # s* steers the whole group, so it gets a second way to be read
            unread = [
                i for i, (g, r) in enumerate(asked) if math.isnan(values[i]) and r.tokens is None and r.raw == g.anchor
            ]
            for i, value in zip(unread, self._digits([asked[i] for i in unread]), strict=True):
                values[i] = value
        found = iter(values)
        return [tuple(next(found) if r.text.strip() else 0.0 for r in group.responses) for group in groups]

    def _expected(self, asked: list[tuple[Group, Response]]) -> list[float]:
        return self._fill(self._digits(asked), asked, self._generate)

    def _digits(self, asked: list[tuple[Group, Response]]) -> list[float]:
        def value(probs: dict[str, float]) -> float:
            return sum(int(d) * p for d, p in probs.items()) / (9 * sum(probs.values()))

        return self._choose(asked, "expected", DIGITS, value)

    def _yes_no(self, asked: list[tuple[Group, Response]]) -> list[float]:
        def value(probs: dict[str, float]) -> float:
            yes = sum(probs[y] for y in YES)
            return yes / (yes + sum(probs[n] for n in NO))

        return self._choose(asked, "yes_no", (*YES, *NO), value)

    def _choose(
        self,
        asked: list[tuple[Group, Response]],
        mode: str,
        options: Sequence[str],
        value: Callable[[dict[str, float]], float],
    ) -> list[float]:
        def read(choice: Choice | Failed) -> float:
            if isinstance(choice, Failed) or 1 - choice.outside < self.min_mass or not sum(choice.probs.values()):
                return NAN
            return value(dict(choice.probs))

        prompts = [self._prompt(group, response, mode) for group, response in asked]
        return [read(choice) for choice in self._grader.choose(prompts, options)]

    def _generate(self, asked: list[tuple[Group, Response]]) -> list[float]:
        def read(asked: list[tuple[Group, Response]], temperature: float) -> list[float]:
            prompts = [self._prompt(group, response, "generate") for group, response in asked]
            answers = self._grader.generate(prompts, 1, Sampling(temperature=temperature, max_tokens=8))
            return [score_of(a[0]) if isinstance(a, tuple) else NAN for a in answers]

        return self._fill(read(asked, 0.0), asked, lambda missing: read(missing, 1.0))

    @staticmethod
    def _fill(
        values: list[float],
        asked: list[tuple[Group, Response]],
        again: Callable[[list[tuple[Group, Response]]], list[float]],
    ) -> list[float]:
        """Asks once more where there is no value."""
        missing = [i for i, v in enumerate(values) if math.isnan(v)]
        if missing:
            for i, value in zip(missing, again([asked[i] for i in missing]), strict=True):
                values[i] = value
        return values

    def _prompt(self, group: Group, response: Response, mode: str) -> Sample:
        ask, cue = ASK[mode]
        return about(
            group.sample,
            template_path(self.prompt, PROMPT),
            anchor=answer_of(group.anchor) if self.anchor and group.anchor is not None else None,
            candidate=response.text,
            ask=ask,
            cue=cue,
        )
