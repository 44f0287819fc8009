"""Named systems of the literature: a method, a scorer and a stage's settings, one YAML each in `configs/methods/`.

    about: one line
    source: paper or code
    not_given: what the source leaves open, and what stands here instead
    warning: what is known to be wrong with it as published, if anything
    method: {name: …}
    scorer: {name: …}
    stage: {k: 8, optim: {…}}      further keys of a stage, as the source ran it

A stage takes one over with `preset: NAME`; its own keys win.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from mmpu import plugins
from mmpu.config import Values, build, component, load_yaml
from mmpu.core import Scorer, UserError
from mmpu.learning import Method

FOLDER = "methods/"


@dataclass(frozen=True)
class Preset:
    """The keys of a preset."""

    about: str
    source: str
    not_given: str
    method: str | dict[str, Any]
    warning: str = ""
    scorer: str | dict[str, Any] | None = None
    stage: dict[str, Any] = field(default_factory=dict[str, Any])

    def values(self) -> Values:
        """As keys of a stage."""
        own = {"method": self.method} | ({"scorer": self.scorer} if self.scorer is not None else {})
        return {**own, **self.stage}


def names() -> dict[str, Path]:
    """Every preset on the search path with its file."""
    found = plugins.data("configs")
    return {name.removeprefix(FOLDER): path for name, path in found.items() if name.startswith(FOLDER)}


def load(name: str) -> Preset:
    """Raises:
    UserError: there is no such preset, or its file is wrong.
    """
    found = names()
    if name not in found:
        raise UserError(f"no preset {name!r} in configs/methods; {plugins.suggest(name, found)}")
    return build(Preset, load_yaml(found[name]), str(found[name]))


def expand(stage: Mapping[str, Any]) -> Values:
    """A stage's keys with its `preset` taken over; keys of mappings such as `optim` are merged, `method` is not."""
    values = dict(stage)
    preset = values.pop("preset", None)
    if preset is None:
        return values
    taken = load(str(preset)).values()
    for key in ("optim", "sampling", "preflight"):
        if isinstance(taken.get(key), dict) and isinstance(values.get(key), dict):
            values[key] = {**taken[key], **values[key]}
    return {**taken, **values}


# ------------------------------------------------------------------------------------------------------------------
# what a method is, for people


def explain(name: str) -> str:
    """Formula, needs, knobs and defaults of a preset or of a method."""
    preset = load(name) if name in names() else None
    lines: list[str] = []
    if preset:
        lines += [f"{name}: {preset.about}", f"source: {preset.source}", f"not given there: {preset.not_given}"]
        lines += [f"warning: {preset.warning}", ""] if preset.warning else [""]
    method, values = component(preset.method if preset else name, f"preset {name}: method")
    if preset is None and name not in plugins.code("methods"):
        raise UserError(f"no preset or method {name!r}; {plugins.suggest(name, [*names(), *plugins.code('methods')])}")
    lines += _component("method", method, Method, values)
    if preset and preset.scorer is not None:
        scorer, knobs = component(preset.scorer, f"preset {name}: scorer")
        lines += ["", *_component("scorer", scorer, Scorer, knobs)]
    if preset and preset.stage:
        lines += ["", "stage: " + ", ".join(f"{key} {value}" for key, value in preset.stage.items())]
    return "\n".join(lines)


def _component(kind: str, name: str, base: type[Any], values: Values) -> list[str]:
    cls = plugins.find_class(f"{kind}s", name, base)
    lines = [f"{kind} {name}", ""]
    module = inspect.getmodule(cls)
    lines += [textwrap.indent((inspect.getdoc(module) or "").strip(), "    "), ""]
    if kind == "method":
        instance: Method = build(cls, values, f"method {name}")
        lines.append(f"    needs: {', '.join(sorted(instance.needs))}")
    about = _field_docs(cls)
    wired = {"engine", "live", "task", "teacher"} if kind == "scorer" else set[str]()
    for knob in fields(cls):
        if knob.name in wired:
            continue
        default = "required" if knob.default is MISSING and knob.default_factory is MISSING else repr(knob.default)
        here = f"{values[knob.name]!r} here, default {default}" if knob.name in values else default
        lines.append(f"    {knob.name}: {here}")
        if knob.name in about:
            lines.append(textwrap.indent(textwrap.fill(about[knob.name], 100), "        "))
    return lines


def _field_docs(cls: type[Any]) -> dict[str, str]:
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
