"""What stands with a knob beside its type: the range of a number, and whether a run may go on with another value.

    lr: Annotated[float, Interval(gt=0, le=1)] = 1e-6
    tokens_per_pass: Annotated[Count, MAY_CHANGE] = 16384

`config.py` holds what it reads to the ranges, of plug-ins' dataclasses as of ours; a class that is often made without a
config calls `faults` where it is made. A number without a range of its own is finite.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

from annotated_types import Interval

FEW = 10**4
MANY = 2**31 - 1
"""What counts of things are at most: more is a slip of the keyboard, or overflows somewhere below."""
DAY = 86400.0

Count = Annotated[int, Interval(ge=1, le=MANY)]
CountOrZero = Annotated[int, Interval(ge=0, le=MANY)]
"""0 switches off, or takes all."""
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Share = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(gt=0, le=1)]
Positive = Annotated[float, Interval(gt=0, le=1e6)]
NotNegative = Annotated[float, Interval(ge=0, le=1e6)]
Ratio = Annotated[float, Interval(ge=1, le=1e6)]
"""Largest ratio of two probabilities."""
Momentum = Annotated[float, Interval(ge=0, lt=1)]
Temperature = Annotated[float, Interval(ge=0, le=100)]
Seconds = Annotated[float, Interval(gt=0, le=7 * DAY)]
Parallel = Annotated[int, Interval(ge=1, le=FEW)]
"""Calls in flight, candidates, or attempts."""
Retries = Annotated[int, Interval(ge=0, le=FEW)]


@dataclasses.dataclass(frozen=True)
class MayChange:
    """Marks a knob on which no result depends, so that a run may go on with another value."""


MAY_CHANGE = MayChange()


def limits(marks: Iterable[object]) -> list[Interval]:
    """The ranges among what an annotation says."""
    return [mark for mark in marks if isinstance(mark, Interval)]


def outside(value: object, ranges: Sequence[Interval]) -> str | None:
    """What a number should be, if it is not; NaN is in no range."""
    if not isinstance(value, int | float):
        return None
    for each in ranges:
        low = (each.gt is None or value > cast(float, each.gt)) and (each.ge is None or value >= cast(float, each.ge))
        high = (each.lt is None or value < cast(float, each.lt)) and (each.le is None or value <= cast(float, each.le))
        if not (low and high):
            return _words(each)
    return None


def range_words(ranges: Sequence[Interval]) -> str:
    """What a number must be, in words; empty where it may be any."""
    return ", ".join(map(_words, ranges))


def _words(each: Interval) -> str:
    said = [("above", each.gt), ("at least", each.ge), ("below", each.lt), ("at most", each.le)]
    return " and ".join(f"{word} {_short(bound)}" for word, bound in said if bound is not None)


def _short(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def infinite(value: object) -> bool:
    """True if a value is, or holds, a number that is not finite, or larger than any use."""
    if isinstance(value, int | float):
        return not math.isfinite(value) if isinstance(value, float) else abs(value) >= 2**63
    if isinstance(value, Mapping):
        return any(map(infinite, cast(Mapping[object, object], value).values()))
    return isinstance(value, list | tuple) and any(map(infinite, cast(Sequence[object], value)))


def faults(instance: object) -> list[str]:
    """What is out of range in a dataclass that was made without a config, `top_p=2 (above 0 and at most 1)`."""
    found: list[str] = []
    for name, ranges in _ranges(type(instance)).items():
        value = getattr(instance, name)
        if (wanted := outside(value, ranges)) is not None:
            found.append(f"{name}={value!r} ({wanted})")
    return found


@functools.cache
def _ranges(cls: type[object]) -> dict[str, list[Interval]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cast(Any, cls))]
    return {name: found for name in names if (found := limits(marks(hints[name])))}


def marks(hint: Any) -> tuple[object, ...]:
    """What an annotation says beside the type, that of `X | None` about X included."""
    if typing.get_origin(hint) is Annotated:
        inner, *said = typing.get_args(hint)
        return (*said, *marks(inner))
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return marks(kinds[0]) if len(kinds) == 1 and type(None) in typing.get_args(hint) else ()
