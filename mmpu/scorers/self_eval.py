"""Anchored self-evaluation g(x, a, y) of PU-RLD (arXiv 2601.20687): the student grades a candidate in the anchor's
light.

Three ways to read a score, all in [0, 1]:

* `expected` (default): one digit is asked for and its distribution read once, s = Σ v p(v) / (9 Σ p(v)). Dense and
deterministic.
* `generate`: the paper's literal way, greedy decoding of a reply that is a number and nothing else.
* `yes_no`: P(yes) / (P(yes) + P(no)).

Below `min_mass` on the options, `expected` falls back to `generate`, and `generate` to `expected` where s* has no
number; what stays unreadable abstains. Readings of two modes are on two scales, so a group falls back as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmpu.core import NAN, Choice, Engine, Failed, Group, Response, Sample, Sampling, Scorer
from mmpu.knobs import Share
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
    min_mass: Share = 0.5
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
        return self._scored(groups, anchored=False)

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """s* is read in the mode of its group. Readings do not know of each other, so all are asked for at once."""
        extended = [replace(group, responses=(group.taught, *group.responses)) for group in groups]
        return [(found[1:], found[0]) for found in self._scored(extended, anchored=True)]

    def _scored(self, groups: Sequence[Group], anchored: bool) -> list[tuple[float, ...]]:
        """Args:
        anchored: The first response of each group is its anchor.
        """
        scores = self._in_mode(self.mode, groups)
        if self.mode == "yes_no":
            return scores
        # s* steers the whole group; a candidate of which no number can be parsed abstains alone.
        steering = 1 if self.mode == "generate" and anchored else 0 if self.mode == "generate" else None
        unread = [i for i, found in enumerate(scores) if any(map(math.isnan, found[:steering]))]
        other = "generate" if self.mode == "expected" else "expected"
        for i, found in zip(unread, self._in_mode(other, [groups[i] for i in unread]), strict=True):
            scores[i] = found
        return scores

    def _in_mode(self, mode: str, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        read = {"expected": self._digits, "generate": self._generate, "yes_no": self._yes_no}[mode]
        found = iter(read(asked) if asked else [])
        return [tuple(next(found) if r.text.strip() else 0.0 for r in group.responses) for group in groups]

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

        values = read(asked, 0.0)
        missing = [i for i, v in enumerate(values) if math.isnan(v)]
        if missing:
            for i, value in zip(missing, read([asked[i] for i in missing], 1.0), strict=True):
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
