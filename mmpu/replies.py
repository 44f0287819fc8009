"""What a model's reply says where a verdict was asked for: a letter, a word or a number.

It says so alone, in quotes, bold, brackets or a box, with a full stop or a label such as «Score:»; or, where it may
reason first, in the last double brackets, `[[A]]`. A sentence in which a letter or a number occurs («B is worse than
A», «1. The response …») says nothing, and neither does a reply that a limit cut or that is all thinking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from mmpu.core import NAN, Failed, Message, Part, Response, Sample, Sampling
from mmpu.thinking import answer_of

SHORT = 8
"""Tokens of a reply that holds nothing but its verdict."""
LONGEST = 200
"""Characters of a verdict with all that may stand around it."""
_AROUND = r"(?:[\s*_`'\"“”„‘’«»()\[\]{}（）【】$]|\\(?:boxed|text|textbf|mathbf)\s*(?=\{)|\\[()\[\]])*"
_NAMED = (
    r"(?:(?:(?:final|overall)\s+)?(?:response|answer|option|choice|verdict|score|rating|mark|grade)"
    r"[\s*_:：=]+)?"
)
_END = r"[.。]?"
_PLACE = re.compile(r"\[\[([^\[\]]*)\]\]")
_OUT_OF = r"(?P<percent>%)|(?:/|out\s+of\s)\s*(?P<of>[0-9]+(?:\.[0-9]+)?)"
_NUMBER = rf"(?P<value>\+?(?:[0-9]+(?:[.,][0-9]+)?|\.[0-9]+))\s*(?:{_OUT_OF})?"
_THOUSANDS = re.compile(r"\+?[1-9][0-9]*,[0-9]{3}")


@dataclass(frozen=True)
class Reply:
    """How a verdict is asked for and where it stands."""

    reasoning: bool = False
    """The model may reason first; the verdict stands in the last double brackets."""
    max_tokens: int = SHORT

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=self.max_tokens)

    def asked(self, question: Sample, prompt: Path, example: str) -> Sample:
        """A question that also says where the verdict shall stand, unless its prompt does."""
        if not self.reasoning or "[[" in prompt.read_text(encoding="utf-8"):
            return question
        *before, last = question.prompt
        place = f"Reason first. At the very end write that reply in double brackets, as in [[{example}]]."
        return replace(question, prompt=(*before, Message(last.role, (*last.parts, Part("text", place)))))

    def said(self, response: Response) -> str:
        """All that was said, where it is more than a verdict."""
        whole = "\n\n".join(part for part in (response.reasoning.strip(), response.raw.strip()) if part)
        return whole if self.reasoning or whole != response.text.strip() else ""

    def verdict(self, response: Response) -> str | Failed:
        """The text that may be a verdict, or why there is none."""
        text = response.text
        if not response.finished:
            way = "raise `max_tokens`" if self.reasoning else "a judge that thinks or reasons needs `reasoning: true`"
            shown = f"replied {shortly(text)} and" if text.strip() else "thought, and"
            return Failed(f"{shown} was cut after {self.max_tokens} tokens; {way}")
        if not self.reasoning:
            return text
        places = _PLACE.findall(text)
        return str(places[-1]) if places else text


def shortly(text: str) -> str:
    """A reply as a reason quotes it: its beginning, or, if it is long, its end."""
    return repr(text[:60]) if len(text) <= 200 else f"…{text[-60:]!r}"


def letter_of(reply: str, letters: Sequence[str]) -> str | None:
    """The letter, or word, that a reply consists of; «A tie», «A and B» or «A is worse» are not an A.

    Those that differ in case only are told apart by case.
    """
    names = "|".join(map(re.escape, sorted(letters, key=len, reverse=True)))
    exact = len({name.casefold() for name in letters}) < len(letters)
    match = _alone(rf"(?P<value>{names})", reply, exact)
    if match is None:
        return None
    found = match["value"]
    return next(name for name in letters if name == found or (not exact and name.casefold() == found.casefold()))


def out_of_ten(reply: str) -> float | None:
    """A whole number from 0 to 10, as `8`, `8.0` or `8/10`, divided by 10."""
    found = _number(reply)
    if found is None:
        return None
    value, of = found
    return float(value / 10) if of in (None, 10) and value.denominator == 1 and value <= 10 else None


def score_of(response: Response) -> float:
    """The score in [0, 1] that a reply consists of; NaN if it is none, or was cut."""
    return parse_score(response.text) if response.finished else NAN


def parse_score(text: str) -> float:
    """A reply that is a number from 0 to 1, as `0.95`, `0,95`, `95%`, `9/10` or `1/2`; NaN if it is anything else."""
    found = _number(text)
    if found is None:
        return NAN
    value, of = found
    if of == 0 or (of not in (None, 1) and 0 < value < 1):  # «0.9/10» has two meanings
        return NAN
    value /= of or 1
    return float(value) if value <= 1 else NAN


def _number(reply: str) -> tuple[Fraction, Fraction | None] | None:
    """The number that a reply consists of, and what it is said to be out of."""
    match = _alone(_NUMBER, reply, exact=False)
    if match is None or _THOUSANDS.fullmatch(match["value"]):
        return None
    of = Fraction(100) if match["percent"] else Fraction(match["of"]) if match["of"] else None
    return Fraction(match["value"].replace(",", ".")), of


def _alone(pattern: str, reply: str, exact: bool) -> re.Match[str] | None:
    reply = answer_of(reply).strip()
    if len(reply) > LONGEST:
        return None
    flags = re.NOFLAG if exact else re.IGNORECASE
    # The label is read in either case, whatever the options want.
    whole = rf"{_AROUND}(?i:{_NAMED}){_AROUND}(?:{pattern}){_AROUND}{_END}{_AROUND}"
    return re.fullmatch(whole, reply, flags)
