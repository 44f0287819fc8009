"""Jinja for templates that nobody trusts: they run no code, and neither steps nor seconds nor bytes run away.

Jinja's own sandbox keeps attributes from being reached and nothing from being computed for ever. Here every turn of a
loop, every call, filter and operation is a step, each step looks at the clock, and what would make something larger
than `SIZE` is refused before it is made.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from typing import Any, cast

from jinja2 import StrictUndefined, TemplateRuntimeError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS = 100_000
"""Turns of loops, calls, filters and operations of one text."""
SECONDS = 5.0
"""Of processor time for one text."""
SIZE = 100_000_000
"""Characters of a text, a picture in base64 among them; what is made on the way to it takes as much again at most."""
MEMBERS = 1_000_000
"""Of a list that is made."""
SLOW = 1_000_000
"""Characters or members that go into a filter that looks at each of them."""
WIDEST = 100_000
"""What a filter or a method takes as a width or a count."""
BITS = 65_536
"""Of a whole number that is computed."""
SOURCE = 1_000_000
"""Characters of a template."""
_TAKING_WIDTHS = {
    *("center", "indent", "batch", "slice", "wordwrap", "truncate", "tojson", "round"),
    *("ljust", "rjust", "zfill", "expandtabs", "to_bytes"),
}
_SLOW = {"urlize", "wordwrap", "striptags", "pprint", "xmlattr", "title", "indent", "wordcount", "literal"}
_WIDTH = re.compile(r"%[-+ #0-9.]*(?:\d{6}|\*)|\{[^{}]*:[^{}]*(?:\d{6}|\{)")


class _Generator(CodeGenerator):
    """Joins (`a ~ b`) and slices are steps too."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Any) -> None:
        sliced = isinstance(node.arg, nodes.Slice)
        self.write("environment.made(" * sliced)
        super().visit_Getitem(node, frame)
        self.write(")" * sliced)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates are bounded: `begin` before each text.

    Args:
        filters: Beside Jinja's own.
        options: Of Jinja's environment.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, filters: Mapping[str, Callable[..., Any]] | None = None, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, **options)
        self._spent = threading.local()
        self.concat = self.joined
        self.filters = {
            name: _bounded(self, name, function) for name, function in {**self.filters, **(filters or {})}.items()
        }
        self.filters["_counted"] = self._counted
        del self.globals["lipsum"]

    def begin(self) -> None:
        """A new text: what was spent before does not count."""
        self._spent.steps, self._spent.size, self._spent.ends = 0, 0, time.thread_time() + SECONDS

    def step(self) -> None:
        if not hasattr(self._spent, "ends"):
            self.begin()
        self._spent.steps += 1
        if self._spent.steps > STEPS:
            raise TemplateRuntimeError(f"it takes more than {STEPS:,} steps; loop over less")
        if time.thread_time() > self._spent.ends:
            raise TemplateRuntimeError(f"it takes more than {SECONDS:g} s; loop over less")

    def made(self, found: Any, *of: Any) -> Any:
        """A result that counts, unless it is one of the things that it was made of."""
        self.step()
        if isinstance(found, str | bytes | list | tuple | dict) and not any(found is each for each in of):
            self._spent.size += _within(cast(Sized, found), len(cast(Sized, found)))
            _within("", self._spent.size)
        return found

    def joined(self, parts: Iterable[object]) -> str:
        self.step()
        found: list[str] = []
        size = 0
        for part in parts:
            found.append(part if isinstance(part, str) else str(part))
            size = _within("", size + len(found[-1]))
        return self.made("".join(found))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE:
            raise TemplateSyntaxError(f"more than {SOURCE:,} characters", 1)
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise TemplateSyntaxError("recursive loops are not read", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def _counted(self, items: Iterable[object]) -> Generator[object]:
        for item in items:
            self.step()
            yield item

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step()
        method = getattr(obj, "__wrapped__", obj)  # Jinja wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes | int):
            _check_widths(name, args, kwargs)
        if isinstance(owner, str):
            _check_method(owner, name, args)
        return self.made(super().call(context, obj, *args, **kwargs), owner, *args)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return self.made(super().call_binop(context, operator, left, right))


def _bounded(environment: Sandbox, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter as a step, what it is given looked at before it runs."""
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    def limited(*args: Any, **kwargs: Any) -> Any:
        environment.step()
        given = list(args[passed:])
        value = given[0] if given else None
        _check_widths(name, given[1:], kwargs)
        if name in _SLOW and isinstance(value, Sized) and len(value) > SLOW:
            raise TemplateRuntimeError(f"`{name}` takes {SLOW:,} characters at most")
        if name == "replace" and len(given) > 2:
            _check_replacement(str(value), str(given[1]), str(given[2]))
        if name == "format":
            _check_format(str(value))
        if name == "sum" and any(isinstance(each, list | tuple) for each in (*given[1:], *kwargs.values())):
            raise TemplateRuntimeError("`sum` adds numbers; join lists with `+`")
        if name == "join" and isinstance(value, Iterable):
            given[0] = _joinable(environment, cast(Iterable[object], value), str(given[1]) if given[1:] else "")
        return environment.made(function(*args[:passed], *given, **kwargs), *args)

    for mark in ("jinja_pass_arg", "jinja_async_variant"):
        if hasattr(function, mark):
            setattr(limited, mark, getattr(function, mark))
    return limited


def _joinable(environment: Sandbox, items: Iterable[object], between: str) -> list[object]:
    kept: list[object] = []
    size = 0
    for item in items:
        environment.step()
        size = _within("", size + len(between) + (len(item) if isinstance(item, str) else 1))
        kept.append(item)
    return kept


def _within(kind: object, size: int) -> int:
    most = SIZE if isinstance(kind, str | bytes) else MEMBERS
    if size > most:
        raise TemplateRuntimeError(f"it would make more than {most:,} {'characters' if most == SIZE else 'members'}")
    return size


def _check_widths(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if name in _TAKING_WIDTHS:
        for each in (*args, *kwargs.values()):
            if isinstance(each, int | float) and not abs(each) <= WIDEST:
                raise TemplateRuntimeError(f"`{name}` takes numbers up to {WIDEST:,}")


def _check_method(owner: str, name: str, args: Sequence[Any]) -> None:
    if name == "replace" and len(args) > 1:
        _check_replacement(owner, str(args[0]), str(args[1]))
    if name == "join" and args and isinstance(args[0], list | tuple):
        _within("", sum(len(str(item)) + len(owner) for item in cast(Sequence[object], args[0])))
    if name == "expandtabs":
        width = args[0] if args and isinstance(args[0], int) else 8
        _within("", len(owner) + owner.count("\t") * width)
    if name in ("format", "format_map"):
        _check_format(owner)
    if name == "translate":
        raise TemplateRuntimeError("`translate` is not called in templates; use `replace`")


def _check_replacement(text: str, old: str, new: str) -> None:
    _within("", len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _check_format(text: str) -> None:
    if _WIDTH.search(text):
        raise TemplateRuntimeError("a format takes no width of six digits or more, and none that is computed")


def _check_operation(operator: str, left: Any, right: Any) -> None:
    lists = (str, bytes, list, tuple)
    if operator == "%" and isinstance(left, str | bytes):
        _check_format(str(left))
    if operator == "+" and isinstance(left, lists) and isinstance(right, lists):
        _within(left, len(cast(Sized, left)) + len(cast(Sized, right)))
    if operator == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, lists) and isinstance(times, int):
                _within(one, len(cast(Sized, one)) * max(0, times))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else 0
        if operator == "**" and right > 0:
            bits = right * math.log2(abs(left)) if abs(left) > 1 else 0
        if bits > BITS:
            raise TemplateRuntimeError(f"a whole number of more than {BITS:,} bits would be computed")
