"""All keys of a training config, with what the dataclasses that read them say: type, default, range, one line each."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal, cast

from mmpu import plugins
from mmpu.config import Readable, plain
from mmpu.core import Engine, Scorer
from mmpu.knobs import MAY_CHANGE, limits, marks, range_words
from mmpu.learning import Method
from mmpu.recipes.field_docs import field_docs
from mmpu.recipes.run_config import RunConfig
from mmpu.recipes.wiring import Source
from mmpu.specs import Named, Spec, is_object

COMPONENTS: tuple[tuple[str, type[Any]], ...] = (("methods", Method), ("scorers", Scorer), ("engines", Engine))
GIVEN = {"scorers": ("engine", "live", "task", "teacher"), "engines": ("student", "task", "folder"), "methods": ()}
"""Fields that are wired and not configured."""
AROUND = ("cached", "counted")
"""Engines that are put around others, and that no config names."""
HEAD = """\
# Config reference

Every key of a training config, as `mmpu config` prints it from the classes that read them (a test holds this file
equal). Keys marked ° change no result: a run may go on with another value. `mmpu config --format schema >
mmpu.schema.json` is the same for editors: `# yaml-language-server: $schema=mmpu.schema.json` in a config's first line
completes and checks it there, and `mmpu init` writes both. `mmpu train CONFIG stages.sft.optim.lr=1e-5` sets a key at
the prompt; `preset: NAME` in a stage takes over a method's published settings (`mmpu methods`).

"""
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any", object: "any"}


@dataclass(frozen=True)
class Knob:
    """A key."""

    name: str
    kind: str
    default: str
    """As it would stand in YAML; `required` where there is none."""
    bounds: str
    about: str
    free: bool
    """Whether a run may go on with another value."""


@dataclass(frozen=True)
class Section:
    """The keys of one mapping."""

    key: str
    """Where it stands, `stages[].optim`; of a component its kind and name, `method: ldl_grpo`."""
    about: str
    knobs: tuple[Knob, ...]


def sections(own: bool = False) -> Iterator[Section]:
    """All mappings of a config, and all components.

    Args:
        own: Leave out components of plug-ins.
    """
    yield from _section(RunConfig, "")
    for kind, base in COMPONENTS:
        for name, root in sorted(plugins.code(kind).items()):
            if name in AROUND or (own and root.code != plugins.PACKAGE):
                continue
            cls = plugins.find_class(kind, name, base)
            about = (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n\n")[0]
            yield Section(f"{kind.removesuffix('s')}: {name}", " ".join(about.split()), _knobs(cls, GIVEN[kind]))


def _section(cls: type[Any], key: str) -> Iterator[Section]:
    yield Section(key, " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()), _knobs(cls, ()))
    for name, hint in fields_of(cls):
        inner, listed = dataclass_in(hint)
        if inner is not None:
            yield from _section(inner, f"{key}.{name}".removeprefix(".") + ("[]" if listed else ""))


def fields_of(cls: type[Any], given: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """The fields that a config sets, with their types."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init and field.name not in given]
    return [(name, hints[name]) for name in names if not any(map(is_object, kinds_of(hints[name])))]


def kinds_of(hint: Any) -> set[Any]:
    """The types that an annotation allows, without their arguments."""
    hint = bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {kind for each in typing.get_args(hint) for kind in kinds_of(each)}
    found = typing.get_origin(hint) or hint
    components = found in (Engine, Scorer) or (isinstance(found, type) and issubclass(found, Readable))
    return set() if components else {found}


def bare(hint: Any) -> Any:
    """An annotation's type without what is said beside it."""
    return bare(typing.get_args(hint)[0]) if typing.get_origin(hint) is Annotated else hint


def dataclass_in(hint: Any) -> tuple[type[Any] | None, bool]:
    """The config dataclass that a type is or lists, and whether it is a list of them."""
    hint = bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [dataclass_in(each) for each in typing.get_args(hint)]
        return next(((cls, listed) for cls, listed in found if cls is not None), (None, False))
    if typing.get_origin(hint) is tuple:
        return dataclass_in(typing.get_args(hint)[0])[0], True
    plain_class = isinstance(hint, type) and dataclasses.is_dataclass(hint) and not issubclass(hint, Readable)
    return (hint if plain_class else None), False


def _knobs(cls: type[Any], given: Sequence[str]) -> tuple[Knob, ...]:
    about, known = field_docs(cls), {field.name: field for field in dataclasses.fields(cls)}
    return tuple(
        Knob(
            name,
            words(hint),
            _default(known[name]),
            range_words(limits(marks(hint))),
            about.get(name, ""),
            MAY_CHANGE in marks(hint),
        )
        for name, hint in fields_of(cls, given)
    )


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = field.default if field.default is not MISSING else cast(Any, field.default_factory)()
    if dataclasses.is_dataclass(value) and not isinstance(value, Readable):
        return "as below"
    return json.dumps(plain(value), ensure_ascii=False, default=str)


def words(hint: Any) -> str:
    """A type for people."""
    hint = bare(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if each is type(None) else words(each) for each in arguments)
    if origin is Literal:
        return " or ".join(json.dumps(each) for each in arguments)
    if origin is Spec:
        return arguments[0].__name__.lower()
    if origin is tuple:
        return (
            f"list of {words(arguments[0])}" if Ellipsis in arguments else f"{len(arguments)} × {words(arguments[0])}"
        )
    if origin is dict:
        return "mapping"
    if hint in PLAIN:
        return PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, Engine | Scorer):
        return hint.__name__.lower()
    return {Source: "engine", Named: "name or mapping"}.get(
        hint, "mapping" if dataclasses.is_dataclass(hint) else "text"
    )


# ------------------------------------------------------------------------------------------------------------------
# for people


def text(found: Sequence[Section]) -> str:
    """As a listing."""
    lines: list[str] = []
    for section in found:
        lines += [f"{section.key or 'config'}: {section.about}"]
        for knob in section.knobs:
            said = ", ".join(filter(None, (knob.kind, knob.bounds, f"default {knob.default}")))
            lines += [f"    {knob.name}: {said}"]
            lines += [textwrap.indent(textwrap.fill(knob.about, 100), "        ")] if knob.about else []
        lines.append("")
    return "\n".join(lines)


def markdown(found: Sequence[Section]) -> str:
    """As docs/config.md."""
    lines = HEAD.splitlines()
    for section in found:
        lines += [f"## {section.key or 'Top level'}", "", section.about, ""]
        if section.knobs:
            lines += ["| key | type | default | range | |", "|---|---|---|---|---|"]
        for knob in section.knobs:
            default = "required" if knob.default == "required" else knob.default and f"`{knob.default}`"
            cells = (f"`{knob.name}`{'°' if knob.free else ''}", knob.kind, default, knob.bounds, knob.about)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
