"""Jinja over a row's fields, sandboxed and bounded: a task's texts may come from anywhere, and evaluating them runs no
code and takes no longer than `mmpu/sandbox.py` says.

A field that a row lacks is an error, as is one that would be written as `None`, `[…]` or `{…}`. A field
whose name is no identifier is `row['its name']`. Filters beside Jinja's: `last_boxed`, `literal`, `most_common`,
`shuffled(key)`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from mmpu.config import Values
from mmpu.core import UserError

if TYPE_CHECKING:
    from mmpu.sandbox import Sandbox

T = TypeVar("T")
NAMED = 50
"""Fields that an error names."""
_VALUE = re.compile(r"[-+]?\d+(?:\.\d+)?|.*\?|.{60,}", re.DOTALL)
"""Of names of fields, what is rather a row's than a header's."""
_EXPRESSION = re.compile(r"\s*\{\{(.*)\}\}\s*", re.DOTALL)


def text(template: str, row: Values, where: str) -> str:
    """A template's text for a row.

    Raises:
        UserError: with `where`, and what the row has.
    """
    return _run(lambda: _template(template).render(row, row=row), row, where)


def value(template: str, row: Values, where: str) -> object:
    """As `text`, but a template that is one `{{ expression }}` keeps the type of its value."""
    found = _expression_of(template)
    if found is None:
        return text(template, row, where)
    return _run(lambda: _present(found(row, row=row)), row, where)


def expression(source: str, where: str) -> Callable[[Values], Any]:
    """A Jinja expression such as `number < 900` as a function of a row; it does not raise UserError when called."""
    try:
        compiled = _expression(source)
    except failures() as error:
        raise UserError(f"{where}: {error}") from None
    return lambda row: _begun(compiled)(row, row=row)


def failures() -> tuple[type[Exception], ...]:
    """What evaluating a template or an expression on a row may raise."""
    from jinja2 import TemplateError

    kinds = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)
    return (TemplateError, SyntaxError, *kinds)  # of Python too: literals, and loops within twenty loops


def undeclared(source: str, *, is_expression: bool = False) -> set[str]:
    """Fields that a template reads without asking whether they are there (`is defined`, `default`)."""
    from jinja2 import meta, nodes

    environment = _environment()
    try:
        tree = environment.parse("{{ " + source + " }}" if is_expression else source)
    except failures():  # whoever evaluates it says what is wrong
        return set()
    guards = [n for n in tree.find_all((nodes.Test, nodes.Filter)) if n.name in ("defined", "default", "d")]
    guarded = {name.name for guard in guards for name in guard.find_all(nodes.Name)}
    return meta.find_undeclared_variables(tree) - guarded - {"row"}


def _run(evaluate: Callable[[], T], row: Values, where: str) -> T:
    try:
        _environment().begin()
        return evaluate()
    except failures() as error:
        raise UserError(f"{where}: {error or 'it is nested too deeply'}; the row has: {_names(row)}") from None


def _names(row: Values) -> str:
    named = ", ".join(str(name)[:40] for name in list(row)[:NAMED])
    named += f" and {len(row) - NAMED} more" if len(row) > NAMED else ""
    value = next((str(name) for name in row if _VALUE.fullmatch(str(name))), None)
    return named + (f"; {value[:40]!r} looks like a value: does the file lack a first line of names?" if value else "")


def _begun(compiled: T) -> T:
    _environment().begin()
    return compiled


@cache
def _environment() -> Sandbox:
    from mmpu.sandbox import Sandbox

    filters = {"last_boxed": _last_boxed, "literal": _literal, "most_common": _most_common, "shuffled": _shuffled}
    return Sandbox(filters, finalize=_written, autoescape=False, keep_trailing_newline=True)


@cache
def _template(source: str) -> Any:
    return _environment().from_string(source)


@cache
def _expression(source: str) -> Any:
    return _environment().compile_expression(source, undefined_to_none=False)


@cache
def _expression_of(template: str) -> Any:
    """The one expression that a template consists of, compiled; None if it is anything else."""
    match = _EXPRESSION.fullmatch(template)
    try:
        return _expression(match[1]) if match else None
    except failures():
        return None


def _present(found: object) -> object:
    from jinja2 import StrictUndefined

    if isinstance(found, StrictUndefined):
        str(found)  # raises its own message
    if found is None:
        raise TypeError("a field is null (or NaN); where that is meant, write {{ field or '' }}")
    if isinstance(found, float) and not math.isfinite(found):
        raise TypeError(f"a field is {found}, which is no number to write; check what it is made of")
    return found


def _written(found: object) -> object:
    if isinstance(found, dict | list | bytes):
        kind = "a mapping" if isinstance(found, dict) else "a list" if isinstance(found, list) else "binary"
        raise TypeError(f"a field is {kind}, not a text; name what of it is meant, or write {{{{ field | tojson }}}}")
    return _present(found)


def _last_boxed(solution: str) -> str:
    from mmpu.graders.math import last_boxed

    found = last_boxed(solution)
    if found is None:
        raise ValueError(f"no closed \\boxed{{}} in {solution[-80:]!r}")
    return found


def _literal(text: object) -> object:
    """The value of a Python literal, as lists are sometimes published in text columns; what is no text stays."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:80]!r} is no Python literal ({type(error).__name__})") from None


def _most_common(values: Sequence[object]) -> object:
    """The value that occurs most often, the first of them in a tie."""
    return Counter(values).most_common(1)[0][0]


def _shuffled(values: Sequence[object], key: object) -> list[object]:
    """The values in an order that is a hash of `key` and each: the same everywhere, for the options of a question."""

    def rank(item: object) -> bytes:
        return hashlib.sha256(json.dumps([key, item], default=str).encode()).digest()

    return sorted(values, key=rank)
