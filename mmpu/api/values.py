"""What Python gives, as it stands in a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmpu.api.runs import Run
from mmpu.api.student import Student
from mmpu.api.task import Task
from mmpu.config import Values
from mmpu.lent import Judgement, lend


def plain(value: object) -> Any:
    """Objects as configs name them: tasks and runs by their path, functions by the name that they are lent under."""
    if isinstance(value, Task):
        return value.in_config()
    if isinstance(value, Student):
        return {"model": value.model, **value.options}
    if isinstance(value, Run):
        return str(value.folder)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast(Sequence[object], value)]
    if callable(value) and not isinstance(value, type):
        return {"name": "function", "of": lend(cast(Judgement, value))}
    return value


def settled(keys: Mapping[str, object], stage_keys: Sequence[str]) -> Values:
    """Keys of a config. Where they hold a `method` and no `stages`, those of a stage make the only one."""
    values: Values = plain(keys)
    if "method" not in values or "stages" in values:
        return values
    stage = {key: values.pop(key) for key in stage_keys if key in values}
    method = stage["method"]
    name = method["name"] if isinstance(method, dict) else method
    return {**values, "stages": [{"name": str(name), **stage}]}
