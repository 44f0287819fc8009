"""The texts by which an evaluator is tried on a prompt, made of anchors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmpu.core import Group, Response


@dataclass(frozen=True)
class Case:
    """A prompt with texts to grade: its anchor, another prompt's, the anchor altered and, where there is one, a second
    answer and that one altered."""

    number: int
    group: Group

    @property
    def right(self) -> int:
        """The place of the right text that is not the anchor itself, or else of the anchor."""
        return 3 if len(self.group.responses) > 3 else 0

    def judging(self, copies: bool) -> tuple[int, ...]:
        """Places of the right text, or of what else there is, that judge a way: the other's anchor with the anchor and
        the altered anchor; or, for one that may copy, with the second answer and that one altered, if there is one."""
        if copies:
            return (1, self.right, self.right + 1) if self.right else ()
        return (0, 1, 2)

    def only(self, places: Sequence[int]) -> Group:
        """The group with the texts of some places."""
        return replace(self.group, responses=tuple(self.group.responses[place] for place in places))


def case_of(groups: Sequence[Group], i: int, seconds: Mapping[str, str]) -> Case | None:
    """The texts of the i-th prompt; None where it has no anchor, or nobody another one."""
    group = groups[i]
    other = another(i, [each.anchor for each in groups])
    if not (group.anchor or "").strip() or other is None:
        return None
    own, wrong = group.taught, Response(other)
    texts = [own, wrong, Response(altered(own.text, wrong.text))]
    second = seconds.get(group.sample.id)
    if second is not None and plain(second) not in (plain(group.anchor or ""), ""):
        texts += [Response(second), Response(altered(second, wrong.text))]
    return Case(i, replace(group, responses=tuple(texts), scores=()))


def altered(text: str, other: str) -> str:
    """Much the same text, and wrong: its numbers are changed or, if it has none, its second half is the other's."""
    if re.search(r"\d", text):
        return re.sub(r"\d+", lambda match: str(int(match[0]) + 1 + int(match[0]) % 3), text)
    words, others = text.split(), other.split()
    return " ".join([*words[: len(words) // 2], *others[len(others) // 2 :]])


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def another(i: int, anchors: Sequence[str | None]) -> str | None:
    """The next anchor that differs from the i-th, in order."""
    for step in range(1, len(anchors)):
        other = anchors[(i + step) % len(anchors)]
        if other is not None and other.strip() and plain(other) != plain(anchors[i] or ""):
            return other
    return None
