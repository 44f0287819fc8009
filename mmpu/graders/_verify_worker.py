"""The process behind `_verify`: a JSON question per line on stdin, `1` or `0` per line on stdout."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, cast

_MEMORY = 4 * 2**30
"""Bytes of address space; a real answer takes a small part of it."""


_PROBE = 7919


def main() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limit on this system: the time limit remains
        pass
    sys.set_int_max_str_digits(10_000)
    logging.disable()
    _parsed("1")  # imports sympy, before the first question's time runs

    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            equal = _equal(question["gold"], question["found"])
        except Exception:  # a parser fed by models fails in every way there is, and the next question must be answered
            equal = False
        print(int(equal), file=answers, flush=True)


def _equal(gold: str, found: str) -> bool:
    """Whether math-verify holds two answers equal, and has read all of both."""
    import math_verify

    verify = cast(Any, math_verify.verify)
    these, those = _parsed(gold), _parsed(found)
    return bool(verify(these, those, timeout_seconds=None)) and _whole(gold, these) and _whole(found, those)


def _parsed(text: str) -> list[Any]:
    import math_verify

    return cast(Any, math_verify.parse)(f"${text}$", parsing_timeout=None)  # the parent holds the clock


def _whole(text: str, parsed: list[Any]) -> bool:
    """Whether a formula was read to both its ends: math-verify drops what it cannot parse without a word.

    A number added at either end must be in the result. Sets, relations and texts cannot be added to; these are read
    by their parts or not at all.
    """
    import sympy

    if not parsed or not isinstance(parsed[0], sympy.Expr):
        return bool(parsed)
    for longer in (f"{text} + {_PROBE}", f"{_PROBE} + {text}"):
        again = _parsed(longer)
        if not again or not isinstance(again[0], sympy.Expr):
            return False
        if cast(Any, sympy.simplify)(cast(Any, again[0]) - parsed[0]) != _PROBE:
            return False
    return True


if __name__ == "__main__":
    main()
