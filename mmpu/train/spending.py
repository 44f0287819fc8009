"""What a search for an evaluator may cost, what it has cost, and how long the rest will take. The unit is the token
that goes through the model, so that the same search is made on every machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmpu.core import Group
from mmpu.readings import Read, Reader

GUESS = 0.3
"""Tokens of a character, until some have been counted."""


@dataclass
class Spending:
    """A budget, and what is known of costs.

    Args:
        budget: Tokens.
        counted: How many have been through the model so far; always 0 where nobody counts, and then nothing costs.
    """

    budget: int
    counted: Callable[[], int] = lambda: 0
    characters: int = 0
    """That were read, by the readers' own estimate."""
    first: int = 0
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.first = self.counted()

    @property
    def spent(self) -> int:
        return self.counted() - self.first

    @property
    def left(self) -> int:
        return self.budget - self.spent

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def reads(self, ways: Sequence[Reader], groups: Sequence[Group]) -> tuple[list[list[tuple[Read, ...]]], int]:
        """Reads of ways of one question, and the tokens that they took."""
        before = self.spent
        found = ways[0].together(ways, groups)
        self.characters += max(sum(map(way.length, groups)) for way in ways)
        return found, self.spent - before

    def tokens(self, characters: int) -> int:
        """That so many characters are, about."""
        if not self.characters:
            return round(GUESS * characters)
        return round(self.spent / self.characters * characters)

    def told(self, tokens: int) -> str:
        """Tokens with the time that they will take, as far as that is known."""
        if not self.spent:
            return f"about {tokens:,} tokens through the model"
        return f"about {tokens:,} tokens through the model, {self.seconds / self.spent * tokens:.0f} s"
