"""Components from their specs, with the objects that they are given rather than configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from mmpu.config import Readable
from mmpu.core import Engine, Scorer, Task, UserError
from mmpu.engines.cached import Cached
from mmpu.engines.counted import Counted
from mmpu.recipes.runs import contender
from mmpu.specs import Named, Spec, split
from mmpu.store import Ledger, Store
from mmpu.task import YamlTask, load_task


@dataclass(frozen=True)
class Source(Readable):
    """Whose answers are kept: an engine's, or with `{name: hf, model: …}` those of a run, a stage or a model."""

    written: object
    engine: Spec[Engine] | None
    model: str = ""
    trust: bool = False
    """Whether Python that comes with a run's model may run, where its config says so."""

    @classmethod
    def read(cls, written: object, where: str, *arguments: Any) -> Self:
        if written != "hf" and not (isinstance(written, Mapping) and cast(Any, written).get("name") == "hf"):
            return cls(written, Spec[Engine].read(written, where, Engine))
        _, values = split(written, where)
        if set(values) - {"trust"} != {"model"}:
            raise UserError(
                f"{where} hf: takes one key, `model`, a run, a stage or a model (and `trust: true`); got "
                f"{', '.join(values) or 'none'}"
            )
        return cls(written, None, str(values["model"]), values.get("trust") is True)


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
        def local(engine: Engine | None) -> Engine:
            return Counted(cast(Engine, engine), self.ledger, "local_eval")

        task: Task = self.task
        return {"task": task, "teacher": self.teacher, "engine": local(self.frozen), "live": local(self.live)}


def wired(task: Named, allow_urls: bool, teacher: Source | None, store: Path, ledger: Ledger) -> Wired:
    """What all stages of a run share."""
    loaded = load_task(task.name, allow_urls=allow_urls, **task.values)
    found = None if teacher is None else opened(teacher, loaded)
    answers = Store(store)  # a mistake above leaves no file behind
    return Wired(loaded, ledger, answers, found and Cached(found[0], answers, ledger, "teacher", found[1]))


def opened(source: Source, task: YamlTask) -> tuple[Engine, str]:
    """Who answers, and what the answers depend on besides its identity: the weights of a run or a model."""
    if source.engine is not None:
        return engine(source.engine, task), ""
    found = contender("hf", source.model, trust=source.trust)
    return found.engine, found.weights


def sampler(spec: Spec[Engine], task: YamlTask, student: object, folder: Path) -> Engine:
    """The engine of rollouts.

    Raises:
        UserError: it does not sample the student.
    """
    if "student" not in {field.name for field in dataclasses.fields(cast(Any, spec.cls))}:
        raise UserError(f"rollout: {spec.name} does not sample the student's own tokens; use hf, vllm or vllm_server")
    return engine(spec, task, student=student, folder=folder)


def engine(spec: Spec[Engine], task: YamlTask, **given: object) -> Engine:
    """An engine; a relative `path` that is not there is looked for beside the task.

    Raises:
        UserError: a key is missing, or an endpoint is not configured.
    """
    parts = {name: engine(cast(Spec[Engine], part), task) for name, part in spec.parts.items()}
    path = spec.values.get("path")
    if isinstance(path, str) and not Path(path).exists():
        beside = [folder / path for folder in (task.folder, task.path.parent) if (folder / path).exists()]
        spec = dataclasses.replace(spec, values={**spec.values, "path": str(beside[0]) if beside else path})
    found = spec.make({"task": task, **given, **parts})
    getattr(found, "endpoints", None)  # raises now if there is none
    return found


def scorer(spec: Spec[Scorer], wired: Wired) -> Scorer:
    """A scorer; the engines that it names itself are judges other than the student: what they say is kept and counted.

    Raises:
        UserError: a key is missing, or an endpoint is not configured.
    """
    given = wired.given()
    for name, part in spec.parts.items():
        if isinstance(part, tuple):
            given[name] = tuple(scorer(each, wired) for each in part)
        else:
            given[name] = Cached(engine(part, wired.task), wired.store, wired.ledger, "external_judge")
    return spec.make(given)


def asking_the_student(spec: Spec[Scorer]) -> list[Spec[Scorer]]:
    """Those parts of a scorer that ask the student itself, and nobody else."""
    lists = [part for part in spec.parts.values() if isinstance(part, tuple)]
    if len(lists) < len(spec.parts):  # it names an engine
        return []
    names = {field.name for field in dataclasses.fields(cast(Any, spec.cls))}
    inner = [found for part in lists for each in part for found in asking_the_student(each)]
    return [spec] if not lists and names & {"engine", "live"} else inner
