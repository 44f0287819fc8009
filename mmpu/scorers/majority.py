"""Agreement with the group's most frequent final answer: 1 with it, 0 against it; no label is read.

Answers count as equal if their canonical form is the same, as in the grader `math`: the same number or formula (`1/2`,
`0.5`, `\\frac12`; `√8`, `2√2`), the same list or set, or the same words. Responses without an answer have no vote and
score 0; ties go to the answer that came first; a group without any answer abstains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpu.core import NAN, Group, Scorer
from mmpu.graders._answer import key
from mmpu.graders._stated import canonical_source


@dataclass(frozen=True)
class Majority(Scorer):
    @property
    def listwise(self) -> bool:
        return True

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        return [agreement([response.text for response in group.responses]) for group in groups]

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """s* is whether the anchor agrees with the candidates' vote, in which it has none."""
        return [(scores, self._agrees(group, scores)) for group, scores in zip(groups, self.score(groups), strict=True)]

    def _agrees(self, group: Group, scores: Sequence[float]) -> float:
        winner = next((r for r, score in zip(group.responses, scores, strict=True) if score == 1), None)
        if winner is None:
            return NAN
        ((_, agrees),) = self.score([replace(group, responses=(winner, group.taught), scores=())])  # a tie: the first
        return agrees


def agreement(texts: Sequence[str]) -> tuple[float, ...]:
    """1 for each text whose answer is the most frequent one, 0 for the others, NaN for all if none has an answer."""
    answers = [canonical(text) for text in texts]
    voted = [answer for answer in answers if answer is not None]
    if not voted:
        return (NAN,) * len(texts)
    winner = max(dict.fromkeys(voted), key=voted.count)  # the first of the most frequent
    return tuple(float(answer == winner) for answer in answers)


def canonical(text: str) -> str | None:
    """A text's final answer in a form in which equal answers are equal; None if it has none.

    The last `\\boxed{}` counts, else what follows the last `####` or «answer is», else the last formula or number.
    """
    source = canonical_source(text)
    return None if source is None else key(source)


def braced(text: str, start: int) -> str:
    """What stands before the brace that closes the one opened just before `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start:]
