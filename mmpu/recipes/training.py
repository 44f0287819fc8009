"""The composition root: configs become objects here, and only here does anything know how the parts are wired."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmpu import plugins
from mmpu.config import Values, build, component, dump_yaml, load_yaml, override, to_values
from mmpu.core import Engine, Sampling, UserError
from mmpu.learning import Method
from mmpu.recipes import fit, presets, wiring
from mmpu.recipes.resolved import resolved
from mmpu.recipes.runs import contender
from mmpu.store import Ledger, Store, write_atomically
from mmpu.task import YamlTask, load_local, load_task

if TYPE_CHECKING:
    from mmpu.recipes.collecting import Collection
    from mmpu.student import Student, StudentConfig
    from mmpu.train.shadow import Shadow
    from mmpu.train.stage import StageConfig


# -----------------------------------------------------------------------------------------------------------------
# train


@dataclass(frozen=True, slots=True)
class TeacherSampling(Sampling):
    """As `sampling`, with a teacher's defaults: its likeliest answer, and room for it."""

    temperature: float = 0.0
    max_tokens: int = 2048


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
    rollout: str | dict[str, Any] = "hf"
    """The engine that samples the student's candidates: `hf`, in process, `vllm` or `vllm_server`."""
    teacher: str | dict[str, Any] | None = None
    """The engine that gives anchors, asked once per prompt."""
    teacher_sampling: TeacherSampling = field(default_factory=TeacherSampling)
    """How the teacher is asked for anchors. What is kept in the store is kept for this sampling."""
    allow_urls: bool = False
    """Fetch images that the task's rows name by URL."""
    seed: int = 0
    store: str | None = None
    """The file of answers paid for; None is `store.sqlite` beside the run's folder, shared by the runs there."""
    trackers: tuple[str, ...] = ()
    """accelerate's trackers, such as `tensorboard`, `wandb`."""
    about: str = ""


def load_run_config(config: str, assignments: Sequence[str]) -> RunConfig:
    """A training config from its name or path, with overrides."""
    path = plugins.find_data("configs", config)
    values = load_yaml(path)
    if isinstance(values.get("stages"), list):
        values["stages"] = [presets.expand(stage) if isinstance(stage, dict) else stage for stage in values["stages"]]
    return run_config(override(values, assignments), str(path))


def run_config(values: Values, where: str) -> RunConfig:
    """A training config from its values."""
    from mmpu.student import StudentConfig
    from mmpu.train.stage import StageConfig

    # The config classes live with the code that uses them, which imports torch; this module must not.
    globals().update(StudentConfig=StudentConfig, StageConfig=StageConfig)
    run = build(RunConfig, values, where)
    names = [stage.name for stage in run.stages]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{where}: `stages` needs at least one stage, each with a name of its own; got {names}")
    return run


def train(config: str, assignments: Sequence[str] = ()) -> Path:
    """Trains all stages of a config; finished ones are skipped, an interrupted one resumes.

    Returns:
        The run's folder.
    """
    return train_run(load_run_config(config, assignments))


def train_run(run: RunConfig) -> Path:
    """The same for a config that is already read."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from mmpu.train import sharding

    folder = Path(run.run).expanduser()
    tasks = _task(run.task, run.allow_urls)
    accelerator = Accelerator(
        cpu=run.student.device == "cpu", log_with=list(run.trackers) or None, project_dir=str(folder)
    )
    sharding.admit(accelerator, run.student, component(run.rollout, "rollout")[0])
    set_seed(run.seed)
    ledger = Ledger(folder / ("ledger.json" if accelerator.is_main_process else ".ledger.json"))
    store = Store(Path(run.store).expanduser() if run.store else folder.parent / "store.sqlite")
    teacher: Engine | None = None
    if run.teacher:
        from mmpu.engines.cached import Cached

        asked, version = _asked(run.teacher, tasks, "teacher")
        teacher = Cached(asked, store, ledger, "teacher", version)
    plan = _checked(run, wiring.Wired(tasks, ledger, store, teacher))
    _sampler(run, plan, tasks, cast("Student", None), folder)
    if accelerator.is_main_process:
        _claim(folder, run, tasks)
    accelerator.wait_for_everyone()
    if run.trackers:
        accelerator.init_trackers("mmpu", {"run": run.run, "seed": run.seed})

    student: Student | None = None
    sampler: Engine | None = None
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            held.callback(ledger.save)  # what a run that stops within a step has asked
        for index, (stage, method) in enumerate(zip(run.stages, plan, strict=True)):
            place = folder / f"{index}-{stage.name}"
            if (place / "student.json").exists():
                continue
            if student is None or sampler is None:
                student = _student_at(run, folder, index)
                sampler = _sampler(run, plan, tasks, student, folder)
                held.callback(sampler.close)
            _train_stage(run, stage, method, student, sampler, teacher, tasks, place, ledger, store, accelerator)
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
    student: Student,
    sampler: Engine,
    teacher: Engine | None,
    task: YamlTask,
    place: Path,
    ledger: Ledger,
    store: Store,
    accelerator: Any,
) -> None:
    from mmpu.engines.hf import HF
    from mmpu.train import loop
    from mmpu.train.fitting import Fitting
    from mmpu.train.record import Record
    from mmpu.train.rollout import Rollout
    from mmpu.train.stage import Stage, keeps_reference

    place.mkdir(parents=True, exist_ok=True)
    student.start_stage(keeps_reference(stage, method), value="value" in method.needs)
    shadow = _shadow(run, method, student)
    scorer = None
    if stage.scorer is not None:
        wired = wiring.Wired(task, ledger, store, teacher, HF(student, "frozen"), HF(student))
        scorer = wiring.scorer(stage.scorer, wired, f"stages.{stage.name}.scorer")
    sampling = _sampling(stage, task)
    reader = shadow.other if shadow is not None and shadow.other is not None else student
    fitting = Fitting(student, reader, method, sampling.max_tokens)
    asking, low = run.teacher_sampling, stage.low_anchor
    rollout = Rollout(method, scorer, sampler, teacher, stage.k, sampling, ledger, shadow, asking, low, fitting)
    record = Record(place.parent, accelerator, ledger, task)
    loop.run(Stage(stage, place, task.samples(stage.split), task, rollout, student, accelerator, run.seed), record)


def check_run(run: RunConfig) -> None:
    """Raises what `train` would refuse before it begins.

    Raises:
        UserError: a mistake in the config, or parts that do not fit.
    """
    task = _task(run.task, run.allow_urls)
    folder = Path(run.run).expanduser()
    teacher = wiring.engine(run.teacher, task, "teacher") if run.teacher else None
    store = Store(Path(run.store).expanduser() if run.store else folder.parent / "store.sqlite")
    _checked(run, wiring.Wired(task, Ledger(folder / "ledger.json"), store, teacher))


def _checked(run: RunConfig, wired: wiring.Wired) -> list[Method]:
    """The stages' methods; every mistake shows before anything is trained."""
    if run.student.lora is None and run.student.dtype != "float32":
        raise UserError(
            f"student.dtype: weights in {run.student.dtype} would lose most updates to rounding; train all of them "
            "with `dtype: float32` and `autocast: bfloat16`, or set student.lora"
        )
    if run.student.lora is not None and run.student.lora.dropout:
        raise UserError(
            f"student.lora.dropout={run.student.lora.dropout}: with dropped units the update's log-probabilities "
            "differ from the sampler's before anything is learned, and gradients depend on tokens_per_pass; leave it 0"
        )
    plan = [_method(stage) for stage in run.stages]
    for stage, method in zip(run.stages, plan, strict=True):
        fit.check(stage, method, wired, _sampling(stage, wired.task))
        if method.shadow is not None and method.shadow.kind == "external":
            from mmpu.train.shadow import check_tokenizers

            check_tokenizers(run.student.model, method.shadow.model)
    return plan


def _method(stage: StageConfig) -> Method:
    where = f"stages.{stage.name}.method"
    name, values = component(stage.method, where)
    return build(plugins.find_class("methods", name, Method), values, where)


def _sampler(run: RunConfig, plan: Sequence[Method], task: YamlTask, student: Student, folder: Path) -> Engine:
    """The engine of rollouts; it lives as long as the run, so that stages share what is slow to start."""
    name, _ = component(run.rollout, "rollout")
    cls = plugins.find_class("engines", name, Engine)
    if "student" not in {field.name for field in dataclasses.fields(cast(Any, cls))}:
        raise UserError(f"rollout: {name} does not sample the student's own tokens; use hf, vllm or vllm_server")
    if name != "hf" and any(method.offline or "teacher_responses" in method.needs for method in plan):
        raise UserError(
            f"rollout: a method here samples from a second set of weights, which {name} does not hold; use hf"
        )
    return wiring.engine(run.rollout, task, "rollout", student=student, folder=folder / ".rollout")


def _sampling(stage: StageConfig, task: YamlTask) -> Sampling:
    """Likelihoods are compared at temperature 1, so candidates come from the plain distribution unless the stage says
    otherwise."""
    own = task.config.sampling
    return stage.sampling or Sampling(max_tokens=own.max_tokens, stop=own.stop)


def _shadow(run: RunConfig, method: Method, student: Student) -> Shadow | None:
    from mmpu.student import load_student
    from mmpu.train.shadow import Shadow

    if method.shadow is None:
        return None
    other = None
    if method.shadow.kind == "external":
        other = load_student(dataclasses.replace(run.student, model=method.shadow.model, lora=None))
        other.requires_grad_(False)
    return Shadow(method.shadow, student, other)


def _claim(folder: Path, run: RunConfig, task: YamlTask) -> None:
    """Writes the resolved config into the run's folder, or makes sure that the run there is this one. The folder may
    have been moved, or be named in another way, and its config may leave to defaults what this one says."""

    def whole(config: RunConfig) -> Values:
        return resolved(to_values(config), {stage.name: _sampling(stage, task) for stage in config.stages})

    new = whole(run)
    values = dump_yaml(new)
    path = folder / "config.yaml"
    if not path.exists():
        write_atomically(path, values)
    elif path.read_text(encoding="utf-8") != values:
        old = whole(run_config(load_yaml(path), str(path)))
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if set(changed) - {"run"}:
            raise UserError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); choose another `run=…`, or remove "
                "the folder"
            )
        write_atomically(path, values)


def _student_at(run: RunConfig, folder: Path, index: int) -> Student:
    """The student before stage `index`."""
    from mmpu.student import load_student

    if index == 0:
        return load_student(run.student)
    before = folder / f"{index - 1}-{run.stages[index - 1].name}"
    student = load_student(dataclasses.replace(run.student, model=str(before)))
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
# generate


@dataclass(frozen=True)
class GenerateOptions:
    """What `mmpu generate` was asked for."""

    task: str
    engine: str
    """An engine's name, or a YAML file with its keys."""
    settings: tuple[str, ...]
    """Keys of the engine, such as `model=Qwen/Qwen3-32B`."""
    out: Path
    split: str = "train"
    limit: int | None = None
    n: int = 1
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    store: Path | None = None
    data: str | Sequence[str] = ()
    """As for `EvalOptions`, and `trust` too."""
    trust: bool = False
    allow_urls: bool = False
    dry_run: bool = False


def collection(options: GenerateOptions) -> Collection:
    """What `mmpu generate` is to collect; a dry run leaves no file behind."""
    from mmpu.engines.cached import Cached
    from mmpu.recipes.collecting import Collection

    task = load_local(options.task, options.data, trust=options.trust, allow_urls=options.allow_urls)
    samples = task.samples(options.split)[: options.limit]
    sampling = build(Sampling, {**to_values(task.config.sampling), **options.sampling}, "sampling")
    file = Path(options.engine)
    spec = load_yaml(file) if file.suffix in (".yaml", ".yml") else {"name": options.engine}
    engine, version = _asked(override(spec, options.settings), task, "engine")
    store = options.store or options.out.parent / "store.sqlite"
    if options.dry_run and not store.exists():
        store = Path(":memory:")
    ledger = Ledger(options.out.with_suffix(".ledger.json"))
    return Collection(
        samples, options.n, sampling, Cached(engine, Store(store), ledger, "engine", version), options.out
    )


def _asked(spec: str | Mapping[str, Any], task: YamlTask, where: str) -> tuple[Engine, str]:
    """An engine to keep the answers of, and what they depend on besides its identity: a run's or model's weights."""
    name, values = component(spec, where) if isinstance(spec, str) or "name" in spec else ("", {})
    if name != "hf":
        return wiring.engine(spec, task, where), ""
    if set(values) != {"model"}:
        raise UserError(
            f"{where} hf: takes one key, `model`, a run, a stage or a model; got {', '.join(values) or 'none'}"
        )
    found = contender(name, str(values["model"]))
    return found.engine, found.weights


def _task(spec: str | Mapping[str, Any], allow_urls: bool = False) -> YamlTask:
    name, overrides = component(spec, "task")
    return load_task(name, allow_urls=allow_urls, **overrides)
