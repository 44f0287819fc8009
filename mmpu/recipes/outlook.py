"""What a run is about to do, said before anything large is imported, and the command that comes after it."""

from __future__ import annotations

import shlex

from mmpu.core import UserError
from mmpu.recipes import trackers
from mmpu.recipes.run_config import RunConfig
from mmpu.task import load_task, parse_split


def checked(run: RunConfig) -> list[str]:
    """What a run is about to do, in a few lines, once it is known that its parts are there.

    Raises:
        UserError: a tracker, the task or a split of a stage is not there.
    """
    trackers.check(run.trackers)
    task = load_task(run.task.name, allow_urls=run.allow_urls, **run.task.values)
    for stage in run.stages:
        name = parse_split(stage.split, f"stage {stage.name!r}")[0]
        if name not in task.config.splits:
            raise UserError(
                f"stage {stage.name!r}: task {task.name} has no split {name!r}; it has {', '.join(task.config.splits)}"
            )
    stages = " → ".join(f"{stage.name} ({stage.method.name} on {stage.split})" for stage in run.stages)
    return [f"{run.folder}: {run.student.model} on {task.name}, {stages}", "loading …"]


def afterwards(run: RunConfig) -> str:
    """The command that compares what was trained with what it began from."""
    task = load_task(run.task.name, **run.task.values)
    last = len(run.stages) - 1
    before = f"{run.stages[last - 1].name}={run.folder / f'{last - 1}-{run.stages[last - 1].name}'}"
    words = ["mmpu", "eval", f"{run.stages[last].name}={run.folder}"]
    words += ["--baseline", before if last else f"base={run.student.model}"]
    if task.config.judge is None:
        words += ["--judge", "rule"] if task.grader else ["--judge", "qwen3", "--judge-url", "http://localhost:8000/v1"]
    # Whoever has just trained with it has read the config; `mmpu eval` cannot know.
    trusts = run.student.trust_remote_code or bool(run.task.values)
    return shlex.join([*words, *(["--trust"] if trusts else [])])
