r"""What a formula is worth: `\frac{1}{\sqrt2}`, `2^{-98}`, `1.6\times10^{-19}`, `x(x+1)`, `√2`.

Rational values are exact, others have 50 digits. A variable stands for three fixed points, so formulas that are equal
have equal values, and formulas that are not differ in one of them. All of the text must be read: what is not known (an
integral, an unknown command, a word) makes the whole formula unreadable, and nothing is ever dropped to make it fit.
"""

from __future__ import annotations

import re
import zlib
from fractions import Fraction
from typing import NoReturn

from mmpu.graders._arithmetic import (
    Real,
    Unreadable,
    applied,
    binomial,
    factorial,
    mp,
    over,
    power,
    simplified,
    times,
)
from mmpu.graders._arithmetic import add as plus

_POINTS = 3
_DEEPEST = 60
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_WRITTEN = {
    **dict.fromkeys("−–﹣－‐‑‒", "-"),
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": r"\div ",
    "∗": "*",
    "∕": "/",
    "⁄": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "√": r"\sqrt ",
    "±": r"\pm ",
    "，": ",",
    "（": "(",
    "）": ")",
    "½": r"\frac12 ",
    "⅓": r"\frac13 ",
    "¼": r"\frac14 ",
    "¾": r"\frac34 ",
    "⅔": r"\frac23 ",
    "⅕": r"\frac15 ",
    "⅛": r"\frac18 ",
    "⅙": r"\frac16 ",
    "⅜": r"\frac38 ",
    "⅝": r"\frac58 ",
    "⅞": r"\frac78 ",
    "\u00a0": " ",
    "＋": "+",
    "＝": "=",
    "．": ".",
    "％": "%",
    "**": "^",
    "\u2009": " ",
    "\u202f": " ",
}
_WRITINGS = re.compile("|".join(map(re.escape, sorted(_WRITTEN, key=len, reverse=True))))
_SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])|(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|~"
)
_ROMAN = re.compile(r"\\(?:mathrm|operatorname\*?|mathit|mathbf|text|rm)\s*\{\s*([A-Za-z]+)\s*\}")
_NAMED = re.compile(
    r"(?<![A-Za-z\\])(sqrt|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|pi)(?![A-Za-z])"
)
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\.|[^\s])")
_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|[A-Z]{2,})|^\s*[A-Za-z]{2,}\s*$")
_EXPONENT = re.compile(r"(?<=\d)[eE]([+-]?\d+)(?![\d.A-Za-z])")
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_OPENING = {"(": ")", "[": "]", "{": "}"}
_FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"}
_TIMES = {"*", "\\cdot", "\\times", "\\ast"}
_OVER = {"/", "\\div"}
_PLAIN_FUNCTIONS = {"\\sin", "\\cos", "\\tan", "\\cot", "\\sec", "\\csc", "\\sinh", "\\cosh", "\\tanh"}
_INVERSE = {"\\arcsin": "asin", "\\arccos": "acos", "\\arctan": "atan"}
_FUNCTIONS = {*_PLAIN_FUNCTIONS, *_INVERSE, "\\ln", "\\log", "\\exp"}
_GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|"
    r"(?:var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|infty|ell)"
)


def written(text: str) -> str:
    """A formula in plain LaTeX: one minus, one way to multiply, no spacing commands, superscripts as exponents."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _WRITINGS.sub(lambda m: _WRITTEN[m[0]], text)
    return _SPACING.sub(" ", text)


def values(text: str) -> tuple[Real, ...] | None:
    """A formula's value, or three where it has variables; None if it cannot be read as a whole."""
    plain = _NAMED.sub(r"\\\1 ", _ROMAN.sub(r" \1 ", written(text)))
    plain = _MIXED.sub(r"(\1+\2/\3)", _EXPONENT.sub(r"\\times 10^{\1}", plain))
    if not plain.strip() or _WORD.search(plain):
        return None
    tokens = [match[1] for match in _TOKEN.finditer(plain)]
    try:
        first = _Reader(tokens, 0)
        found = [first.all()]
        if first.variables:
            found += [_Reader(tokens, point).all() for point in range(1, _POINTS)]
        return tuple(map(simplified, found))
    except (Unreadable, ArithmeticError, ValueError, RecursionError):
        return None


class _Reader:
    """Reads the tokens of a formula from left to right and evaluates it on the way, variables at one point."""

    def __init__(self, tokens: list[str], point: int) -> None:
        self.tokens = tokens
        self.at = 0
        self.point = point
        self.depth = 0
        self.variables = False

    def all(self) -> Real:
        value = self.sum()
        return value if self.at == len(self.tokens) else self.unreadable()

    def unreadable(self) -> NoReturn:
        raise Unreadable

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token or self.unreadable()

    def sum(self) -> Real:
        self.depth += 1
        if self.depth > _DEEPEST:
            self.unreadable()
        value = self.product()
        while self.peek() in ("+", "-"):
            sign, other = self.take(), self.product()
            value = plus(value, other if sign == "+" else times(Fraction(-1), other))
        self.depth -= 1
        return value

    def product(self) -> Real:
        value = self.signed()
        while token := self.peek():
            if token in _TIMES or token in _OVER:
                self.take()
                other = self.signed()
                value = times(value, other) if token in _TIMES else over(value, other)
            elif self.starts(token):
                value = times(value, self.power())
            else:
                break
        return value

    def signed(self) -> Real:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else times(Fraction(-1), self.signed())
        return self.power()

    def starts(self, token: str) -> bool:
        """Whether a token begins a factor, where no sign says so; a number does not: `2 3` is not 6."""
        before = self.tokens[self.at - 1]
        if token[0].isdigit() or token[0] == ".":
            return before[0] not in ".0123456789"
        known = token in _FRACTIONS or token in _FUNCTIONS or token in ("\\sqrt", "\\pi", "\\binom")
        return known or token in ("(", "{", "[") or token.isalpha() or bool(_GREEK.fullmatch(token))

    def power(self) -> Real:
        self.depth += 1
        if self.depth > _DEEPEST:
            self.unreadable()
        value = self.atom()
        while (token := self.peek()) in ("!", "^"):
            self.take()
            if token == "!":
                value = factorial(value)
                continue
            self.depth += 1
            degrees = self.degrees()
            exponent = None if degrees else self.script()
            self.depth -= 1
            value = times(value, over(mp().pi, Fraction(180))) if exponent is None else power(value, exponent)
        self.depth -= 1
        return value

    def degrees(self) -> bool:
        length = (
            1 if self.peek() == "\\circ" else 3 if self.tokens[self.at : self.at + 3] == ["{", "\\circ", "}"] else 0
        )
        self.at += length
        return length > 0

    def script(self) -> Real:
        """What stands raised or lowered: a group, or one token with its sign."""
        return self.group("{") if self.peek() == "{" else self.scripted()

    def scripted(self) -> Real:
        if self.peek() == "-":
            self.take()
            return times(Fraction(-1), self.scripted())
        return self.atom()

    def group(self, opening: str) -> Real:
        if self.take() != opening:
            self.unreadable()
        value = self.sum()
        return value if self.take() == _OPENING[opening] else self.unreadable()

    def argument(self) -> Real:
        """An argument of `\\frac` or `\\sqrt`: a group, or a single digit, letter or command."""
        token = self.peek()
        if token in _OPENING:
            return self.group(token)
        if token.isdigit() and len(token) > 1:  # \frac12 is one half
            self.tokens = [*self.tokens[: self.at], *token, *self.tokens[self.at + 1 :]]
        return self.atom()

    def atom(self) -> Real:
        token = self.peek()
        if token in _OPENING:
            return self.group(token)
        if token == "|":
            self.take()
            value = self.sum()
            return abs(value) if self.take() == "|" else self.unreadable()
        self.take()
        if token[0] in ".0123456789":
            return self.mixed(token)
        if token in _FRACTIONS:
            return over(self.argument(), self.argument())
        if token == "\\sqrt":
            return self.root()
        if token == "\\binom":
            return binomial(self.argument(), self.argument())
        if token in _FUNCTIONS:
            return self.function(token)
        return self.symbol(token)

    def mixed(self, token: str) -> Real:
        """A number; `3\\frac{1}{2}`, an integer before a proper fraction of integers, is their sum."""
        if not token.isascii():
            self.unreadable()
        value = Fraction(token)
        if token.isdigit() and self.peek() in _FRACTIONS:
            start = self.at
            self.take()
            before, (above, below) = self.tokens, (self._integer(), self._integer())
            if above is not None and below is not None and 0 < above < below:
                return value + Fraction(above, below)
            self.tokens, self.at = before, start
        if self.peek() == "_":  # a number to some base
            self.unreadable()
        return value

    def _integer(self) -> int | None:
        start = self.at
        value = self.argument()
        written = "".join(self.tokens[start : self.at]).strip("{}")
        return int(value) if written.isdigit() and isinstance(value, Fraction) else None

    def root(self) -> Real:
        degree: Real = Fraction(2)
        if self.peek() == "[":
            degree = self.group("[")
        if self.peek() in ("(", "{"):
            return power(self.group(self.peek()), over(Fraction(1), degree))
        token = self.peek()
        radicand = self.atom() if token.isdigit() else self.argument()  # \sqrt12 is written for the root of twelve
        return power(radicand, over(Fraction(1), degree))

    def function(self, name: str) -> Real:
        base: Real = None
        exponent: Real = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.script()
            else:
                exponent = self.script()
        if self.peek() in _OPENING:
            argument = self.group(self.peek())
        else:
            argument = self.power()
            while (token := self.peek()) and token not in _FUNCTIONS and token not in _OPENING and self.starts(token):
                argument = times(argument, self.power())
        inverse = exponent == -1 and name in _PLAIN_FUNCTIONS
        value = applied("a" + name[1:] if inverse else _INVERSE.get(name, name[1:]), argument)
        if name == "\\log":
            value = over(value, applied("ln", self.variable("base of log") if base is None else base))
        elif base is not None:
            self.unreadable()
        return value if exponent is None or inverse else power(value, exponent)

    def symbol(self, token: str) -> Real:
        if token == "\\pi":
            return +mp().pi
        if token == "e":
            return +mp().e
        if token == "i":
            return mp().mpc(0, 1)
        if not (token.isalpha() or _GREEK.fullmatch(token)):
            self.unreadable()
        if self.peek() == "_":
            self.take()
            start = self.at
            self.script()
            token += "".join(self.tokens[start : self.at]).strip("{}")
        return self.variable(token)

    def variable(self, name: str) -> Fraction:
        self.variables = True
        return Fraction(zlib.crc32(f"{name} {self.point}".encode()) % 9973 + 5000, 7919)
