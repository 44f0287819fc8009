"""A language model's verdict in one token (arXiv 2604.02621): is the solution correct, Yes or No?

    P_yes = Σ_{v ∈ Y} p(v) / (Σ_{v ∈ Y} p(v) + Σ_{v ∈ N} p(v))       Y, N: all tokens that read yes / no

One forward pass per candidate, no sampling. The paper does not say whether it normalises over the two verdicts; this
does unless told otherwise, which keeps scores comparable across prompts. Where the verdicts have less than `min_mass`
between them the judge has not answered the question, and abstains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpu.core import NAN, Choice, Engine, Failed, Group, Scorer
from mmpu.knobs import Share
from mmpu.prompts import about, template_path
from mmpu.scorers._asking import NO, YES

PROMPT = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class TokenJudge(Scorer):
    judge: Engine
    """Who judges, such as {name: openai, model: …}; one that gives next-token probabilities."""
    hard: bool = False
    """1 if P_yes is above one half, else 0."""
    normalised: bool = True
    """Divide by the mass of both verdicts; otherwise the score is the probability of yes itself."""
    min_mass: Share = 0.1
    """Least probability on yes and no together."""
    prompt: str | None = None
    """A Jinja file with `question` and `candidate`; default: token_judge.txt beside this file."""

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """An empty response is worth 0 without a call."""
        template = template_path(self.prompt, PROMPT)
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        prompts = [about(group.sample, template, candidate=response.text) for group, response in asked]
        found = iter(self.judge.choose(prompts, (*YES, *NO)))
        return [tuple(self._read(next(found)) if r.text.strip() else 0.0 for r in g.responses) for g in groups]

    def _read(self, choice: Choice | Failed) -> float:
        if isinstance(choice, Failed):
            return NAN
        yes, no = (sum(choice.probs[option] for option in options) for options in (YES, NO))
        if yes + no < self.min_mass or yes + no == 0:
            return NAN
        if self.hard:
            return float(yes > no)
        return yes / (yes + no) if self.normalised else yes
