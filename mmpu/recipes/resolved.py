"""A run's config with every default spelled out: what it would take to run it again under other defaults; and which of
its settings are defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from mmpu.config import Values, plain
from mmpu.core import Engine, Sampling, Scorer, Task, UserError
from mmpu.plugins import find_class
from mmpu.recipes.run_config import RunConfig
from mmpu.specs import Spec


def resolved(run: RunConfig, samplings: Sequence[Sampling]) -> Values:
    """The values of a run, those of its methods, scorers and engines with their defaults.

    Args:
        samplings: How each stage samples.
    """
    stages = [
        _fields(stage)
        | {"method": _spelled_out(stage.method)}
        | {"scorer": stage.scorer and _spelled_out(stage.scorer)}
        | {"sampling": sampling}
        for stage, sampling in zip(run.stages, samplings, strict=True)
    ]
    engines: Values = {"rollout": _spelled_out(run.rollout)}
    if run.teacher is not None and run.teacher.engine is not None:  # else another run or model, which has no class
        engines["teacher"] = _spelled_out(run.teacher.engine)
    values = _fields(run) | engines | {"stages": stages}
    return cast(Values, plain(values))


def _fields(config: object) -> Values:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, config)) if field.init}


def _spelled_out(spec: Spec[Any]) -> Values:
    """A component with the defaults of its class; what it is given at run time is left out."""
    hints = typing.get_type_hints(spec.cls)
    values: Values = {"name": spec.name}
    for field in dataclasses.fields(cast(Any, spec.cls)):
        kinds = {hints[field.name], *typing.get_args(hints[field.name])}
        if field.name in spec.values:
            values[field.name] = spec.values[field.name]
        elif field.name in spec.parts:
            part = spec.parts[field.name]
            values[field.name] = list(map(_spelled_out, part)) if isinstance(part, tuple) else _spelled_out(part)
        elif field.init and field.repr and not kinds & {Engine, Scorer, Task} and _has_default(field):
            values[field.name] = _default(field)
    return values


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def defaults(values: Values) -> list[str]:
    """Dotted names of what stands at its default in a resolved config; a name stands for all that is below it. Of a
    component that is not installed here, nothing is known."""
    return list(_defaults(RunConfig, values, ""))


def _defaults(cls: Any, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name not in values:
            continue
        name, value = f"{prefix}{field.name}", values[field.name]
        if field.init and _has_default(field) and plain(_default(field)) == value:
            yield name
            continue
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if isinstance(value, Mapping):
                yield from _below(kind, cast(Mapping[str, Any], value), f"{name}.")
            elif isinstance(value, list) and kind is not Ellipsis:
                for number, item in enumerate(cast(list[object], value)):
                    if isinstance(item, Mapping):
                        yield from _below(kind, cast(Mapping[str, Any], item), f"{name}.{number}.")


def _below(kind: Any, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """What stands at its default in a part of a config, if that is what such parts are."""
    if typing.get_origin(kind) is Spec:
        (base,) = typing.get_args(kind)
        try:
            kind = find_class(f"{base.__name__.lower()}s", str(values.get("name")), base)
        except UserError:
            return
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield from _defaults(kind, values, prefix)
