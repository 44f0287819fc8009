"""A Python function as a scorer: what `mmpu.train(…, scorer=f)` makes of `f(sample, text)`. None abstains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu import lent
from mmpu.core import NAN, Group, Scorer


@dataclass(frozen=True)
class Function(Scorer):
    of: str
    """The name that `mmpu.lent.lend` gave it."""

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        return [tuple(self._value(group, response.text) for response in group.responses) for group in groups]

    def _value(self, group: Group, text: str) -> float:
        found = lent.value(self.of, group.sample, text)
        return NAN if found is None else found
