"""Multiple choice: which option a text names, by index, letter, its words, or the only option it mentions.

The options are `meta.choices`, the right one's text is the answer. Looked at are, in this order: what is announced
(after «answer is» in many languages, in a box, a tag or a field `"answer"`), the last announcement first; the one
option that is called right («C is correct»); a line that is a label alone; the whole text. In each place: a label,
`(2)`, `Option C`, `**C**`, `\\text{C}`, `C. word`, `C, because …`; the option's text; a bare `2` or `C`; the one option
whose words occur. A bare number that is an option's text names that option, as the official metric of A-OKVQA (string
equality) has it; a bare letter that is both a label and an option's text is the label, as MMMU has it, unless
`letters: texts`.

Refused: none or several options (an echo of the options names them all), an option taken back («not a bus»), an index
or letter that disagrees with the words after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from mmpu.core import Grader, Remark, Sample, UserError
from mmpu.graders import _labels
from mmpu.graders._options import Options
from mmpu.graders._text import announcements, composed, unwrapped

_LONGEST = 100_000
"""Characters at the end of a text that are looked at."""
_ANNOUNCED = 20
"""Announcements that are looked at, from the last one back."""
Named = int | Literal["several"] | None
"""The option that a place names; `several` where it names more than one, or none that there is."""


@dataclass(frozen=True)
class Choice(Grader):
    first: int = 0
    """Number of the first option in the prompt: 0 for «(0) … (3)», 1 for «(1) … (4)»."""
    letters: Literal["labels", "texts"] = "labels"
    """What a bare letter is where it is both a label and an option's text, as in «(A) D (B) A»."""

    def grade(self, sample: Sample, text: str) -> float | None:
        if sample.answer is None:
            return None
        options = _options(sample)
        right = options.equal_to(sample.answer)
        if not right:
            raise UserError(f"sample {sample.id!r}: the answer {sample.answer!r} is not among its `meta.choices`")
        return float(self._chosen(options, text) in right)

    def key(self, sample: Sample, text: str) -> str | None:
        chosen = self._chosen(_options(sample), text)
        return None if chosen is None else str(chosen)

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        if sample.answer is None:
            return None
        options = _options(sample)
        right = options.equal_to(sample.answer)
        # The text alone where it says which option is meant; a label is always there to say it.
        plain = not right or self._chosen(options, sample.answer) in right
        return (sample.answer if plain else f"({chr(ord('A') + min(right))})"), 1.0

    def remarks(self, sample: Sample) -> list[Remark]:
        options = _options(sample)
        right = options.equal_to(sample.answer or "")
        found = [
            Remark("problem" if set(same) & right else "note", f"options {_named(same)} cannot be told apart: {text!r}")
            for text, same in options.repeated()
        ]
        letters = [text for text in options.texts if len(text.strip()) == 1 and text.strip().isalpha()]
        if any(self._index(letter, len(options.texts)) is not None for letter in letters):
            meant = "its text" if self.letters == "texts" else "the label"
            found.append(Remark("note", f"options are letters themselves; a bare letter is read as {meant}"))
        return found

    def _chosen(self, options: Options, text: str) -> int | None:
        text = text[-_LONGEST:]
        for place in reversed(announcements(text)[-_ANNOUNCED:]):
            found = self._read(options, place, announced=True)
            if found is not None:
                return None if found == "several" else found
        count = len(options.texts)

        def own(label: str, rest: str) -> bool:
            index = self._index(label, count)
            return index is not None and not options.after_own_text(index, rest).strip(" .")

        for stated in (_labels.called_right(text), lines := _labels.alone(text, own)):
            named = {index for label in stated if (index := self._index(label, count)) is not None}
            if len(named) == 1:
                return named.pop()
            if named and stated is lines:
                return None
        found = self._read(options, text, announced=False)
        return None if found == "several" else found

    def _read(self, options: Options, place: str, announced: bool) -> Named:
        """The option that a place names; None if it names none."""
        count = len(options.texts)
        said, raw = _labels.plain(place), composed(unwrapped(place)).strip()
        if (label := _labels.bracketed(said)) is not None and (index := self._index(label, count)) is not None:
            return index
        own = options.whole(raw)
        bare = self._index(said.strip(" .,;:!?\"'。"), count)
        if own is not None and (bare is None or self.letters == "texts" or said.strip()[:1].isdigit()):
            return own
        if bare is not None:
            return bare
        start = _labels.at_start(said)
        index = None if start is None else self._index(start.label, count)
        if start is not None and index is not None:
            return self._confirmed(options, index, start, announced)
        if announced and (
            _labels.stranger(said) or _labels.listed(said, lambda label: self._index(label, count) is not None)
        ):
            return "several"
        scope = _labels.sentence(said) if announced else said
        named = {
            index for label in _labels.within(scope, announced) if (index := self._index(label, count)) is not None
        }
        if len(named) == 1:
            (index,) = named
            return "several" if options.others_mentioned(_labels.without(scope), index) else index
        if named and announced:
            return "several"
        first = _labels.sentence(raw) if announced else raw
        found = options.mentioned(first)
        return options.mentioned(raw) if found is None and first != raw else found

    def _confirmed(self, options: Options, index: int, start: _labels.Start, announced: bool) -> Named:
        """The option whose label a text begins with, if what follows names no other one."""
        count = len(options.texts)
        rest = options.after_own_text(index, start.rest)
        ended = start.alone or rest.startswith((". ", "! ", ".\n"))
        said = "" if ended else _labels.before_reason(_labels.sentence(rest))
        if ended and options.whole(_labels.sentence(rest.lstrip(" .!\n"))) not in (None, index):
            return "several"
        if _labels.dismissed(said):
            return None
        others = {self._index(label, count) for label in _labels.within(said, capitals=start.bare)} - {index, None}
        if others or _labels.offers_another(rest):
            return "several"
        echoed = {self._index(label, count) for label in _labels.enumerated(rest)} - {index, None}
        if echoed and not announced and not start.alone:
            return "several"
        return "several" if options.others_mentioned(_labels.without(said), index, rest != start.rest) else index

    def _index(self, label: str, count: int) -> int | None:
        if len(label) > 2 or not (label.isdecimal() or (len(label) == 1 and label.isalpha() and label.isascii())):
            return None
        index = int(label) - self.first if label.isdecimal() else ord(label.casefold()) - ord("a")
        return index if 0 <= index < count else None


def _named(indices: Sequence[int]) -> str:
    return " and ".join(chr(ord("A") + index) if index < 26 else str(index) for index in indices)


def _options(sample: Sample) -> Options:
    choices = sample.meta.get("choices")
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise UserError(f"sample {sample.id!r}: grader choice needs the options as a list in `meta.choices`")
    return Options(tuple(str(choice) for choice in cast(Sequence[object], choices)))
