"""Arithmetic on the values of formulas: exact where they are rational, to 50 digits where they are not."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

Real = Any
"""A `Fraction` where the value is rational, else a number of mpmath, which has no types."""

_DIGITS = 50
_BITS = 20_000
_LARGEST = 10**6
"""Exponent, or argument of a function, above which no answer is meant seriously."""


class Unreadable(ValueError):
    """A text is no formula, or holds something that is not known here."""


def shown(value: Real) -> str:
    """A value in 15 digits, a rational one exactly."""
    if isinstance(value, Fraction):
        return str(value)
    context = mp()
    return "~" + str(context.nstr(value, 15, strip_zeros=True))


def rational(value: Real) -> Fraction | None:
    """A real value as a fraction, to 30 digits; None for a complex one."""
    if isinstance(value, Fraction):
        return value
    context = mp()
    return None if isinstance(value, context.mpc) else Fraction(context.nstr(value, 30))


def near(left: Real, right: Real, share: float) -> bool:
    """Whether two values differ by no more than a share of the larger one."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) <= Fraction(share) * max(abs(left), abs(right))
    left, right = _inexact(left), _inexact(right)
    return bool(abs(left - right) <= share * max(abs(left), abs(right)))


@cache
def mp() -> Any:
    context = importlib.import_module("mpmath").mp.clone()  # precision is a setting of the context
    context.dps = _DIGITS
    return context


def _inexact(value: Real) -> Any:
    context = mp()
    return context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def simplified(value: Real) -> Real:
    """A value as a fraction where it is one, such as the square of a root, and as a real number where it is real."""
    if isinstance(value, Fraction):
        return value
    context = mp()
    if not context.isfinite(value):
        raise Unreadable
    size = abs(value)
    if size < context.mpf(10) ** -40:
        return Fraction(0)
    if isinstance(value, context.mpc):
        if abs(value.imag) > size * context.mpf(10) ** -40:
            return value
        value = value.real
    if size > 10**12:
        return value
    close = Fraction(context.nstr(value, _DIGITS - 5)).limit_denominator(10**6)
    return close if close and abs(_inexact(close) - value) < size * context.mpf(10) ** -35 else value


def add(left: Real, right: Real) -> Real:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left + right
    return _inexact(left) + _inexact(right)


def times(left: Real, right: Real) -> Real:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left * right
    return _inexact(left) * _inexact(right)


def over(left: Real, right: Real) -> Real:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left / right
    return _inexact(left) / _inexact(right)


def power(base: Real, exponent: Real) -> Real:
    if abs(exponent) > _LARGEST:
        raise Unreadable
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        exact = _root(base, exponent.denominator)
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if exact is not None and size <= _BITS:
            return exact**exponent.numerator
    return mp().power(_inexact(base), _inexact(exponent))


def _root(base: Fraction, degree: int) -> Fraction | None:
    """The root of a fraction if it is a fraction; of a negative one an odd root is real, as in school."""
    if degree == 1:
        return base
    if degree > 64 or (base < 0 and degree % 2 == 0):
        return None
    parts = [_whole_root(part, degree) for part in (abs(base.numerator), base.denominator)]
    if parts[0] is None or parts[1] is None:
        return None
    return Fraction(parts[0], parts[1]) * (-1 if base < 0 else 1)


def _whole_root(number: int, degree: int) -> int | None:
    if number.bit_length() > _BITS:
        return None
    root = math.isqrt(number) if degree == 2 else int(mp().nint(mp().root(number, degree)))
    return root if root**degree == number else None


def factorial(value: Real) -> Fraction:
    return Fraction(math.factorial(_count(value)))


def binomial(n: Real, k: Real) -> Fraction:
    return Fraction(math.comb(_count(n), _count(k)))


def _count(value: Real) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 1000:
        raise Unreadable
    return int(value)


def applied(name: str, argument: Real) -> Real:
    if abs(argument) > _LARGEST:
        raise Unreadable
    function: Callable[[Any], Any] = getattr(mp(), name)
    return function(_inexact(argument))
