"""Numbers as people and models write them: thousands, signs, fractions, exponents, currency, percent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from mmpu.graders._answer import read
from mmpu.graders._arithmetic import rational
from mmpu.graders._forms import Number

_LONGEST = 300
"""Characters of a number, and digits before its point; the largest float has 309."""
_READ = 400
"""Characters of what a mark holds that are read as one formula."""
_MINUS = "-−﹣－"
_GROUP = r"(?:,|\{,\}|,?\\[,!;: ]|[\u00a0\u2009\u202f'’_](?=\d{3}(?!\d)))"
_DIGITS = rf"\d+(?:{_GROUP}\d+)*"
_CURRENCY = r"(?:\\?\$|[€£¥₹₽₩]|\\text\{\s*\\?\$\s*\})\s?"
_POWER = (
    r"[eE][+-]?\d{1,3}(?![\d.])|\s*(?:\\times|\\cdot|×|·|⋅|\*|x)\s*10\s*"
    rf"(?:\^\s*\{{?\s*[{_MINUS}+]?\d{{1,3}}\s*\}}?|[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
)
_NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![\w)])[{_MINUS}]|[−﹣－]|(?<!\d)–)(?={_CURRENCY}|[\d.\\½-¾⅐-⅞]))?(?:{_CURRENCY}(?P<inner>[{_MINUS}](?=[\d.]))?)?"
    r"(?:(?P<mixed>\d+ \d+/\d+(?!\d)|\d*\s?\\[dtc]?frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)|\d*\s?[½¼¾⅐-⅞])"
    rf"|(?P<digits>\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d)|0,\d+|{_DIGITS}(?:\.\d+)?|\.\d+)"
    rf"(?:(?P<power>{_POWER})|\s?[/⁄∕]\s?(?P<below>{_DIGITS}(?:\.\d+)?)(?![\d/]))?)"
    r"(?P<percent>\s?\\?[%％])?"
)
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?")
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺−﹣－–", "0123456789-+----")
_ORDINARY = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_DATE = re.compile(r"\d+/\d+/\d+")
_CHINESE = re.compile(r"(?<!\d)(\d{1,9})\s?分之\s?(\d{1,9})")


@dataclass(frozen=True)
class Quantity:
    """A number, and whether it is written in per cent."""

    value: Fraction
    percent: bool = False


def first(text: str) -> Quantity | None:
    """The first number of a text."""
    return _foremost(_NUMBER.finditer(_CHINESE.sub(r"\2/\1", text)))


def last(text: str) -> Quantity | None:
    """The last number of a text."""
    return _foremost(reversed(list(_NUMBER.finditer(_CHINESE.sub(r"\2/\1", text)))))


def single(text: str) -> Quantity | None:
    """The number of a text that has one only."""
    matches = list(_NUMBER.finditer(_CHINESE.sub(r"\2/\1", text)))
    return _quantity(matches[0]) if len(matches) == 1 else None


def _foremost(matches: Iterable[re.Match[str]]) -> Quantity | None:
    return next((quantity for match in matches if (quantity := _quantity(match)) is not None), None)


def whole(text: str) -> Quantity | None:
    """The number that all of a text is, with its name, currency and unit: `x = \\$1{,}234.50`, `2^{10}`, `3 apples`."""
    if len(text) <= _LONGEST and _ORDINARY.fullmatch(text):
        return Quantity(Fraction(text))
    if len(text) > _READ or _DATE.fullmatch(text.strip()):
        return None
    form = read(_CHINESE.sub(r"\2/\1", text))
    if isinstance(form, Number) and len(form.values) == 1:
        value = rational(form.values[0])
        return None if value is None or not _sized(value) else Quantity(value, form.percent)
    match = _NUMBER.fullmatch(text.strip())
    return _quantity(match) if match else None


def inside(text: str) -> Quantity | None:
    """The number that a mark holds: all of it, or else the first one after its last `=`."""
    found = whole(text) or whole(text.rpartition("=")[2])
    if found is not None:
        return found
    return first(text.rpartition("=")[2]) or first(text)


def _quantity(match: re.Match[str]) -> Quantity | None:
    if len(match[0]) > _LONGEST:
        return None
    try:
        value = _mixed(match["mixed"]) if match["mixed"] else _decimal(match["digits"])
        if match["below"] and match.string[match.start() - 1 : match.start()] == "/":  # of a date
            value = _decimal(match["below"])
        elif match["below"]:
            value /= _decimal(match["below"])
        if match["power"]:
            value *= Fraction(10) ** _exponent(match["power"])
    except (ValueError, ZeroDivisionError):
        return None
    if match["sign"] or match["inner"]:
        value = -value
    return Quantity(value, match["percent"] is not None) if _sized(value) else None


def _sized(value: Fraction) -> bool:
    return abs(value) < 10**_LONGEST


def _decimal(digits: str) -> Fraction:
    if _EUROPEAN.fullmatch(digits) and ("," in digits or digits.count(".") > 1):
        digits = digits.replace(".", "").replace(",", ".")
    elif digits.startswith("0,"):
        digits = digits.replace(",", ".")
    return Fraction(re.sub(r"[^\d.]", "", digits))


def _exponent(power: str) -> int:
    plain = power.translate(_PLAIN)
    return int(plain[1:] if plain[0] in "eE" else re.sub(r"[^\d-]", "", plain.partition("10")[2]))


def _mixed(text: str) -> Fraction:
    form = read(text)
    if not isinstance(form, Number) or not isinstance(form.values[0], Fraction):
        raise ValueError(text)
    return form.values[0]
