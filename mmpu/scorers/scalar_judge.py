"""T-Judge (baseline of ROPD, arXiv 2605.07396): the teacher grades each response with one number in [0, 1].

One call per response and visit; a reply without a readable number is asked for once more, then the scorer abstains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpu.core import NAN, Engine, Group, Sample, Sampling, Scorer
from mmpu.knobs import Count
from mmpu.prompts import about, template_path
from mmpu.replies import score_of

PROMPT = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class ScalarJudge(Scorer):
    judge: Engine
    """Who grades, such as {name: openai, model: …}."""
    max_tokens: Count = 16
    """Tokens of a reply at most."""
    prompt: str | None = None
    """A Jinja file with `question` and `candidate`; default: scalar_judge.txt beside this file."""

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """An empty response is worth 0 without a call."""
        template = template_path(self.prompt, PROMPT)
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        prompts = [about(group.sample, template, candidate=response.text) for group, response in asked]
        values = self._ask(prompts, 0)
        unread = [i for i, value in enumerate(values) if math.isnan(value)]
        # Another seed, or a store in front of the judge would give the same unreadable reply again.
        for i, value in zip(unread, self._ask([prompts[i] for i in unread], 1), strict=True):
            values[i] = value
        found = iter(values)
        return [tuple(next(found) if r.text.strip() else 0.0 for r in group.responses) for group in groups]

    def _ask(self, prompts: Sequence[Sample], seed: int) -> list[float]:
        sampling = Sampling(temperature=0.0, max_tokens=self.max_tokens, seed=seed)
        replies = self.judge.generate(prompts, 1, sampling) if prompts else []
        return [score_of(reply[0]) if isinstance(reply, tuple) else NAN for reply in replies]
