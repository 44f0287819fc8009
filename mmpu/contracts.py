"""What a component of a plug-in returns is held to what its base class says, where it is called: who breaks it is
named, with what it should return, and nothing is trained, judged or stored on it.

Components of mmpu itself are held by the type checker and by tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

from mmpu.core import Choice, Failed, Response, UserError

Fault = Callable[..., str | None]
"""Of what was returned and of what it was called with, what is wrong; None if nothing is."""


def keep(cls: type[object], kind: str) -> None:
    """Holds the calls of a class of a plug-in to its base's word, from now on.

    Raises:
        UserError: the class lacks an attribute that every class of its kind has.
    """
    for name in ATTRIBUTES.get(kind, ()):
        if not any(name in vars(each) or name in inspect.get_annotations(each) for each in _own(cls)):
            raise UserError(f"{kind.removesuffix('s')} {cls.__name__} lacks {name}, which every one of them has")
    for name, (fault, wanted) in CONTRACTS.get(kind, {}).items():
        function = getattr(cls, name)
        if not hasattr(function, "held"):
            setattr(cls, name, _held(function, f"{kind.removesuffix('s')} {cls.__name__}: {name}", fault, wanted))


def _own(cls: type[object]) -> list[type[object]]:
    """A class and those that it is made from, without the abstract ones, which promise and do not give."""
    return [each for each in cls.__mro__ if not getattr(each, "__abstractmethods__", None)]


def _held(function: Callable[..., Any], what: str, fault: Fault, wanted: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def held(self: object, *args: Any, **named: Any) -> Any:
        found = function(self, *args, **named)
        if (wrong := fault(found, *args, *named.values())) is not None:
            raise UserError(f"{what} returned {wrong}; it returns {wanted}")
        return found

    cast(Any, held).held = True
    return held


def _count(found: object, wanted: int) -> str | None:
    if not isinstance(found, list | tuple):
        return f"{found!r:.60}"
    number = len(cast(Sized, found))
    return None if number == wanted else f"{number} of {wanted}"


def _first(found: object, wrong: Callable[[Any], bool]) -> str | None:
    return next((f"{each!r:.60} among them" for each in cast(Sequence[object], found) if wrong(each)), None)


def _generated(found: object, samples: Sequence[object], n: int, *_: object) -> str | None:
    def wrong(each: Any) -> bool:
        if isinstance(each, Failed):
            return False
        drawn = cast(Sequence[Any], each if isinstance(each, tuple) else ())
        return not 1 <= len(drawn) <= n or not all(
            isinstance(r, Response) and isinstance(cast(object, r.raw), str) for r in drawn
        )

    return _count(found, len(samples)) or _first(found, wrong)


def _chosen(found: object, samples: Sequence[object], *_: object) -> str | None:
    return _count(found, len(samples)) or _first(found, lambda each: not isinstance(each, Choice | Failed))


def _scored(found: object, groups: Sequence[object], *_: object) -> str | None:
    return _count(found, len(groups)) or _first(
        found, lambda each: not hasattr(each, "__len__") or isinstance(each, str)
    )


def _rows(found: object, *_: object) -> str | None:
    parts = ("sample", "response", "weight")
    if not isinstance(found, list | tuple):
        return f"{found!r:.60}"
    return _first(found, lambda each: not all(hasattr(each, part) for part in parts))


def _lost(found: Any, *_: object) -> str | None:
    pair = isinstance(found, tuple) and len(cast(Sized, found)) == 2
    good = (
        pair
        and getattr(found[0], "ndim", None) == 0
        and hasattr(found[0], "backward")
        and isinstance(found[1], Mapping)
    )
    return None if good else f"{found!r:.60}"


def _graded(found: object, *_: object) -> str | None:
    return None if found is None or (isinstance(found, int | float) and 0 <= found <= 1) else f"{found!r:.60}"


def _read(found: object, asked: Sequence[tuple[Any, str]], *_: object) -> str | None:
    if (wrong := _count(found, len(asked))) is not None:
        return wrong
    for verdict, (duel, order) in zip(cast(Sequence[Any], found), asked, strict=True):
        if (getattr(verdict, "sample", None), getattr(verdict, "order", None)) != (duel.sample.id, order):
            return f"{verdict!r:.60} for sample {duel.sample.id!r}, {order}"
    return None


CONTRACTS: Mapping[str, Mapping[str, tuple[Fault, str]]] = {
    "engines": {
        "generate": (_generated, "per sample a tuple of 1 to n Responses, or Failed"),
        "choose": (_chosen, "per sample a Choice, or Failed"),
    },
    "scorers": {"score": (_scored, "per group a tuple of numbers, one per response")},
    "methods": {
        "supervise": (_rows, "a list of Rows"),
        "loss": (_lost, "a tensor without dimensions and a mapping of tensors"),
    },
    "graders": {"grade": (_graded, "a number from 0 to 1, or None")},
    "judges": {"read": (_read, "a Verdict for each duel and order, with their sample and order")},
}
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {"judges": ("name", "describe")}
