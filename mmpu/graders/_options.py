"""The options of a question, and which of them a text says in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mmpu.graders._labels import plain
from mmpu.graders._text import UNSAID, alike, composed, unwrapped, words

_TAKEN_BACK = UNSAID - {"or", "either"}
"""Words before an option that is not meant; «a bus or a car» means both, which is no answer."""
_FACTOR, _MARGIN = 2, 100
"""How much longer than the longest option a text may be that is one: decoration takes room."""
_ARTICLES = {"a", "an", "the", "in", "on", "at", "of", "from", "by"}


@dataclass(frozen=True)
class Options:
    """Texts of options, which are compared as exactly as is needed to tell them apart."""

    texts: tuple[str, ...]

    @cached_property
    def words(self) -> list[list[str]]:
        return [words(text) for text in self.texts]

    def equal_to(self, text: str) -> set[int]:
        """The options that are equal to a text, by the strictest comparison that finds one."""
        for level in (_exact, _folded, _undecorated):
            found = {i for i, option in enumerate(self.texts) if level(option) == level(text)}
            if found:
                return found
        said = words(text)
        found = {i for i, option in enumerate(self.words) if option and option == said}
        return found or {i for i, option in enumerate(self.words) if option and alike(option, said)}

    def whole(self, text: str) -> int | None:
        """The option that a whole text is, if it is one only, or equal ones."""
        if len(text) > _FACTOR * max(map(len, self.texts), default=0) + _MARGIN:
            return None
        found = self.equal_to(text.strip().rstrip(".")) or self.equal_to(text)
        return min(found) if found and len({_exact(self.texts[i]) for i in found}) == 1 else None

    def repeated(self) -> list[tuple[str, list[int]]]:
        """Texts that several options have."""
        alike: dict[str, list[int]] = {}
        for index, text in enumerate(self.texts):
            alike.setdefault(_exact(text), []).append(index)
        return [(text, indices) for text, indices in alike.items() if len(indices) > 1]

    def mentioned(self, text: str) -> int | None:
        """The one option whose words occur in a text without being taken back.

        «a red bus» mentions «bus» too: an option inside another one that is mentioned does not count.
        """
        said = words(text)
        found = [i for i, option in enumerate(self.words) if not _letter(option) and _mentions(said, option)]
        whole = [
            i
            for i in found
            if not any(
                j != i and _inside(self.words[i], self.words[j]) and self.words[i] != self.words[j] for j in found
            )
        ]
        return whole[0] if len(whole) == 1 else None

    def others_mentioned(self, text: str, index: int, own: bool = False) -> bool:
        """Whether a text mentions options, and none of them is this one."""
        said = words(text)
        if own or _mentions(said, self.words[index]):
            return False
        return any(
            i != index and not _letter(option) and _mentions(said, option) for i, option in enumerate(self.words)
        )

    def after_own_text(self, index: int, rest: str) -> str:
        """What follows an option's text where a text begins with it; else all of the text."""
        own = " ".join(plain(self.texts[index]).split()).casefold()
        for marks in (" \t:.)-–—\"'", " \t:.)-–—\"'("):
            start = rest.lstrip(marks)
            if own and start.casefold().startswith(own) and not start[len(own) : len(own) + 1].isalnum():
                return start[len(own) :]
        return rest


def _exact(text: str) -> str:
    return " ".join(composed(text).split())


def _folded(text: str) -> str:
    return composed(_exact(text).casefold())


def _undecorated(text: str) -> str:
    return _folded(unwrapped(text).strip(" .,;:!?\"'"))


def _letter(option: list[str]) -> bool:
    """Whether an option is one letter, which occurs in any text without being meant: «I», «a»."""
    return len(option) == 1 and len(option[0]) == 1 and option[0].isalpha()


def _inside(short: list[str], long: list[str]) -> bool:
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def _mentions(said: list[str], option: list[str]) -> bool:
    """Whether the words of an option stand in a text without being taken back."""
    if not option:
        return False
    first, length = option[0], len(option)
    before = ""
    for i, word in enumerate(said):
        if word == first and said[i : i + length] == option and before not in _TAKEN_BACK:
            return True
        if word not in _ARTICLES:
            before = word
    return False
