"""How a run's config differs from the one that it began with, and which of that changes no result."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mmpu.config import Values
from mmpu.knobs import MAY_CHANGE, marks
from mmpu.recipes.run_config import RunConfig
from mmpu.specs import Spec
from mmpu.student import StudentConfig
from mmpu.train.stage_config import StageConfig

MISSING = "nothing"


def harmful(
    run: RunConfig, old: Values, new: Values, finished: int, restart: int | None = None, begun: int | None = None
) -> list[str]:
    """What differs and would change a result, `stages.sft.optim.lr: 0.001 → 0.01`. Stages may be appended, and those
    in which no step was made may change.

    Args:
        old: The resolved config that the run began with.
        new: The resolved config of `run`.
        finished: Stages that are done. The last one may be made longer while it is not.
        restart: The number of the first stage that is trained anew; None trains none.
        begun: Stages in which a step was made; None takes them all to be.
    """
    if begun is not None and 0 < begun < len(old["stages"]):
        restart = begun if restart is None else min(begun, restart)
    if restart == 0:
        return []
    before, now = stage_names(old), stage_names(new)
    bound = before if restart is None else before[:restart]
    if now[: len(bound)] != bound:
        return [f"stages: {', '.join(before)} → {', '.join(now)}"]
    anew = {*before, *now} - set(bound)
    free = {*_free(run), *(f"stages.{name}" for name in anew)}
    return _differing(old, new, free, before[-1] if finished < len(before) else None)


def stage_names(values: Values) -> list[str]:
    """Of a resolved config."""
    return [stage["name"] for stage in values["stages"]]


def lengthened(run: RunConfig, old: Values, new: Values) -> list[str]:
    """What follows from other lengths of stages, in words."""
    said: list[str] = []
    was, now = dict(flat(old)), dict(flat(new))
    for stage in run.stages:
        keys = [f"stages.{stage.name}.{name}" for name in ("steps", "epochs")]
        changes = [f"{key}: {was[key]} → {now.get(key)}" for key in keys if key in was and was[key] != now.get(key)]
        warm = stage.optim.warmup_steps is None and stage.optim.warmup > 0
        if changes and (stage.optim.schedule != "constant" or warm):
            said.append(
                f"{changes[0]}: from here on the learning rate ({stage.optim.schedule}) is that of the new length, not "
                "of a run that was as long from its first step"
            )
    return said


def _differing(old: Values, new: Values, free: set[str], open_stage: str | None) -> list[str]:
    last = f"stages.{open_stage}"
    was, now = dict(flat(old)), dict(flat(new))
    found: list[str] = []
    for key in {**was, **now}:
        before, after = was.get(key, MISSING), now.get(key, MISSING)
        if _same(before, after) or any(key == each or key.startswith(f"{each}.") for each in free):
            continue
        if key in (f"{last}.steps", f"{last}.epochs") and _more(before, after):
            continue
        found.append(f"{key}: {before} → {after}")
    return found


def _same(before: object, after: object) -> bool:
    """Equal values, or two ways to write the path of one file."""
    if before == after or not (isinstance(before, str) and isinstance(after, str)):
        return before == after
    try:
        return Path(before).name == Path(after).name and Path(before).samefile(after)
    except (OSError, ValueError):
        return False


def _more(before: object, after: object) -> bool:
    return isinstance(before, int | float) and isinstance(after, int | float) and after > before


def _free(run: RunConfig) -> Iterator[str]:
    """Keys that are marked so where they are declared."""
    yield from _marked(RunConfig, "")
    yield from _marked(StudentConfig, "student.")
    engines: dict[str, Spec[Any] | None] = {"rollout": run.rollout, "teacher": run.teacher and run.teacher.engine}
    for name, spec in engines.items():
        if spec is not None:
            yield from _marked(spec.cls, f"{name}.")
    for stage in run.stages:
        yield from _marked(StageConfig, f"stages.{stage.name}.")
        yield from _marked(type(stage.optim), f"stages.{stage.name}.optim.")


def _marked(cls: type[Any], prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    yield from (prefix + name for name in names if MAY_CHANGE in marks(hints[name]))


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Plain values by their dotted keys; items of a list by their name, where they have one."""
    if isinstance(value, Mapping) and value:
        for key, item in cast(Mapping[str, object], value).items():
            yield from flat(item, f"{prefix}{key}.")
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in cast(list[object], value)):
        for index, item in enumerate(cast(list[Mapping[str, object]], value)):
            yield from flat(item, f"{prefix}{item.get('name', index)}.")
    else:
        yield prefix.removesuffix("."), value
