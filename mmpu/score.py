"""A score with its anatomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self


class Score(float):
    """A score that says what it is made of: a number as any other for who does not ask."""

    parts: Mapping[str, float]
    """What it was made of, by name, such as the items of a rubric."""

    def __new__(cls, value: float, parts: Mapping[str, float]) -> Self:
        made = super().__new__(cls, value)
        made.parts = parts
        return made
