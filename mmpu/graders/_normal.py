"""The normalisation under which the MATH data set compares answers as strings (Hendrycks et al. 2021).

Spacing, `\\left`, degrees, dollar and percent signs and a trailing unit go; `\\tfrac`, `\\frac12`, `1/2` and `\\sqrt3`
become `\\frac{1}{2}` and `\\sqrt{3}`; `x = 5` is 5, `.5` is `0.5`, and 0.5 is one half.
"""

from __future__ import annotations

import re

_DROPPED = re.compile(r"\n|\\[!,;: ]|\\left|\\right|\^\{?\\circ\}?|\\?%|\\\$|\$")
_UNIT = re.compile(r"\\(?:text|mbox|mathrm)\{\s[^{}]*\}\s*$")
_SHORT_FRACTION = re.compile(r"\\frac(?:(\w)(\w)|(\w)\{|(\{[^{}]*\})(\w))")
_SLASH = re.compile(r"(-?\d+)/(-?\d+)")


def normalise(text: str) -> str:
    """An answer in a form in which the data set's equal answers are equal strings."""
    text = re.sub(r"\\[td]frac", r"\\frac", _DROPPED.sub("", text.replace("\\\\", "\\")))
    text = _UNIT.sub("", text)
    text = re.sub(r"(^|[\s{(,])\.(?=\d)", r"\g<1>0.", text)
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left.strip()) <= 2:
        text = right
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", re.sub(r"\s", "", text))
    text = _SHORT_FRACTION.sub(_fraction, text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return _SLASH.sub(r"\\frac{\1}{\2}", text) if _SLASH.fullmatch(text) else text


def _fraction(match: re.Match[str]) -> str:
    if match[1]:
        return rf"\frac{{{match[1]}}}{{{match[2]}}}"
    return rf"\frac{{{match[3]}}}{{" if match[3] else rf"\frac{match[4]}{{{match[5]}}}"
