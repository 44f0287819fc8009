"""The JSON Schema of a training config, of the same dataclasses, for editors that complete and check YAML."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal

from mmpu import plugins
from mmpu.config import Readable, Values
from mmpu.core import Engine, Scorer
from mmpu.knobs import limits, marks
from mmpu.recipes import presets
from mmpu.recipes.field_docs import field_docs
from mmpu.recipes.reference import COMPONENTS, GIVEN, fields_of
from mmpu.recipes.run_config import RunConfig
from mmpu.recipes.wiring import Source
from mmpu.specs import Named, Spec
from mmpu.train.stage_config import StageConfig

NAME = "mmpu.schema.json"
"""The file beside a config that `mmpu init` wrote."""
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> Values:
    """Of a config, components of plug-ins included."""
    found = _mapping(RunConfig)
    for kind, base in COMPONENTS:
        found["$defs"] = {**found.get("$defs", {}), kind.removesuffix("s"): _component(kind, base)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mmpu training config", **found}


def _mapping(cls: type[Any], given: tuple[str, ...] = (), **more: Values) -> Values:
    about = field_docs(cls)
    properties = {name: _described(_of(hint), about.get(name, "")) for name, hint in fields_of(cls, given)}
    known = {field.name: field for field in dataclasses.fields(cls)}
    required = [
        name
        for name in properties
        if known[name].default is dataclasses.MISSING and known[name].default_factory is dataclasses.MISSING
    ]
    if cls is StageConfig:
        more["preset"] = {"enum": sorted(presets.names()), "description": "A preset whose keys the stage takes over."}
        required.remove("method")
    found: Values = {"type": "object", "properties": {**more, **properties}, "additionalProperties": False}
    return {**found, "required": [*more, *required] if "name" in more else required}


def _component(kind: str, base: type[Any]) -> Values:
    names = sorted(plugins.code(kind))
    made = [_mapping(plugins.find_class(kind, name, base), tuple(GIVEN[kind]), name={"const": name}) for name in names]
    return {"anyOf": [{"enum": names}, *made]}


def _described(found: Values, about: str) -> Values:
    return {**found, "description": about} if about else found


def _of(hint: Any) -> Values:
    """The schema of a type, in the range that it says."""
    if typing.get_origin(hint) is Annotated:
        found = _of(typing.get_args(hint)[0])
        for each in limits(marks(hint)):
            bounds = {"minimum": each.ge, "exclusiveMinimum": each.gt, "maximum": each.le, "exclusiveMaximum": each.lt}
            found = {**found, **{name: bound for name, bound in bounds.items() if bound is not None}}
        return found
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(each) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0])}
    if origin is dict:
        return {"type": "object"}
    return _of_class(origin or hint, arguments)


def _of_class(kind: Any, arguments: tuple[Any, ...]) -> Values:
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if kind is type(None):
        return {"type": "null"}
    if kind is Spec:
        return {"$ref": f"#/$defs/{arguments[0].__name__.lower()}"}
    if kind is Source:
        run = {"type": "object", "properties": {"name": {"const": "hf"}}, "required": ["name", "model"]}
        older = {"type": "object", "required": ["engine"]}
        return {"anyOf": [{"$ref": "#/$defs/engine"}, run, older]}
    if kind is Named:
        return {"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]}
    if isinstance(kind, type) and issubclass(kind, Engine | Scorer):
        return {"anyOf": [{"type": "string"}, {"type": "object"}]}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not issubclass(kind, Readable):
        return _mapping(kind)
    return {}
