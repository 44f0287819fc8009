"""Multiple choice: which option a text names, by index, letter, its words, or the only option it mentions.

The options are `meta.choices`, the right one's text is the answer. Read from what stands after the last «answer is»,
then from the whole text, in this order: an index or letter, `(2)`, `Option C`, `C. word`; the option's text; a bare `2`
or `C`; the one option whose words occur. So a bare number that is an option's text names that option, as the
official metric of A-OKVQA (string equality) has it. Refused: none or several options mentioned, an option taken back
(«not a bus»), an index or letter that disagrees with the words after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mmpu.core import Grader, Sample, UserError
from mmpu.graders._text import UNSAID, announced, words

_LABEL = re.compile(r"\W*(?:the\s+)?(?:(?:option|choice)\s+\(?(\w)\b|(\w)[.):]\s+(?=\S))", re.IGNORECASE)
_BRACKETED = re.compile(r"\((\w)\)")
_TAKEN_BACK = UNSAID - {"or", "either"}
"""Words before an option that is not meant; «a bus or a car» means both, which is no answer."""
_BARE = re.compile(r"\W*(\w)\W*", re.DOTALL)


@dataclass(frozen=True)
class Choice(Grader):
    first: int = 0
    """Number of the first option in the prompt: 0 for «(0) … (3)», 1 for «(1) … (4)»."""

    def grade(self, sample: Sample, text: str) -> float | None:
        if sample.answer is None:
            return None
        options = _options(sample)
        right = options.index(words(sample.answer)) if words(sample.answer) in options else None
        if right is None:
            raise UserError(f"sample {sample.id!r}: the answer {sample.answer!r} is not among its `meta.choices`")
        return float(self._chosen(options, text) == right)

    def key(self, sample: Sample, text: str) -> str | None:
        chosen = self._chosen(_options(sample), text)
        return None if chosen is None else str(chosen)

    def _chosen(self, options: Sequence[list[str]], text: str) -> int | None:
        tail = announced(text)
        for place in (tail, text):
            if place is not None and (found := self._read(options, place)) is not None:
                return found if found >= 0 else None
        return None

    def _read(self, options: Sequence[list[str]], text: str) -> int | None:
        """The option that a text names; None if it names none, -1 if it contradicts itself."""
        labels, unlabelled = self._labels(text, len(options))
        if len(labels) == 1:
            (index,) = labels
            rest = words(unlabelled)
            others = [o for i, o in enumerate(options) if i != index and _mentions(rest, o)]
            return -1 if others and not _mentions(rest, options[index]) else index
        said = words(text)
        if said in options:
            return list(options).index(said)
        if (bare := _BARE.fullmatch(text)) and (index := self._index(bare[1], len(options))) is not None:
            return index
        mentioned = [i for i, option in enumerate(options) if _mentions(said, option)]
        # «a red bus» mentions «bus» too: an option inside another one that is mentioned does not count.
        whole = [
            i
            for i in mentioned
            if not any(j != i and _inside(options[i], options[j]) and options[i] != options[j] for j in mentioned)
        ]
        return whole[0] if len(whole) == 1 else None

    def _labels(self, text: str, count: int) -> tuple[set[int], str]:
        """The options that a text names by label, one at its start or else those in brackets; and the text without."""
        start = _LABEL.match(text)
        if start:
            found, rest = [start[1] or start[2]], text[start.end() :]
        else:
            found, rest = _BRACKETED.findall(text), _BRACKETED.sub(" ", text)
        return {index for label in found if (index := self._index(label, count)) is not None}, rest

    def _index(self, label: str, count: int) -> int | None:
        index = int(label) - self.first if label.isdecimal() else ord(label.casefold()[0]) - ord("a")
        return index if 0 <= index < count else None


def _options(sample: Sample) -> list[list[str]]:
    choices = sample.meta.get("choices")
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise UserError(f"sample {sample.id!r}: grader choice needs the options as a list in `meta.choices`")
    return [words(str(choice)) or [str(choice).casefold()] for choice in cast(Sequence[object], choices)]


def _inside(short: list[str], long: list[str]) -> bool:
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def _mentions(said: list[str], option: list[str]) -> bool:
    """Whether the words of an option stand in a text without being taken back."""
    for i in range(len(said) - len(option) + 1):
        if said[i : i + len(option)] == option:
            before = next((w for w in reversed(said[:i]) if w not in {"a", "an", "the"}), "")
            if before not in _TAKEN_BACK:
                return True
    return False
