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
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmpu import plugins
from mmpu.config import Values, build, load_yaml, override
from mmpu.core import Scorer, UserError
from mmpu.learning import Method
from mmpu.recipes import places
from mmpu.recipes.field_docs import field_docs
from mmpu.specs import Spec, split

FOLDER = "methods/"


@dataclass(frozen=True)
class Preset:
    """The keys of a preset."""

    about: str
    source: str
    not_given: str
    method: Spec[Method]
    scorer: Spec[Scorer] | None = None
    warning: str = ""
    stage: dict[str, Any] = field(default_factory=dict[str, Any])

    def values(self) -> Values:
        """As keys of a stage."""
        own = {"method": self.method.written} | ({"scorer": self.scorer.written} if self.scorer else {})
        return {**own, **self.stage}


def names() -> dict[str, Path]:
    """Every preset on the search path with its file."""
    found = plugins.data("configs")
    return {name.removeprefix(FOLDER): path for name, path in found.items() if name.startswith(FOLDER)}


def load(name: str) -> Preset:
    """A preset or, where there is none of the name, the method of the name with its defaults.

    Raises:
        UserError: there is neither, or its file is wrong.
    """
    found, methods = names(), plugins.code("methods")
    if name not in found and name in methods:
        return Preset(about_code("methods", name), "", "", Spec[Method].read(name, f"method {name}", Method))
    if name not in found:
        raise UserError(
            f"no preset {name!r} in configs/methods, and no method of that name; "
            f"{plugins.suggest(name, {*found, *methods})}"
        )
    return build(Preset, load_yaml(found[name]), str(found[name]))


def of_your_own() -> dict[str, str]:
    """Methods that plug-ins bring, by name, with the first line that is said of each; presets left out."""
    found, presets = plugins.code("methods"), names()
    own = [name for name, root in found.items() if root.code != plugins.PACKAGE and name not in presets]
    return {name: about_code("methods", name) for name in sorted(own)}


def about_code(kind: str, name: str) -> str:
    """The first line of what a plug-in's file says of itself, or of its class, read without importing it."""
    path = plugins.code(kind)[name].code / kind / f"{name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        return f"cannot be read: {error}"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    said = [ast.get_docstring(node) for node in (tree, *classes)]
    return next((text.strip().splitlines()[0] for text in said if text), f"no docstring in {path}")


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


def resolved(config: str, assignments: Sequence[str]) -> tuple[Values, str]:
    """A training config's values from its name or path, presets taken over and overrides applied, and its path. Files
    that it names may lie beside it."""
    path = plugins.find_data("configs", config)
    values = settled(places.found(load_yaml(path), path.parent, beside_first=True), assignments)
    return places.found(values, path.parent, beside_first=False), str(path)


def settled(values: Values, assignments: Sequence[str] = ()) -> Values:
    """A training config's values, presets taken over and overrides applied."""
    if isinstance(values.get("stages"), list):
        stages = [expand(stage) if isinstance(stage, dict) else stage for stage in values["stages"]]
        values = {**values, "stages": stages}
    return override(values, assignments)


# ------------------------------------------------------------------------------------------------------------------
# what a method is, for people


def explain(name: str) -> str:
    """Formula, needs, knobs and defaults of a preset or of a method."""
    preset = load(name) if name in names() else None
    lines: list[str] = []
    if preset is None and name in of_your_own():
        lines += [f"{name}: {about_code('methods', name)}", ""]
    if preset:
        lines += [f"{name}: {preset.about}", f"source: {preset.source}", f"not given there: {preset.not_given}"]
        lines += [f"warning: {preset.warning}", ""] if preset.warning else [""]
    if preset is None and name not in plugins.code("methods"):
        raise UserError(f"no preset or method {name!r}; {plugins.suggest(name, [*names(), *plugins.code('methods')])}")
    method = preset.method if preset else Spec[Method].read(name, f"method {name}", Method)
    lines += [*_component("method", method, f"    needs: {', '.join(sorted(method.make({}).needs))}")]
    if preset and preset.scorer:
        lines += ["", *_component("scorer", preset.scorer)]
    if preset and preset.stage:
        lines += ["", "stage: " + ", ".join(f"{key} {value}" for key, value in preset.stage.items())]
    return "\n".join(lines)


def _component(kind: str, spec: Spec[Any], *more: str) -> list[str]:
    cls, values = spec.cls, split(spec.written, spec.where)[1]
    lines = [f"{kind} {spec.name}", ""]
    module = inspect.getmodule(cls)
    said = inspect.getdoc(module) or (vars(cls).get("__doc__") if not _generated(cls) else None) or ""
    said = said or f"{inspect.getsourcefile(cls)} says nothing of it; a docstring there stands here"
    lines += [textwrap.indent(inspect.cleandoc(said).strip(), "    "), "", *more]
    about = field_docs(cls)
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


def _generated(cls: type[Any]) -> bool:
    """Whether a class's docstring is the signature that `dataclass` writes where there is none."""
    return (cls.__doc__ or "").startswith(f"{cls.__name__}(")
