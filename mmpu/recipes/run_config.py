"""The keys of a training config, and reading them: all that is below works with what is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from mmpu import files
from mmpu.config import Values, build
from mmpu.core import Engine, Sampling, UserError
from mmpu.knobs import MAY_CHANGE, Seed, Temperature
from mmpu.recipes import presets, rollout_choice
from mmpu.recipes.wiring import Source
from mmpu.specs import Named, Spec
from mmpu.student import StudentConfig
from mmpu.train.stage_config import StageConfig


@dataclass(frozen=True, slots=True)
class TeacherSampling(Sampling):
    """As `sampling`, with a teacher's defaults: its likeliest answer, and room for it."""

    temperature: Temperature = 0.0
    max_tokens: Annotated[int, Interval(ge=1, le=2**20)] = 2048


@dataclass(frozen=True)
class RunConfig:
    """The keys of a training config."""

    run: Annotated[str, MAY_CHANGE]
    """The run's folder."""
    student: StudentConfig
    """Which model, and how it is held."""
    task: Named
    """A task's name, or a mapping with `name` and keys of the task to replace, such as `data`."""
    stages: tuple[StageConfig, ...]
    """In order; each starts from the weights of the one before."""
    rollout: Spec[Engine] = field(default_factory=lambda: Spec[Engine].read("hf", "rollout", Engine))
    """The engine that samples the student's candidates: `hf`, in process, `vllm` or `vllm_server`; `auto` is `vllm`
    where that and a GPU are there, else `hf`, and is written down as what it was."""
    teacher: Source | None = None
    """The engine that gives anchors, asked once per prompt."""
    teacher_sampling: TeacherSampling = field(default_factory=TeacherSampling)
    """How the teacher is asked for anchors. What is kept in the store is kept for this sampling."""
    allow_urls: Annotated[bool, MAY_CHANGE] = False
    """Fetch images that the task's rows name by URL."""
    seed: Seed = 0
    """Of everything that is drawn: data order, candidates, adapters."""
    store: Annotated[str | None, MAY_CHANGE] = None
    """The file of answers paid for; None is `store.sqlite` beside the run's folder, shared by the runs there."""
    trackers: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """accelerate's trackers, such as `tensorboard`, `wandb`."""
    about: Annotated[str, MAY_CHANGE] = ""
    """A line for people."""

    @property
    def folder(self) -> Path:
        return files.place(self.run)

    @property
    def store_file(self) -> Path:
        return files.place(self.store) if self.store else self.folder.parent / "store.sqlite"


def load(config: str, assignments: Sequence[str] = ()) -> RunConfig:
    """A training config from its name or path, with overrides."""
    return read(*presets.resolved(config, assignments))


def read(values: Values, where: str) -> RunConfig:
    """A training config from its values."""
    chooses = values.get("rollout") == rollout_choice.AUTO
    run = build(RunConfig, {**values, "rollout": "hf"} if chooses else values, where)
    if chooses:
        name = rollout_choice.automatic(run.student, [stage.method.make({}) for stage in run.stages])
        run = replace(run, rollout=Spec[Engine].read(name, "rollout", Engine))
    names = [stage.name for stage in run.stages]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{where}: `stages` needs at least one stage, each with a name of its own; got {names}")
    return run
