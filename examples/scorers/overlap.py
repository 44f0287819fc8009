"""Unigram F1 of a response with the anchor: a scorer that needs no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import Group, Scorer


@dataclass(frozen=True)
class Overlap(Scorer):
    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"})

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        return [tuple(f1(r.text, g.anchor or "") for r in g.responses) for g in groups]


def f1(text: str, anchor: str) -> float:
    a, b = (Counter(re.findall(r"\w+", t.casefold())) for t in (text, anchor))
    common = sum((a & b).values())
    return 2 * common / (sum(a.values()) + sum(b.values())) if common else 0.0
