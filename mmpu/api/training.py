"""`mmpu.train` and `mmpu.compare`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpu.api.runs import Run
from mmpu.api.shown import frame, html
from mmpu.api.values import settled
from mmpu.config import Values, dump_yaml
from mmpu.core import UserError
from mmpu.recipes import outlook, presets, run_config
from mmpu.store import write_atomically
from mmpu.train.stage_config import StageConfig

if TYPE_CHECKING:
    from mmpu.studies.comparison import Comparison as Found

STAGE = tuple(field.name for field in dataclasses.fields(StageConfig) if field.name != "name")
"""Keys that stand in a stage where it is the only one."""


def train(
    config: str | Path | Mapping[str, Any] | None = None,
    *assignments: str,
    restart_from: str | None = None,
    **keys: Any,
) -> Run:
    """Trains all stages of a config; the same call resumes an interrupted run.

        mmpu.train("quickstart-text", "seed=1", run="runs/one")
        mmpu.train(run="runs/two", student="tiny-text", task=task, teacher="reference", method="sft", split="train",
                   steps=10, optim={"lr": 1e-3})

    Args:
        config: A config's name or file, or its keys.
        assignments: `key.sub=value`, as at the prompt.
        restart_from: A stage that is trained anew with those after it.
        keys: Keys of a config (docs/config.md), instead of or over those of `config`. Those of a stage may stand beside
            them where there is only one. `task` may be a `mmpu.Task`, `student` a `mmpu.Student`, a scorer a function
            of a sample and a text that returns a number, or None to abstain.

    Raises:
        UserError: as `mmpu train`: what does not fit is refused before anything large is loaded.
    """
    run = run_config.read(*_values(config, assignments, keys))
    for line in outlook.checked(run):
        print(line, file=sys.stderr)
    from mmpu.recipes import training

    return Run(training.train_run(run, restart_from))


def _values(
    config: str | Path | Mapping[str, Any] | None, assignments: Sequence[str], keys: Mapping[str, Any]
) -> tuple[Values, str]:
    """The values of a run, and how errors name them."""
    values, where = ({}, "mmpu.train")
    if isinstance(config, str | Path):
        values, where = presets.resolved(str(config), ())
    elif config is not None:
        values = settled(config, STAGE)
    values = {**values, **settled(keys, STAGE)}
    if isinstance(values.get("student"), str):
        values["student"] = {"model": values["student"]}
    return presets.settled(values, assignments), where


@dataclass(frozen=True)
class Comparison:
    """Several methods from one start."""

    found: Found

    @property
    def folder(self) -> Path:
        return self.found.folder

    def to_pandas(self) -> Any:
        """A row per method. `accuracy`, `win_rate` and their ends are shares of 1, `gain` their difference."""
        return frame([_line(line) for line in self.found.lines])

    def _repr_html_(self) -> str:
        from mmpu.studies import comparison

        cells = [comparison.cells(line, self.found) for line in self.found.lines]
        return html("Comparison", comparison.header(self.found), cells, comparison.note(self.found))


def _line(line: Any) -> dict[str, object]:
    found: dict[str, object] = {"method": line.name}
    for name in ("accuracy", "gain", "win_rate"):
        value = getattr(line, name)
        found[name] = None if value is None else value.value
        found[f"{name}_low"], found[f"{name}_high"] = (None, None) if value is None else (value.low, value.high)
    return {**found, "words": line.words, "seconds": line.seconds}


def compare(
    config: str | Path | Mapping[str, Any],
    methods: Sequence[str],
    *assignments: str,
    seeds: Sequence[int] = (0,),
    judge: str = "rule",
    judge_url: str | None = None,
    split: str = "test",
    limit: int | None = None,
    attempts: int | None = None,
) -> Comparison:
    """Trains several methods from one stage I, on the same prompts and anchors, and compares them. Resumes.

    Args:
        config: At least two stages, of which the last gives way to each method.
        methods: Presets or methods, of plug-ins too.
        assignments: `key.sub=value` for the config, `METHOD.key=value` for one method's stage.
        judge: Compares each method with stage I.
        limit: First so many prompts of `split` only.
        attempts: Answers per prompt; None takes the task's.

    Raises:
        UserError: as `mmpu compare`.
    """
    from mmpu.studies import compare as comparing

    if isinstance(config, Mapping):
        values = settled(config, STAGE)
        if "run" not in values:
            raise UserError("mmpu.compare: the key 'run' is missing, the folder of the comparison")
        path = Path(values["run"]) / "compare.yaml"
        write_atomically(path, dump_yaml(values))
        config = path
    options = comparing.Options(
        str(config), tuple(methods), tuple(seeds), judge, judge_url, split, limit, attempts, assignments
    )
    return Comparison(comparing.compare(options, lambda text: print(text, file=sys.stderr)))
