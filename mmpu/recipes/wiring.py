"""Components from their specs, with the objects that they are given rather than configured."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmpu import plugins
from mmpu.config import build, component
from mmpu.core import Engine, Scorer, Task, UserError
from mmpu.store import Ledger, Store
from mmpu.task import YamlTask


@dataclass(frozen=True)
class Wired:
    """What scorers are given, by the name of their field."""

    task: YamlTask
    ledger: Ledger
    store: Store
    teacher: Engine | None = None
    frozen: Engine | None = None
    """The stage's start, `engine` of a scorer; None while a config is only checked."""
    live: Engine | None = None

    def given(self) -> dict[str, object]:
        from mmpu.engines.counted import Counted

        def local(engine: Engine | None) -> Engine:
            return Counted(cast(Engine, engine), self.ledger, "local_eval")

        task: Task = self.task
        return {"task": task, "teacher": self.teacher, "engine": local(self.frozen), "live": local(self.live)}


def engine(spec: str | Mapping[str, Any], task: YamlTask, where: str, **wired: object) -> Engine:
    """An engine from its spec; a relative `path` that is not there is looked for beside the task.

    Args:
        wired: Further objects that engines are given by the name of their field.

    Raises:
        UserError: a mistake in the spec, or an endpoint that is not configured.
    """
    if isinstance(spec, Mapping) and "engine" in spec and "name" not in spec:  # `teacher: {engine: openai, …}`
        spec = {"name": spec["engine"], **{k: v for k, v in spec.items() if k != "engine"}}
    name, values = component(spec, where)
    path = values.get("path")
    if isinstance(path, str) and not Path(path).exists():
        beside = [folder / path for folder in (task.folder, task.path.parent) if (folder / path).exists()]
        values["path"] = str(beside[0]) if beside else path
    provided: dict[str, object] = {"task": task, **wired}
    if "fallback" in values:
        provided["fallback"] = engine(values.pop("fallback"), task, f"{where} {name}.fallback")
    found = build(plugins.find_class("engines", name, Engine), values, f"{where} {name}", provided)
    getattr(found, "endpoints", None)  # raises now if there is none
    return found


def scorer(spec: object, wired: Wired, where: str) -> Scorer:
    """A scorer from its spec. Fields that are engines take an engine's spec, a field of scorers a list of theirs.

    Raises:
        UserError: a mistake in the spec, or an endpoint that is not configured.
    """
    name, values = component(spec, where)
    cls = plugins.find_class("scorers", name, Scorer)
    hints = typing.get_type_hints(cls)
    given = wired.given()
    for field in dataclasses.fields(cast(Any, cls)):
        if field.name not in values:
            continue
        kinds = {hints[field.name], *typing.get_args(hints[field.name])}
        here, value = f"{where}.{field.name}", values[field.name]
        if Engine in kinds:
            given[field.name] = _external(value, wired, here)
        elif Scorer in kinds:
            if not isinstance(value, list):
                raise UserError(f"{here} must be a list of scorers, got {value!r}")
            items = cast(list[object], value)
            given[field.name] = tuple(scorer(item, wired, f"{here}.{i}") for i, item in enumerate(items))
        else:
            continue
        del values[field.name]
    return build(cls, values, where, given)


def _external(spec: Any, wired: Wired, where: str) -> Engine:
    """A judge other than the student: its answers are kept, and what it was asked is counted."""
    from mmpu.engines.cached import Cached

    return Cached(engine(spec, wired.task, where), wired.store, wired.ledger, "external_judge")
