"""The text is the answer, up to white space around and inside it.

Accepts: ` Paris\\n` for "Paris", whether its letters are composed or not; with `case: false` (the default) also
`paris`. Refuses everything else, a full stop, a sign and a vowel mark included.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mmpu.core import Grader, Sample


@dataclass(frozen=True)
class Exact(Grader):
    case: bool = False
    """Whether capital letters count."""

    def grade(self, sample: Sample, text: str) -> float | None:
        if sample.answer is None:
            return None
        return float(self._plain(text) == self._plain(sample.answer))

    def key(self, sample: Sample, text: str) -> str | None:
        return self._plain(text) or None

    def _plain(self, text: str) -> str:
        plain = " ".join(text.split())
        return unicodedata.normalize("NFC", plain if self.case else unicodedata.normalize("NFC", plain).casefold())
