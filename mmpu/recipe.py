"""The composition root: configs become objects here, and only here does anything know how the parts are wired."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmpu import plugins
from mmpu.config import Values, build, component, dump_yaml, load_yaml, override, to_values
from mmpu.core import Engine, Judge, Method, Sampling, Scorer, UserError, digest
from mmpu.lookup import place_of
from mmpu.store import Ledger, Store, write_atomically
from mmpu.task import YamlTask, load_task, parse_split

if TYPE_CHECKING:
    from mmpu.evaluate import Contender
    from mmpu.leaderboard import Board
    from mmpu.student import Student, StudentConfig
    from mmpu.train.loop import StageConfig


# -----------------------------------------------------------------------------------------------------------------
# train


@dataclass(frozen=True)
class RunConfig:
    """The keys of a training config."""

    run: str
    """The run's folder."""
    student: StudentConfig
    task: str | dict[str, Any]
    """A task's name, or a mapping with `name` and keys of the task to replace, such as `data`."""
    stages: tuple[StageConfig, ...]
    """In order; each starts from the weights of the one before."""
    teacher: str | dict[str, Any] | None = None
    """The engine that gives anchors, asked once per prompt."""
    seed: int = 0
    store: str | None = None
    """The file of answers paid for; None is `store.sqlite` beside the run's folder, shared by the runs there."""
    trackers: tuple[str, ...] = ()
    """accelerate's trackers, such as `tensorboard`, `wandb`."""
    about: str = ""


def load_run_config(config: str, assignments: Sequence[str]) -> RunConfig:
    """A training config from its name or path, with overrides."""
    path = plugins.find_data("configs", config)
    values = override(load_yaml(path), assignments)
    from mmpu.student import StudentConfig
    from mmpu.train.loop import StageConfig

    # The config classes live with the code that uses them, which imports torch; this module must not.
    globals().update(StudentConfig=StudentConfig, StageConfig=StageConfig)
    run = build(RunConfig, values, str(path))
    names = [stage.name for stage in run.stages]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path}: `stages` needs at least one stage, each with a name of its own; got {names}")
    return run


def train(config: str, assignments: Sequence[str] = ()) -> Path:
    """Trains all stages of a config; finished ones are skipped, an interrupted one resumes.

    Returns:
        The run's folder.
    """
    run = load_run_config(config, assignments)
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    folder = Path(run.run).expanduser()
    tasks = _task(run.task)
    accelerator = Accelerator(
        cpu=run.student.device == "cpu", log_with=list(run.trackers) or None, project_dir=str(folder)
    )
    set_seed(run.seed)
    ledger = Ledger(folder / ("ledger.json" if accelerator.is_main_process else ".ledger.json"))
    store = Store(Path(run.store).expanduser() if run.store else folder.parent / "store.sqlite")
    teacher = _engine(run.teacher, tasks, "teacher") if run.teacher else None
    if teacher:
        from mmpu.engines.cached import Cached

        teacher = Cached(teacher, store, ledger, "teacher")
    plan = [_parts(stage, tasks) for stage in run.stages]  # every mistake shows before anything is trained
    for stage, (method, _) in zip(run.stages, plan, strict=True):
        _check(stage, method, teacher, tasks)
    if accelerator.is_main_process:
        _claim(folder, run)
    accelerator.wait_for_everyone()
    if run.trackers:
        accelerator.init_trackers("mmpu", {"run": run.run, "seed": run.seed})

    student: Student | None = None
    for index, (stage, (method, scorer)) in enumerate(zip(run.stages, plan, strict=True)):
        place = folder / f"{index}-{stage.name}"
        if (place / "student.json").exists():
            continue
        if student is None:
            student = _student_at(run, folder, index)
        _train_stage(run, stage, method, scorer, student, teacher, tasks, place, ledger, accelerator)
        if accelerator.is_main_process:
            _finish(run, place, student)
        accelerator.wait_for_everyone()
    if run.trackers:
        accelerator.end_training()
    return folder


def _train_stage(
    run: RunConfig,
    stage: StageConfig,
    method: Method,
    scorer_spec: Any,
    student: Student,
    teacher: Engine | None,
    task: YamlTask,
    place: Path,
    ledger: Ledger,
    accelerator: Any,
) -> None:
    from mmpu.engines.hf import HF
    from mmpu.train import loop
    from mmpu.train.record import Record
    from mmpu.train.rollout import Rollout

    place.mkdir(parents=True, exist_ok=True)
    needs_frozen = "reference" in method.needs or scorer_spec is not None
    student.start_stage(reference=needs_frozen)
    scorer = _scorer(scorer_spec, task, HF(student, "frozen")) if scorer_spec is not None else None
    # Likelihoods are compared at temperature 1, so candidates come from the plain distribution unless the stage says
    # otherwise.
    sampling = stage.sampling or Sampling(max_tokens=task.config.sampling.max_tokens, stop=task.config.sampling.stop)
    if "old_logp" in method.needs and not sampling.plain:
        raise UserError(
            f"stage {stage.name}: this method compares with the sampler's log-probabilities and needs plain sampling "
            "(temperature 1, no top_p, top_k, min_p)"
        )
    rollout = Rollout(method, scorer, HF(student), teacher, stage.k, sampling, ledger)
    record = Record(place.parent, accelerator, ledger, task)
    loop.run(loop.Stage(stage, place, task.samples(stage.split), task, rollout, student, accelerator, run.seed), record)


def _parts(stage: StageConfig, task: YamlTask) -> tuple[Method, Any]:
    where = f"stages.{stage.name}"
    name, values = component(stage.method, f"{where}.method")
    method = build(plugins.find_class("methods", name, Method), values, f"{where}.method")
    if stage.scorer is not None:  # built again with the student once there is one
        _scorer(stage.scorer, task, cast(Engine, None))
    return method, stage.scorer


def _scorer(spec: Any, task: YamlTask, engine: Engine) -> Scorer:
    name, values = component(spec, "scorer")
    cls = plugins.find_class("scorers", name, Scorer)
    return build(cls, values, f"scorer {name}", {"engine": engine, "task": task})


def _check(stage: StageConfig, method: Method, teacher: Engine | None, task: YamlTask) -> None:
    """Refuses combinations that could only fail later, or silently teach nothing."""
    where = f"stage {stage.name!r}"
    scored = "scores" in method.needs
    if scored and stage.scorer is None:
        raise UserError(f"{where}: its method needs scores; set `scorer:`, for example `scorer: self_eval`")
    if not scored and stage.scorer is not None:
        raise UserError(f"{where}: its method uses no scores; remove `scorer:`")
    if method.listwise and stage.k < 2:
        raise UserError(
            f"{where}: k={stage.k}, and a listwise method learns from differences within a group; set k to 2 or "
            "more, 8 is usual"
        )
    if "anchor" in method.needs and teacher is None:
        raise UserError(f"{where}: its method needs anchors; set `teacher:` in the config")
    if stage.prompts_per_step < 1 or (stage.steps is not None and stage.steps < 1) or stage.epochs <= 0:
        raise UserError(f"{where}: prompts_per_step, steps and epochs must be positive")
    if task.config.for_evaluation(parse_split(stage.split, where)[0]):
        raise UserError(f"{where}: the split {stage.split!r} of {task.name} is for evaluation; train on another")
    task.ready(stage.split)


def _claim(folder: Path, run: RunConfig) -> None:
    """Writes the resolved config into the run's folder, or makes sure that the run there is this one."""
    values = dump_yaml(to_values(run))
    path = folder / "config.yaml"
    if not path.exists():
        write_atomically(path, values)
    elif path.read_text(encoding="utf-8") != values:
        old, new = load_yaml(path), to_values(run)
        changed = [key for key in {**old, **new} if old.get(key) != json.loads(json.dumps(new.get(key)))]
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); choose another `run=…`, or remove the "
            "folder"
        )


def _student_at(run: RunConfig, folder: Path, index: int) -> Student:
    """The student before stage `index`."""
    from mmpu.student import Student

    if index == 0:
        return Student.load(run.student)
    before = folder / f"{index - 1}-{run.stages[index - 1].name}"
    student = Student.load(dataclasses.replace(run.student, model=str(before)))
    student.config = run.student
    return student


def _finish(run: RunConfig, place: Path, student: Student) -> None:
    """Saves a stage's weights; `student.json`, written last, says that they are complete."""
    import shutil

    from mmpu.train.checkpoint import WRITE_ERRORS

    lora = run.student.lora is not None
    target = place / ("adapter" if lora else "model")
    temporary = place / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        student.save(temporary)
        temporary.rename(target)
    except WRITE_ERRORS as error:
        raise UserError(f"cannot write {target}: {error}; make room and run the same command again") from error
    base = str(Path(run.student.model).resolve()) if Path(run.student.model).exists() else run.student.model
    names = [f"{i}-{s.name}" for i, s in enumerate(run.stages)]
    adapters = [f"../{name}/adapter" for name in names[: names.index(place.name) + 1]]
    entry = {"base": base, "adapters": adapters} if lora else {"base": "model", "adapters": []}
    write_atomically(place / "student.json", json.dumps(entry, indent=2) + "\n")
    for old in place.glob("step-*"):
        shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------------
# eval


@dataclass(frozen=True)
class JudgeConfig:
    """The keys of a judge YAML besides those of its class."""

    about: str
    kind: str


@dataclass(frozen=True)
class EvalOptions:
    """What `mmpu eval` was asked for."""

    systems: tuple[str, ...]
    """`NAME`, `PATH` or `label=PATH` of runs, stages, models or answer files (.jsonl)."""
    task: str
    judge: str | None = None
    """None takes the task's, as for `baseline`, `split` and `attempts`."""
    baseline: str | None = None
    split: str | None = None
    limit: int | None = None
    judge_url: str | None = None
    data: str | Sequence[str] = ()
    """`PATH`, or `NAME=PATH` of tasks and data sets."""
    folder: str = "leaderboards"
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    attempts: int | None = None
    """Answers per prompt."""
    trust: bool = False
    """Whether Python beside a YAML given by its path may run."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-eval to run beside."""


def evaluate(options: EvalOptions) -> Board:
    """Runs an evaluation and returns the published board."""
    from mmpu import evaluate as evaluation

    place = place_of([options.data] if isinstance(options.data, str) else options.data, options.task)
    task = load_task(options.task, trust=options.trust, **({"data": place} if place else {}))
    judge = load_judge(_default("judge", options.judge, task), task, options.judge_url)
    baseline = _default("baseline", options.baseline, task)
    split = options.split or task.config.evaluate
    split = f"{split}[:{options.limit}]" if options.limit else split
    task.ready(split)
    sampling = build(Sampling, {**to_values(task.config.sampling), **options.sampling}, "sampling")
    named: dict[str, str] = {}
    for text in (*options.systems, baseline):
        label, target = _named(text)
        if named.setdefault(label, target) != target and "=" in text:  # a bare label may name one given before
            raise UserError(f"two systems are labelled {label!r}: {named[label]} and {target}; choose another label")
    contenders = [_contender(label, target) for label, target in named.items()]
    attempts = options.attempts or task.config.attempts
    reports = _lm_eval(contenders, options.lm_eval, options.limit) if options.lm_eval else {}
    return evaluation.evaluate(
        contenders, _named(baseline)[0], task, judge, split, sampling, Path(options.folder), attempts, reports
    )


def lm_eval(systems: Sequence[str], tasks: Sequence[str], limit: int | None, folder: Path) -> list[Path]:
    """Runs lm-eval's tasks alone; returns the files with its reports, one per system."""
    from mmpu.evaluate import slug

    reports = _lm_eval([_contender(*_named(text)) for text in systems], tasks, limit)
    if not reports:
        raise UserError("lm-eval runs models, and these are recorded answers; name a run, a stage or a model")
    paths = {folder / f"{slug(name)}.lm_eval.json": report for name, report in reports.items()}
    for path, report in paths.items():
        write_atomically(path, json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return list(paths)


def _lm_eval(contenders: Sequence[Contender], tasks: Sequence[str], limit: int | None) -> dict[str, dict[str, Any]]:
    """What lm-eval reports of the contenders that are models."""
    from mmpu import harness
    from mmpu.engines.hf import HF

    models = {c.name: c.engine.student for c in contenders if isinstance(c.engine, HF)}
    return {name: harness.run(student, tasks, limit) for name, student in models.items()}


def export(target: str, folder: Path) -> None:
    """Writes the merged weights of a run, a stage or a model."""
    from mmpu.student import Student, StudentConfig

    path = Path(target).expanduser()
    stage = _last_stage(path) if (path / "config.yaml").exists() else path
    Student.load(StudentConfig(str(stage) if stage.exists() else target)).save(folder)


def load_judge(name: str, task: YamlTask, url: str | None = None) -> Judge:
    """A judge from its YAML; `url` replaces its engine's endpoint, which must be known before anything runs."""
    path = plugins.find_data("judges", name)
    values = load_yaml(path)
    own = build(JudgeConfig, {k: values.pop(k) for k in ("about", "kind") if k in values}, str(path))
    cls = plugins.find_class("judge", own.kind, Judge)
    provided: dict[str, object] = {"task": task}
    if "engine" in values:
        spec: Any = values.pop("engine")
        engine_name, engine_values = component(spec, f"{path}: engine")
        if url:
            engine_values["url"] = url
        engine = _engine({"name": engine_name, **engine_values}, task, f"{path}: engine")
        getattr(engine, "endpoint", None)  # raises now if there is none
        provided["engine"] = engine
    if "prompt" in values:
        values["prompt"] = str(path.parent / str(values["prompt"]))
    return build(cls, {"name": path.stem, **values}, str(path), provided)


def _default(key: str, given: str | None, task: YamlTask) -> str:
    chosen = given or getattr(task.config, key)
    if not chosen:
        raise UserError(f"task {task.name} names no {key}; choose one with --{key}")
    return str(chosen)


def _named(text: str) -> tuple[str, str]:
    label, equals, target = text.partition("=")
    return (label, target) if equals else (text.rstrip("/"), text)


def _contender(name: str, target: str) -> Contender:
    from mmpu.engines.replay import Replay
    from mmpu.evaluate import Contender

    path = Path(target).expanduser()
    if target == "reference" and not path.exists():
        from mmpu.engines.reference import Reference

        return Contender(name, target, Reference(), "none")
    if path.suffix == ".jsonl":
        if not path.exists():
            raise UserError(f"no answers file {target}")
        return Contender(name, path.name, Replay(str(path)), _hash_files([path]))
    from mmpu.engines.hf import HF
    from mmpu.student import Student, StudentConfig, resolve_model

    stage = _last_stage(path) if (path / "config.yaml").exists() else path
    config = StudentConfig(str(stage) if stage.exists() else target)
    trained: Values = {}
    run = _run_of(stage)
    if run is not None:
        values, index = run
        config = build(StudentConfig, {**values["student"], "model": str(stage), "lora": None}, "student")
        target = str(values["student"]["model"])
        trained = {
            "method": component(values["stages"][index]["method"], "method")[0],
            "config": digest({k: v for k, v in values.items() if k not in ("run", "store")}),
            "seed": values["seed"],
        }
    base, adapters = resolve_model(config.model)
    files = [f for place in [Path(base), *adapters] if place.exists() for f in place.glob("*.safetensors")]
    weights = _hash_files(sorted(files)) if files else f"hub:{base}"
    return Contender(name, target, HF(Student.load(config)), weights, **trained)


def _last_stage(folder: Path) -> Path:
    """The folder of the last finished stage of a run."""
    done = sorted(folder.glob("*/student.json"), key=lambda p: int(p.parent.name.split("-")[0]))
    if not done:
        raise UserError(f"the run {folder} has no finished stage yet; run `mmpu train` with its config again")
    return done[-1].parent


def _run_of(stage: Path) -> tuple[Values, int] | None:
    """The run's resolved config and the stage's number, for the folder of a stage."""
    if not (stage / "student.json").exists() or not (stage.parent / "config.yaml").exists():
        return None
    return load_yaml(stage.parent / "config.yaml"), int(stage.name.split("-")[0])


def _hash_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------------
# shared


def _task(spec: str | Mapping[str, Any]) -> YamlTask:
    name, overrides = component(spec, "task")
    return load_task(name, **overrides)


def _engine(spec: str | Mapping[str, Any], task: YamlTask, where: str) -> Engine:
    """An engine from its spec; a relative `path` that is not there is looked for beside the task."""
    name, values = component(spec, where)
    path = values.get("path")
    if isinstance(path, str) and not Path(path).exists():
        beside = [folder / path for folder in (task.folder, task.path.parent) if (folder / path).exists()]
        values["path"] = str(beside[0]) if beside else path
    return build(plugins.find_class("engines", name, Engine), values, f"{where} {name}", {"task": task})
