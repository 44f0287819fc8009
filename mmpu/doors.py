"""Packages whose names are there at once and whose modules are imported when a name is first taken from them.

    if TYPE_CHECKING:
        from mmpu.student.lora import Lora

    __all__ = ["Lora"]
    __getattr__ = door(__name__, __file__)

What a package's `__init__.py` imports for type checkers is what it offers, so the two cannot differ.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def door(package: str, file: str) -> Callable[[str], object]:
    """A package's `__getattr__`, by what its `__init__.py` imports under `TYPE_CHECKING`."""
    places: dict[str, tuple[str, str]] = {}

    def name_of(name: str) -> object:
        if name.startswith("__"):  # of Python itself, which asks every module for some
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not places:
            places.update(_places(file))
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, inside = places[name]
        found = getattr(importlib.import_module(module), inside)
        return vars(sys.modules[package]).setdefault(name, found)

    return name_of


class _Spoken(ModuleType):
    """A module that is called as well."""

    called: str

    def __call__(self, *arguments: Any, **keys: Any) -> Any:
        module, _, name = self.called.partition(":")
        return getattr(importlib.import_module(module), name)(*arguments, **keys)


def spoken(package: str, called: str) -> None:
    """Makes a package callable, where one name stands for a wing and for what it does: `mmpu.train(…)` trains, and
    `mmpu.train.loop` is how.

    Args:
        called: `module:function`, imported at the first call.
    """
    module = sys.modules[package]
    module.__class__ = _Spoken
    vars(module)["called"] = called


def _places(file: str) -> dict[str, tuple[str, str]]:
    """The module and the name there of each name that a file imports for type checkers."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    blocks = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names}
