"""Where in a text the answer stands, for graders of words."""

from __future__ import annotations

import re

_ANSWER_IS = re.compile(r"\banswer\s*(?:is|:)\s*:?", re.IGNORECASE)
UNSAID = {"not", "t", "or", "nor", "neither", "either"}
"""Before an answer, words that take it back: «not 12», «isn't 12», «11 or 12»."""


def announced(text: str) -> str | None:
    """What stands after the last «answer is» or «answer:»; None if nothing is announced."""
    parts = _ANSWER_IS.split(text)
    return parts[-1] if len(parts) > 1 else None


def words(text: str) -> list[str]:
    """Numbers and words, in lower case, without punctuation."""
    return re.findall(r"-?\d+(?:\.\d+)?|[^\W\d_]+", text.casefold())
