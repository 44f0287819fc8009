"""YAML and `key.sub=value` → frozen dataclasses.

A knob is declared once, as a field of the class that uses it. Unknown keys are fatal and come with what was probably
meant; values are checked against the field's type here, at the border, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from mmpu import files
from mmpu.core import UserError
from mmpu.knobs import infinite, limits, outside
from mmpu.plugins import suggest

T = TypeVar("T")
Values = dict[str, Any]


def load_yaml(path: Path) -> Values:
    """A YAML file's mapping; errors name the file and the line."""
    import yaml

    from mmpu import strict_yaml

    try:
        values: object = strict_yaml.loaded(files.text(path, strict_yaml.BYTES))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    except (OSError, ValueError) as error:
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

    from mmpu import strict_yaml

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
            value: Any = strict_yaml.loaded(text)
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


def replaced(instance: T, values: Mapping[str, Any], where: str) -> T:
    """The same dataclass with some of its values from a config or a command line."""
    return build(type(instance), {**to_values(instance), **values}, where)


class Readable(ABC):
    """A field's type that reads its part of a config itself, and keeps what was written there."""

    written: object

    @classmethod
    @abstractmethod
    def read(cls, written: object, where: str, *arguments: Any) -> Self:
        """From plain values; `arguments` are those of the type, `Method` in `Spec[Method]`."""


def build(cls: type[T], values: Mapping[str, Any], where: str, provided: Mapping[str, object] | None = None) -> T:
    """An instance of the dataclass `cls` from plain values.

    Args:
        where: How errors name this place, such as `configs/x.yaml.stages.ldl_grpo.optim`.
        provided: Objects for fields that are wired, not configured, by field name; those `cls` does not have are left
        out.
    """
    return made(cls, converted(cls, values, where, provided or ()), where, provided or {})


def converted(cls: type[object], values: Mapping[str, Any], where: str, provided: Collection[str]) -> dict[str, object]:
    """Plain values as the fields of the dataclass `cls` want them. Those of `provided` are not theirs to set."""
    hints = typing.get_type_hints(cls, include_extras=True)
    known = [name for name in _fields(cls) if name not in provided]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {suggest(str(key), known)}")
    return {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}


def made(cls: type[T], values: Mapping[str, object], where: str, provided: Mapping[str, object]) -> T:
    """The dataclass from converted values and, where it has fields of these names, provided objects."""
    fields = _fields(cls)
    wired = {name: value for name, value in provided.items() if name in fields}
    for name, field in fields.items():
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if bare and name not in values and name not in wired:
            raise UserError(f"{where}: the key {name!r} is missing")
    return cls(**values, **wired)


def _fields(cls: type[object]) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}


def _convert(hint: Any, value: object, where: str) -> object:
    """A plain value as a type wants it, in the range that the type says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = _convert(arguments[0], value, where)
        if (wanted := outside(found, limits(arguments[1:]))) is not None:
            raise UserError(f"{where}: {value!r} is out of range; it must be {wanted}")
        return found
    if origin in (typing.Union, types.UnionType):
        return _alternative(hint, value, where)
    if isinstance(origin or hint, type) and issubclass(origin or hint, Readable):
        return (origin or hint).read(value, where, *arguments)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, cast(Mapping[str, Any], value), where)
    if origin is tuple and isinstance(value, list):
        items = cast(list[object], value)
        kinds = arguments if Ellipsis not in arguments else arguments[:1] * len(items)
        if len(items) != len(kinds):
            raise UserError(f"{where}: {value!r} will not do: it takes {len(kinds)} values")
        pairs = enumerate(zip(kinds, items, strict=True))
        return tuple(_convert(kind, item, f"{where}.{_label(kind, item, i)}") for i, (kind, item) in pairs)
    if origin is dict and isinstance(value, Mapping):
        name, element = arguments
        named = cast(Mapping[str, object], value)
        return {_convert(name, k, where): _convert(element, v, f"{where}.{k}") for k, v in named.items()}
    return _validated(hint, value, where)


def _alternative(hint: Any, value: object, where: str) -> object:
    """A value as the one of several types that it is meant for."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if value is None and len(kinds) < len(typing.get_args(hint)):
        return None
    readable = [k for k in kinds if isinstance(own := typing.get_origin(k) or k, type) and issubclass(own, Readable)]
    shaped = [k for k in kinds if dataclasses.is_dataclass(k)] if isinstance(value, Mapping) else []
    chosen = readable or shaped or kinds
    return _convert(chosen[0], value, where) if len(chosen) == 1 else _validated(hint, value, where)


def _validated(hint: Any, value: object, where: str) -> object:
    """A value that has no parts of its own to convert. True and false are no numbers, nor is what is not finite."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, bool) and hint in (int, float):
        raise UserError(f"{where}: {str(value).lower()} will not do: a number is wanted")
    try:
        found: object = cast(Any, TypeAdapter)(hint).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"{where}: {value!r} will not do: {problem}") from None
    if infinite(found):
        raise UserError(f"{where}: {value!r} will not do: a finite number is wanted")
    return found


def _label(element: Any, item: object, index: int) -> str:
    """An item's name where its class has one, as in overrides; else its place in the list."""
    named = dataclasses.is_dataclass(element) and isinstance(item, Mapping) and "name" in _fields(cast(Any, element))
    return str(cast(Mapping[str, object], item).get("name", index)) if named else str(index)


def to_values(instance: object) -> Values:
    """The plain values of a config dataclass, defaults included, as they would stand in YAML."""
    return {
        field.name: plain(getattr(instance, field.name))
        for field in dataclasses.fields(cast(Any, instance))
        if field.init
    }


def plain(value: object) -> object:
    """A value as it would stand in YAML."""
    if isinstance(value, Readable):
        return value.written
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_values(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in cast(Mapping[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in cast(Sequence[object], value)]
    return value
