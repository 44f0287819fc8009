"""A run's folder is one run's: its config is written there, or is found to be this one's, or what differs is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from mmpu import files
from mmpu.config import dump_yaml, load_yaml
from mmpu.core import Sampling, UserError
from mmpu.recipes import changes, run_config
from mmpu.recipes.aside import set_aside
from mmpu.recipes.fit import Planned
from mmpu.recipes.resolved import resolved
from mmpu.recipes.run_config import RunConfig
from mmpu.store import write_atomically


def claim(run: RunConfig, plan: Sequence[Planned], restart_from: str | None, say: Callable[[str], None]) -> None:
    """Writes the resolved config into the run's folder, or makes sure that the run there is this one. The folder may
    have been moved, or be named in another way, and its config may leave to defaults what this one says.

    Args:
        restart_from: A stage that is trained anew with those after it; what was there is set aside.

    Raises:
        UserError: a setting differs on which a result depends that is kept.
    """
    samplings = {stage.config.name: stage.sampling for stage in plan}
    new = resolved(run, list(samplings.values()))
    path = run.folder / "config.yaml"
    first = None if restart_from is None else _number(run, restart_from)
    if path.exists():
        held = run_config.read(load_yaml(path), str(path))
        old = resolved(held, [each.sampling or samplings.get(each.name, Sampling()) for each in held.stages])
        finished = len(list(run.folder.glob("*/student.json")))
        begun = _begun(run.folder, changes.stage_names(old))
        if changed := changes.harmful(run, old, new, finished, first, begun):
            raise UserError(f"{run.folder} holds a run with other settings ({'; '.join(changed)}); {_way_out(first)}")
        if first is None and begun and changes.harmful(run, old, new, finished):
            first = begun  # what was found out for the settings that it had
        if first is None:
            for text in changes.lengthened(run, old, new):
                say(text)
        else:
            names = {*changes.stage_names(old)[first:], *changes.stage_names(new)[first:]}
            set_aside(run.folder, names, first, say)
    elif first is not None:
        raise UserError(f"{run.folder} holds no run whose stages could be trained anew; leave out --restart-from")
    if not path.exists() or files.text(path) != dump_yaml(new):
        write_atomically(path, dump_yaml(new))


def _begun(folder: Path, names: Sequence[str]) -> int:
    """Stages in which a step was made."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return 0
    rows = map(_row, files.text(file).split("\n"))
    trained = {row["stage"] for row in rows if {"stage", "loss"} <= set(row)}
    return max((number for number, name in enumerate(names, 1) if name in trained), default=0)


def _row(line: str) -> Mapping[str, object]:
    """A line's mapping; nothing if a crash cut it short."""
    with contextlib.suppress(ValueError):
        found = files.parsed(line)
        return cast(Mapping[str, object], found) if isinstance(found, dict) else {}
    return {}


def _number(run: RunConfig, stage: str) -> int:
    names = [each.name for each in run.stages]
    if stage not in names:
        raise UserError(f"--restart-from {stage}: the run has no such stage; it has {', '.join(names)}")
    return names.index(stage)


def _way_out(first: int | None) -> str:
    if first is not None:
        return "stages before the one of --restart-from depend on it; name an earlier one, or choose another `run=…`"
    return (
        "choose another `run=…`, or `--restart-from STAGE` to set that stage and later ones aside and train them anew"
    )
