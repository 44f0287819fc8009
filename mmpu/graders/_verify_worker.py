"""The process behind `_verify`: a JSON question per line on stdin, `1` or `0` per line on stdout."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, cast

_MEMORY = 4 * 2**30
"""Bytes of address space; a real answer takes a small part of it."""


def main() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limit on this system: the time limit remains
        pass
    sys.set_int_max_str_digits(10_000)
    logging.disable()
    import math_verify

    parse, verify = cast(Any, math_verify.parse), cast(Any, math_verify.verify)

    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            # The parent holds the clock.
            gold = parse(f"${question['gold']}$", parsing_timeout=None)
            text = question["found"] if question["prose"] else f"${question['found']}$"
            equal = verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None)
        except Exception:  # a parser fed by models fails in every way there is, and the next question must be answered
            equal = False
        print(int(equal), file=answers, flush=True)


if __name__ == "__main__":
    main()
