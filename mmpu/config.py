"""YAML and `key.sub=value` → frozen dataclasses.

A knob is declared once, as a field of the class that uses it. Unknown keys are fatal and come with what was probably
meant; values are checked against the field's type here, at the border, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from mmpu.core import UserError
from mmpu.plugins import suggest

T = TypeVar("T")
Values = dict[str, Any]


def load_yaml(path: Path) -> Values:
    """A YAML file's mapping; errors name the file and the line."""
    import yaml

    try:
        # libyaml reads the same YAML some ten times faster, which a listing of all tasks notices.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values: object = yaml.load(path.read_text(encoding="utf-8-sig"), loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping at its top level, it holds {type(values).__name__}")
    return cast(Values, values)


def dump_yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)


def override(values: Values, assignments: Sequence[str]) -> Values:
    """Applies `stages.1.method.tau=0.8`. A list is indexed by number or by the `name` of its items.

    Returns a new mapping. The keys are checked later, by `build`, as if they had stood in the file.
    """
    import copy

    import yaml

    values = copy.deepcopy(values)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = dotted.split(".")
        if not equals or not all(keys):
            raise UserError(f"cannot read the override {assignment!r}; write key.sub=value")
        node: Any = values
        for depth, key in enumerate(keys[:-1]):
            node = _child(node, key, ".".join(keys[: depth + 1]), assignment)
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"the value in the override {assignment!r} is not valid YAML") from None
        if isinstance(node, list):
            items = cast(list[Any], node)
            items[_index(items, keys[-1], dotted, assignment)] = value
        else:
            node[keys[-1]] = value
    return values


def _index(items: list[Any], key: str, where: str, assignment: str) -> int:
    names = [str(cast(Values, item).get("name", "")) if isinstance(item, dict) else "" for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    known = [*map(str, range(len(items))), *filter(None, names)]
    raise UserError(f"the override {assignment!r} names {where!r}, which is not there; {suggest(key, known)}")


def _child(node: Any, key: str, where: str, assignment: str) -> Any:
    if isinstance(node, list):
        items = cast(list[Any], node)
        return items[_index(items, key, where, assignment)]
    child: Any = node.setdefault(key, {})
    if isinstance(child, str):  # `method: ldl_grpo` is short for `method: {name: ldl_grpo}`
        child = node[key] = {"name": child}
    if not isinstance(child, dict | list):
        raise UserError(f"the override {assignment!r} goes through {where!r}, which is a plain value")
    return cast(Any, child)


def component(spec: object, where: str) -> tuple[str, Values]:
    """Splits `{name: ldl_grpo, tau: 1.2}` or `ldl_grpo` into a name and values."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping):
        values = dict(cast(Mapping[str, Any], spec))
        name = values.pop("name", None)
        if isinstance(name, str):
            return name, values
    raise UserError(f"{where} must be a name or a mapping with a `name`, got {spec!r}")


def build(cls: type[T], values: Mapping[str, Any], where: str, provided: Mapping[str, object] | None = None) -> T:
    """An instance of the dataclass `cls` from plain values.

    Args:
        where: How errors name this place, such as `configs/x.yaml: stages.1.method`.
        provided: Objects for fields that are wired, not configured, by field name; those `cls` does not have are left
        out.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    wired = {k: v for k, v in (provided or {}).items() if k in fields}
    known = [name for name in fields if name not in wired]
    arguments: dict[str, object] = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {suggest(str(key), known)}")
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    for name in known:
        field = fields[name]
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if bare and name not in arguments:
            raise UserError(f"{where}: the key {name!r} is missing")
    return cls(**arguments, **wired)


def _convert(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, cast(Mapping[str, Any], value), where)
    if isinstance(hint, types.UnionType) and value is not None:
        inner = [h for h in typing.get_args(hint) if dataclasses.is_dataclass(h)]
        if inner and isinstance(value, Mapping):
            return build(cast(type[object], inner[0]), cast(Mapping[str, Any], value), where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        items = cast(list[object], value)
        element = typing.get_args(hint)[0]
        return tuple(_convert(element, item, f"{where}.{i}") for i, item in enumerate(items))
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        name, element = typing.get_args(hint)
        if dataclasses.is_dataclass(element):  # pydantic would ignore keys that these do not have
            named = cast(Mapping[str, object], value)
            return {_convert(name, k, where): _convert(element, v, f"{where}.{k}") for k, v in named.items()}
    from pydantic import TypeAdapter, ValidationError

    try:
        return cast(Any, TypeAdapter)(hint).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"{where}: {value!r} will not do: {problem}") from None


def to_values(instance: object) -> Values:
    """The plain values of a config dataclass, defaults included, as they would stand in YAML."""
    return {
        field.name: _plain(getattr(instance, field.name))
        for field in dataclasses.fields(cast(Any, instance))
        if field.init
    }


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_values(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in cast(Mapping[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(Sequence[object], value)]
    return value
