"""A run's config with every default spelled out: what it would take to run it again under other defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, cast

from mmpu import plugins
from mmpu.config import Values, component, plain, to_values
from mmpu.core import Engine, Sampling, Scorer, Task
from mmpu.learning import Method

BASES: dict[str, type[Any]] = {"methods": Method, "scorers": Scorer, "engines": Engine}


def resolved(run: Values, samplings: Mapping[str, Sampling]) -> Values:
    """The values of a run, those of its methods, scorers and engines with their defaults.

    Args:
        samplings: How each stage samples, by its name.
    """
    stages = [
        stage
        | {"method": _spelled_out("methods", stage["method"])}
        | {"scorer": stage["scorer"] and _spelled_out("scorers", stage["scorer"])}
        | {"sampling": to_values(samplings[str(stage["name"])])}
        for stage in cast(list[Values], run["stages"])
    ]
    engines = {key: run[key] and _spelled_out("engines", run[key]) for key in ("rollout", "teacher")}
    return run | engines | {"stages": stages}


def _spelled_out(kind: str, spec: object) -> Values:
    """A component's spec with the defaults of its class; what mmpu gives it at run time is left out."""
    if isinstance(spec, Mapping) and "engine" in spec and "name" not in spec:
        spec = {"name": spec["engine"], **{k: v for k, v in cast(Values, spec).items() if k != "engine"}}
    name, given = component(spec, kind)
    if kind == "engines" and "model" in given and name == "hf":  # another run or model, which is no field of the class
        return {"name": name, **given}
    cls = plugins.find_class(kind, name, BASES[kind])
    hints = typing.get_type_hints(cls)
    values: Values = {"name": name}
    for field in dataclasses.fields(cls):
        kinds = {hints[field.name], *typing.get_args(hints[field.name])}
        value = given.get(field.name)
        if field.name in given:
            values[field.name] = _nested(kinds, value)
        elif field.init and field.repr and not kinds & {Engine, Scorer, Task} and _has_default(field):
            values[field.name] = plain(_default(field))
    return values


def _nested(kinds: set[Any], value: object) -> object:
    if Engine in kinds and value is not None:
        return _spelled_out("engines", value)
    if Scorer in kinds:
        return [_spelled_out("scorers", item) for item in cast(list[object], value)]
    return value


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
