"""Python functions that this session lends to configs under a name: a notebook's scorers and graders, which no file
holds.

A name is made of the function's own and of its source, so that a run is not taken up again by another function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from mmpu.core import Sample, UserError, digest

Judgement = Callable[[Sample, str], float | None]
"""A sample and a text; what it is worth, or None if that cannot be said."""

_LENT: dict[str, Judgement] = {}


def lend(function: Judgement) -> str:
    """The name under which a function can be called from now on."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # made by exec, or a callable object
        code = getattr(function, "__code__", None)
        source = repr((code.co_code, code.co_consts, code.co_names)) if code else repr(type(function))
    name = f"{getattr(function, '__name__', type(function).__name__).strip('<>')}-{digest(source)[:8]}"
    _LENT[name] = function
    return name


def lent(name: str) -> Judgement:
    """Raises:
    UserError: no such function was lent in this session.
    """
    if name not in _LENT:
        raise UserError(
            f"the Python function {name} is not known here: it was given to mmpu.train or mmpu.Task in another "
            "session, or has changed since; give it again there, or put it into a plug-in's scorers/ or graders/"
        )
    return _LENT[name]


def value(name: str, sample: Sample, text: str) -> float | None:
    """What a lent function says of a text.

    Raises:
        UserError: it fails, or returns no number.
    """
    try:
        found = lent(name)(sample, text)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} fails on sample {sample.id!r}: {type(error).__name__}: {error}") from error
    try:
        return None if found is None else float(found)
    except (TypeError, ValueError):
        raise UserError(f"{name} returned {found!r:.80} for sample {sample.id!r}; a number or None is wanted") from None
