"""What a mathematical answer can be, and when two of them say the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from mmpu.graders._arithmetic import Real, near, shown

_ROUNDED = 6
"""Significant digits from which a decimal stands for every value that it is the rounding of."""
_SAME = 1e-25
"""Share by which two values of 50 digits may differ and be the same."""
_MOST = 50
"""Items of a list that are compared."""
PLAIN_WORDS = re.compile(r"[\w\s.,;'’()-]+")


@dataclass(frozen=True)
class Number:
    """A number, or a formula whose variables stand for fixed points."""

    values: tuple[Real, ...]
    digits: int = 0
    """Significant digits of a decimal; 0 for what is exact."""
    percent: bool = False
    source: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return " ".join(map(shown, self.values))


@dataclass(frozen=True)
class Several:
    """A list or set, whose order says nothing, or an ordered pair or interval."""

    brackets: str
    """`{}` of a list or a set, `()`, `[]`, `[)`, `(]`, `=` of values with names, or `∪`."""
    items: tuple[Form, ...]
    names: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("{}", "∪")

    @property
    def key(self) -> str:
        keys = [item.key for item in self.items]
        kept = keys if self.ordered else sorted(set(keys))
        named = ",".join(self.names)
        return f"{self.brackets[0]}{named}{'; '.join(kept)}{self.brackets[-1]}"


@dataclass(frozen=True)
class Based:
    """Digits to a base that is written beside them."""

    digits: str
    base: str
    source: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return f"{self.digits}_{self.base}"


@dataclass(frozen=True)
class Words:
    """What is none of the others."""

    text: str
    source: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return self.text


Form = Number | Several | Based | Words
Equal = Callable[[Form, Form], bool]


def same(left: Form, right: Form, otherwise: Equal) -> bool:
    """Whether two answers say the same.

    Args:
        otherwise: Asked of parts that cannot be compared here.
    """
    if isinstance(left, Number) and isinstance(right, Number):
        return _same_numbers(left, right)
    if isinstance(left, Several) and isinstance(right, Several):
        return _same_items(left, right, otherwise)
    if isinstance(left, Based) and isinstance(right, Based):
        return left == right
    if isinstance(left, Based) or isinstance(right, Based):
        based, other = (left, right) if isinstance(left, Based) else (right, left)
        assert isinstance(based, Based)
        return isinstance(other, Number) and based.digits.isdigit() and other.values == (Fraction(based.digits),)
    several = left if isinstance(left, Several) else right
    if isinstance(several, Several):
        one = right if several is left else left
        if isinstance(one, Number) and several.brackets == "{}":
            return len(several.items) == 1 and same(several.items[0], one, otherwise)
    if any(isinstance(form, Words) and PLAIN_WORDS.fullmatch(form.text) for form in (left, right)):
        return left.key == right.key
    return left.key == right.key or otherwise(left, right)


def _same_numbers(left: Number, right: Number) -> bool:
    if left.values == right.values:
        return True
    if len(left.values) != 1 or len(right.values) != 1:
        pairs = zip(left.values, right.values, strict=False)
        return len(left.values) == len(right.values) and all(near(a, b, _SAME) for a, b in pairs)
    (ours,), (theirs,) = left.values, right.values
    digits = [digits for digits in (left.digits, right.digits) if digits >= _ROUNDED]
    share = 0.5 * 10.0 ** (1 - min(digits)) if digits else _SAME
    if near(ours, theirs, share):
        return True
    if left.percent == right.percent:
        return False
    hundredth = Number((ours / 100,)) if left.percent else Number((theirs / 100,))
    return near(hundredth.values[0], theirs if left.percent else ours, _SAME)


def _same_items(left: Several, right: Several, otherwise: Equal) -> bool:
    brackets = {left.brackets, right.brackets}
    if len(left.items) > _MOST or len(right.items) > _MOST:
        return left.key == right.key
    if "=" in brackets and len(brackets) > 1:  # x = 3, y = 5 against (3, 5)
        ordered = brackets <= {"=", "()", "{}"} and len(left.items) == len(right.items)
        return ordered and all(same(a, b, otherwise) for a, b in zip(left.items, right.items, strict=True))
    if len(brackets) > 1 or left.names != right.names:
        return False
    if left.ordered:
        return len(left.items) == len(right.items) and all(
            same(a, b, otherwise) for a, b in zip(left.items, right.items, strict=True)
        )
    these, those = (tuple({item.key: item for item in several.items}.values()) for several in (left, right))
    if len(these) != len(those):
        return False
    pending = list(those)
    for item in these:
        found = next((other for other in pending if other.key == item.key), None)
        found = found or next((other for other in pending if same(item, other, otherwise)), None)
        if found is None:
            return False
        pending.remove(found)
    return True
