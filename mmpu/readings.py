"""A scorer that can read its scores in several ways, of which one is to be chosen before it is trusted.

Who reads, such as a student that grades itself, differs in which way it can be read at all: asked for a digit or for
yes and no, in few words or many, or not asked but measured. The choice is made by whoever has prompts and anchors
(`mmpu/train/search.py`); what there is to choose among, and how each way is made, is the scorer's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmpu.core import NAN, Group, Scorer


class Read(NamedTuple):
    """A score with what it rests on."""

    score: float
    mass: float = NAN
    """Probability that the model gave to the options it was offered; NaN where it was offered none."""
    reason: str = ""
    """Why the score is NaN, where that is known."""


class Reader(Scorer):
    """A scorer with `readings`, each of which is such a scorer too."""

    @property
    @abstractmethod
    def copies(self) -> bool:
        """True if a text scores high for repeating the anchor, whatever it is worth."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """What to write in a config for this way of reading."""

    @property
    def question(self) -> str:
        """What is asked, in a word or two: ways of one question differ only in where their answer begins. Nothing where
        nothing is asked."""
        return ""

    def length(self, group: Group) -> int:
        """Characters that go through the model for `reads([group])`, those that are shared once: what it will cost,
        roughly."""
        texts = (group.anchor or "", *(response.text for response in group.responses))
        return sum(map(len, (*texts, *(message.text for message in group.sample.prompt))))

    def together(self, ways: Sequence[Reader], groups: Sequence[Group]) -> list[list[tuple[Read, ...]]]:
        """`reads` of several ways of one question, which a scorer may make in shared passes."""
        return [way.reads(groups) for way in ways]

    @abstractmethod
    def readings(self, examples: Sequence[Group]) -> Mapping[str, Reader]:
        """The ways to read, by name.

        Args:
            examples: Anchored groups of other prompts, which a way may show to the model.
        """

    @abstractmethod
    def averaged(self, weights: Mapping[str, float], examples: Sequence[Group]) -> Reader:
        """The weighted average of some of the `readings`."""

    @abstractmethod
    def restored(self, settings: Mapping[str, object]) -> Reader:
        """The way of reading whose `settings` these are, as JSON keeps them."""

    @abstractmethod
    def reads(self, groups: Sequence[Group]) -> list[tuple[Read, ...]]:
        """`score`, with what each score rests on; what cannot be read so is NaN."""
