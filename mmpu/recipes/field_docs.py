"""What stands under the fields of a dataclass in its source, one line each."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from functools import cache
from typing import Any, cast


@cache
def field_docs(cls: type[Any]) -> dict[str, str]:
    """The line under each field, of a class and its parents."""
    docs: dict[str, str] = {}
    for each in reversed([c for c in cls.__mro__ if c.__module__ != "builtins" and "__dataclass_fields__" in vars(c)]):
        body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]).body
        for knob, text in itertools.pairwise(body):
            if isinstance(knob, ast.AnnAssign) and isinstance(knob.target, ast.Name) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    docs[knob.target.id] = " ".join(value.value.split())
    return docs
