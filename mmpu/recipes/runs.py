"""What a name on the command line stands for: a run, one of its stages, a model, a file of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmpu import files
from mmpu.config import Values, build, load_yaml, override, to_values
from mmpu.core import UserError, digest
from mmpu.files import is_file
from mmpu.recipes.origins import origin_of
from mmpu.specs import Named

if TYPE_CHECKING:
    from mmpu.evaluation import Contender
    from mmpu.student import Student, StudentConfig


def trained_student(folder: Path) -> Student:
    """The student after the last finished stage of a run."""
    from mmpu.student import load_student

    # Who calls has just trained it, or found its config to be his own.
    return load_student(as_trained(config_of(folder), last_stage(folder), trust=True))


def as_trained(values: Values, stage: Path, *, trust: bool) -> StudentConfig:
    """How a run's student is held for answering: with the weights of a stage, its adapters merged.

    Args:
        trust: Whether Python that comes with the model may run, where the run's config says so.

    Raises:
        UserError: the config says so, and it may not: whoever wrote it is not who runs it.
    """
    from mmpu.student import StudentConfig

    check_student(values, stage, trust)
    held = {"model": str(stage), "lora": None, "quantize": None}
    return build(StudentConfig, values["student"] | held, "student")


def check_student(values: Values, stage: Path, trust: bool) -> None:
    """Raises:
    UserError: a run's config lets Python of the model run, and nobody here has said that it may.
    """
    if values["student"].get("trust_remote_code") and not trust:
        raise UserError(
            f"{stage.parent / 'config.yaml'} lets Python that comes with the model {values['student'].get('model')!r} "
            "run (trust_remote_code); read it, and allow it with --trust"
        )


def contender(
    name: str, target: str, *, trust: bool = False, held: Mapping[str, Any] = MappingProxyType({})
) -> Contender:
    """Who answers under `name` in an evaluation, in process.

    Args:
        target: `reference`, a file of answers, a run (its last finished stage), a stage or a model.
        trust: As for `as_trained`.
        held: Keys of `student:` to hold it by instead of its own.
    """
    from mmpu.engines.replay import Replay
    from mmpu.evaluation import Contender

    path = files.place(target)
    if target == "reference" and not path.exists():
        from mmpu.engines.reference import Reference

        return Contender(name, target, Reference(), "none")
    if path.suffix in (".jsonl", ".json"):
        if not path.exists():
            raise UserError(f"no answers file {target}")
        return Contender(name, path.name, Replay(str(path)), _hash_files([path]))
    stage = last_stage(path) if (path / "config.yaml").exists() else path
    run = run_of(stage)
    if run is not None:
        check_student(run[0], stage, trust)
    from mmpu.engines.hf import HF
    from mmpu.student import StudentConfig, load_student

    config = StudentConfig(str(stage) if stage.exists() else target)
    trained: Values = {}
    if run is not None:
        values, index = run
        config = as_trained(values, stage, trust=trust)
        target = str(values["student"]["model"])
        trained = {
            "method": Named.read(values["stages"][index]["method"], "method").name,
            "config": digest({k: v for k, v in values.items() if k not in ("run", "store")}),
            "seed": values["seed"],
        }
    config = replace(config, **held)
    weights, student = weights_of(config.model), load_student(config)
    return Contender(name, target, HF(student), weights, **trained, origin=origin_of(student, target))


def weights_of(model: str) -> str:
    """What tells the weights of a model, a stage or a name on the hub from others, its adapters included."""
    from mmpu.student import resolve_model

    base, adapters = resolve_model(model)
    places = [Path(base), *adapters]
    held = [f for place in places if place.is_dir() for f in place.glob("*.safetensors")]
    held += [place for place in places if place.is_file()]
    return _hash_files(sorted(held)) if held else f"hub:{base}"


def is_recorded(target: str) -> bool:
    """Whether a target's answers are there already: a file of them, or the data's own."""
    path = Path(target).expanduser()
    return path.suffix in (".jsonl", ".json") or (target == "reference" and not path.exists())


def named(text: str) -> tuple[str, str]:
    """`label=target` as both; a target alone is its own label."""
    label, equals, target = text.partition("=")
    return (label, target) if equals else (text.rstrip("/"), text)


def last_stage(folder: Path) -> Path:
    """The folder of the last finished stage of a run."""
    done = sorted((n, p.parent) for p in folder.glob("*/student.json") if (n := _number(p.parent)) is not None)
    if not done:
        raise UserError(f"the run {folder} has no finished stage yet; run `mmpu train` with its config again")
    return done[-1][1]


def _number(stage: Path) -> int | None:
    """The place in its run that a stage's folder begins with, as in `1-ldl_grpo`; None if it begins with none."""
    first = stage.name.partition("-")[0]
    return int(first) if first.isdecimal() and len(first) < 6 else None


def run_of(stage: Path) -> tuple[Values, int] | None:
    """The run's resolved config and the stage's number, for the folder of a stage.

    Raises:
        UserError: the config is damaged, or has no such stage.
    """
    number = _number(stage)
    if number is None or not (stage / "student.json").exists() or not (stage.parent / "config.yaml").exists():
        return None
    values = config_of(stage.parent)
    if number >= len(values["stages"]):
        raise UserError(
            f"{stage.parent / 'config.yaml'} has {len(values['stages'])} stages, and {stage} is none of them"
        )
    return values, number


def config_of(run: Path) -> Values:
    """A run's config, as training wrote it.

    Raises:
        UserError: it cannot be read, or training did not write it.
    """
    file = run / "config.yaml"
    values = load_yaml(file)
    for key, kind in (("student", dict), ("stages", list), ("seed", int)):
        if not isinstance(values.get(key), kind):
            raise UserError(f"{file}: `{key}` is missing or damaged; this is not the config that training wrote")
    if not all(isinstance(stage, dict) and "method" in stage for stage in values["stages"]):
        raise UserError(f"{file}: `stages` is damaged; this is not the config that training wrote")
    return values


def task_of(targets: Sequence[str]) -> Named | None:
    """The task that runs, or stages of runs, were trained on; None where there is no run among the targets.

    Raises:
        UserError: they were trained on several.
    """
    found: dict[str, Named] = {}
    for target in targets:
        path = Path(target).expanduser()
        file = next((f for f in (path / "config.yaml", path.parent / "config.yaml") if is_file(f)), None)
        if file is not None and "task" in (values := load_yaml(file)):
            task = Named.read(values["task"], f"{file}.task")
            task = replace(task, name=_from_here(task.name, file.parent))
            found.setdefault(digest([task.name, task.values]), task)
    if len(found) > 1:
        names = ", ".join(task.name for task in found.values())
        raise UserError(f"these runs were trained on different tasks ({names}); choose one with --task")
    return next(iter(found.values()), None)


def _from_here(name: str, run: Path) -> str:
    """A task's name, or the path of its file: as it is written from the shell's folder, or from one around the run."""
    path = Path(name)
    if path.is_absolute() or is_file(path) or not path.suffix:
        return name
    around = (folder / path for folder in run.resolve().parents)
    return next((str(each) for each in around if is_file(each)), name)


def _hash_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def held(target: str, *, trust: bool = False) -> Values:
    """The keys of `student:` for a run (its last finished stage), a stage or a model: as the run trained it; `trust` as
    for `as_trained`."""
    path = files.place(target)
    stage = last_stage(path) if (path / "config.yaml").exists() else path
    values = trained_as(stage)
    if values is None:
        return {"model": str(stage) if stage.exists() else target}
    return to_values(as_trained({"student": values}, stage, trust=trust))


def student_config(target: str, options: Sequence[str]) -> StudentConfig:
    """`held`, changed by `KEY=VALUE` options; who writes `trust_remote_code=true` trusts the model."""
    from mmpu.student import StudentConfig

    values = held(target, trust="trust_remote_code=true" in options)
    return build(StudentConfig, override(values, options), "student")


def trained_as(stage: Path) -> Values | None:
    """The keys of `student:` that a stage was trained with: its run's or, where it was moved alone, its own copy."""
    run = run_of(stage)
    if run is not None:
        return run[0]["student"]
    file = stage / "student.json"
    if not file.exists():
        return None
    try:
        return files.value_in(file).get("student")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}); train the stage again, or restore the file") from None


def export(target: str, folder: Path, *, trust: bool = False) -> None:
    """Writes the merged weights of a run, a stage or a model, in the type of the model that it all began with; `trust`
    as for `as_trained`."""
    from mmpu.student import StudentConfig, base_dtype, load_student

    path = files.place(target)
    stage = last_stage(path) if (path / "config.yaml").exists() else path
    student = load_student(build(StudentConfig, held(target, trust=trust), "student"))
    began = (trained_as(stage) or {}).get("model", target)
    student.base.to(base_dtype(str(began)) or student.base.dtype)
    student.save(folder)
