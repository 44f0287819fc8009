"""Components as configs name them, `ldl_grpo` or `{name: ldl_grpo, tau: 1.2}`, read once, where the config is read.

What is below gets these: the class is found, its keys are checked, and it is made as soon as there is what it works
with. A field of a dataclass says so by its type: `method: Spec[Method]`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Self, TypeVar, cast

from mmpu.config import Readable, Values, converted, made
from mmpu.core import Engine, Scorer, UserError
from mmpu.plugins import find_class, suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Named(Readable):
    """A name with plain values."""

    written: object
    name: str
    values: Values
    where: str
    """How errors name the place."""

    @classmethod
    def read(cls, written: object, where: str, *arguments: Any) -> Self:
        name, values = split(written, where)
        return cls(written, name, values, where)


@dataclass(frozen=True)
class Spec(Named, Generic[T]):
    """A component before it is made."""

    cls: type[T]
    parts: Mapping[str, Spec[Any] | tuple[Spec[Any], ...]] = field(default_factory=dict[str, Any])
    """Components that it is made of, by field: engines and lists of scorers."""

    @classmethod
    def read(cls, written: object, where: str, *arguments: Any) -> Self:
        (base,) = arguments
        if base is Engine and isinstance(written, Mapping) and "engine" in written and "name" not in written:
            name, values = split({"name": written["engine"], **written}, where)  # `teacher: {engine: openai, …}`
            del values["engine"]
        else:
            name, values = split(written, where)
        return cast(Self, spec_of(base, name, values, f"{where} {name}" if base is Engine else where, written))

    def make(self, provided: Mapping[str, object]) -> T:
        """The component, with the objects that it has fields for.

        Raises:
            UserError: a key is missing, or sets what is provided.
        """
        taken = [key for key in self.values if key in provided]
        if taken:
            known = [f.name for f in dataclasses.fields(cast(Any, self.cls)) if f.init and f.name not in provided]
            raise UserError(f"{self.where}: unknown key {taken[0]!r}; {suggest(taken[0], known)}")
        return made(self.cls, self.values, self.where, provided)


def spec_of(base: type[T], name: str, values: Mapping[str, Any], where: str, written: object = None) -> Spec[T]:
    """The component `name` among the subclasses of `base`, with its keys.

    Raises:
        UserError: there is no such component, or one of the keys will not do.
    """
    cls = find_class(f"{base.__name__.lower()}s", name, base)
    hints = typing.get_type_hints(cls)
    plain, parts, wired = dict(values), dict[str, Spec[Any] | tuple[Spec[Any], ...]](), list[str]()
    for each in (f.name for f in dataclasses.fields(cast(Any, cls))):
        kinds, here = {hints[each], *typing.get_args(hints[each])}, f"{where}.{each}"
        if not kinds & {Engine, Scorer}:
            wired += [each] if any(map(is_object, kinds)) else []
        elif each in plain:
            part = plain.pop(each)
            parts[each] = Spec[Engine].read(part, here, Engine) if Engine in kinds else _list_of_scorers(part, here)
    return Spec(written, name, converted(cls, plain, where, wired), where, cls, parts)


def _list_of_scorers(written: object, where: str) -> tuple[Spec[Scorer], ...]:
    if not isinstance(written, list):
        raise UserError(f"{where} must be a list of scorers, got {written!r}")
    return tuple(Spec[Scorer].read(item, f"{where}.{i}", Scorer) for i, item in enumerate(cast(list[object], written)))


def is_object(kind: object) -> bool:
    """Whether a type's values are objects at work, which no config can hold."""
    if not isinstance(kind, type) or dataclasses.is_dataclass(kind) or issubclass(kind, Enum):
        return False
    return kind.__module__ not in ("builtins", "pathlib")


def split(written: object, where: str) -> tuple[str, Values]:
    """`{name: ldl_grpo, tau: 1.2}` or `ldl_grpo` as a name and values."""
    if isinstance(written, str):
        return written, {}
    if isinstance(written, Mapping):
        values = dict(cast(Mapping[str, Any], written))
        name = values.pop("name", None)
        if isinstance(name, str):
            return name, values
    raise UserError(f"{where} must be a name or a mapping with a `name`, got {written!r}")
