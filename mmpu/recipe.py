"""The composition root: configs become objects here, and only here does anything know how the parts are wired."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmpu import fit, plugins, presets, wiring
from mmpu.config import Values, build, component, dump_yaml, load_yaml, override, to_values
from mmpu.core import Engine, Failed, Judge, Method, Sampling, UserError, digest
from mmpu.store import Ledger, Store, write_atomically
from mmpu.task import YamlTask, load_local, load_task
from mmpu.wiring import engine as _engine

if TYPE_CHECKING:
    from mmpu.answers import Contender
    from mmpu.evaluate import Prepared, Settings
    from mmpu.generate import Collection
    from mmpu.judging.economy import Estimate, Prices
    from mmpu.judging.run import Progress, Question
    from mmpu.leaderboard import Audit, Board
    from mmpu.loading import StudentConfig
    from mmpu.student import Student
    from mmpu.train.loop import StageConfig
    from mmpu.train.shadow import Shadow


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
    rollout: str | dict[str, Any] = "hf"
    """The engine that samples the student's candidates: `hf`, in process, `vllm` or `vllm_server`."""
    teacher: str | dict[str, Any] | None = None
    """The engine that gives anchors, asked once per prompt."""
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
    from mmpu.loading import StudentConfig
    from mmpu.train.loop import StageConfig

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

    folder = Path(run.run).expanduser()
    tasks = _task(run.task, run.allow_urls)
    accelerator = Accelerator(
        cpu=run.student.device == "cpu", log_with=list(run.trackers) or None, project_dir=str(folder)
    )
    _refuse_sharding(accelerator.distributed_type.value)
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
        _claim(folder, run)
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
    from mmpu.train.record import Record
    from mmpu.train.rollout import Rollout

    place.mkdir(parents=True, exist_ok=True)
    student.start_stage(loop.keeps_reference(stage, method), value="value" in method.needs)
    shadow = _shadow(run, method, student)
    scorer = None
    if stage.scorer is not None:
        wired = wiring.Wired(task, ledger, store, teacher, HF(student, "frozen"), HF(student))
        scorer = wiring.scorer(stage.scorer, wired, f"stages.{stage.name}.scorer")
    rollout = Rollout(method, scorer, sampler, teacher, stage.k, _sampling(stage, task), ledger, shadow)
    record = Record(place.parent, accelerator, ledger, task)
    loop.run(loop.Stage(stage, place, task.samples(stage.split), task, rollout, student, accelerator, run.seed), record)


def _refuse_sharding(kind: str) -> None:
    """Every process samples and scores on its own, in as many passes as its prompts need; weights that are gathered in
    every pass would need the same number everywhere."""
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise UserError(
            f"accelerate is set to {kind}, which shards weights over processes, and mmpu trains with a copy in each; "
            "choose plain multi-process training, and for models that do not fit `student.lora`, "
            "`gradient_checkpointing`, `quantize: 4bit` or `device_map`"
        )


def check_run(run: RunConfig) -> None:
    """Raises what `train` would refuse before it begins.

    Raises:
        UserError: a mistake in the config, or parts that do not fit.
    """
    task = _task(run.task)
    folder = Path(run.run).expanduser()
    teacher = _engine(run.teacher, task, "teacher") if run.teacher else None
    store = Store(Path(run.store).expanduser() if run.store else folder.parent / "store.sqlite")
    _checked(run, wiring.Wired(task, Ledger(folder / "ledger.json"), store, teacher))


def _checked(run: RunConfig, wired: wiring.Wired) -> list[Method]:
    """The stages' methods; every mistake shows before anything is trained."""
    if run.student.lora is None and run.student.dtype != "float32":
        raise UserError(
            f"student.dtype: weights in {run.student.dtype} would lose most updates to rounding; train all of them "
            "with `dtype: float32` and `autocast: bfloat16`, or set student.lora"
        )
    plan = [_method(stage) for stage in run.stages]
    for stage, method in zip(run.stages, plan, strict=True):
        fit.check(stage, method, wired, _sampling(stage, wired.task))
        if method.shadow is not None and method.shadow.kind == "external":
            from mmpu.train.shadow import check_tokenizers

            check_tokenizers(run.student.model, method.shadow.model)
    return plan


def trained_student(folder: Path) -> Student:
    """The student after the last finished stage of a run."""
    from mmpu.student import Student

    return Student.load(_as_trained(load_yaml(folder / "config.yaml"), _last_stage(folder)))


def _as_trained(values: Values, stage: Path) -> StudentConfig:
    """How a run's student is held for answering: with the weights of a stage, its adapters merged."""
    from mmpu.loading import StudentConfig

    held = {"model": str(stage), "lora": None, "quantize": None}
    return build(StudentConfig, values["student"] | held, "student")


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
    return _engine(run.rollout, task, "rollout", student=student, folder=folder / ".rollout")


def _sampling(stage: StageConfig, task: YamlTask) -> Sampling:
    """Likelihoods are compared at temperature 1, so candidates come from the plain distribution unless the stage says
    otherwise."""
    own = task.config.sampling
    return stage.sampling or Sampling(max_tokens=own.max_tokens, stop=own.stop)


def _shadow(run: RunConfig, method: Method, student: Student) -> Shadow | None:
    from mmpu.student import Student
    from mmpu.train.shadow import Shadow

    if method.shadow is None:
        return None
    other = None
    if method.shadow.kind == "external":
        other = Student.load(dataclasses.replace(run.student, model=method.shadow.model, lora=None))
        other.requires_grad_(False)
    return Shadow(method.shadow, student, other)


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
    prices: dict[str, Any] | None = None
    """A price list: see `judging.economy.Prices`."""


@dataclass(frozen=True)
class JudgingOptions:
    """How `mmpu eval` judges, and what it may spend."""

    equalise: bool | None = None
    """None leaves it to the task."""
    calibration: str | None = None
    probes: int = 5
    max_calls: int | None = None
    max_cost: float | None = None
    rejudge: bool = False
    concurrency: int | None = None
    max_unread: float | None = None
    max_missing: float | None = None


@dataclass(frozen=True)
class EvalOptions:
    """What `mmpu eval` was asked for."""

    systems: tuple[str, ...]
    """`NAME`, `PATH` or `label=PATH` of runs, stages, models or answer files (.jsonl, .json)."""
    task: str
    judge: str | None = None
    """None takes the task's, as for `baseline`, `split` and `attempts`."""
    baseline: str | None = None
    split: str | None = None
    limit: int | None = None
    judge_url: str | None = None
    data: str | Sequence[str] = ()
    """`PATH`, or `NAME=PATH` of tasks and data sets."""
    trust: bool = False
    """Whether Python beside a YAML given by its path may run."""
    allow_urls: bool = False
    folder: str = "leaderboards"
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    attempts: int | None = None
    """Answers per prompt."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-eval to run beside."""
    judging: JudgingOptions = field(default_factory=JudgingOptions)


@dataclass(frozen=True)
class _Evaluation:
    """An evaluation with its answers, before the judge is asked."""

    task: YamlTask
    judge: Judge
    prices: Prices | None
    settings: Settings
    prepared: list[Prepared]


def evaluate(
    options: EvalOptions,
    progress: Callable[[Progress], None] = lambda _: None,
    announce: Callable[[Estimate], None] = lambda _: None,
) -> Board:
    """Runs an evaluation and returns the published board.

    Args:
        progress: Called whenever verdicts arrive.
        announce: Called before the first call with what is to be paid.
    """
    from mmpu.evaluate import publish
    from mmpu.judging.economy import affordable

    one = _prepare(options)
    estimate, pending = _estimate(one, options)
    announce(estimate)
    limits = one.settings.limits
    if options.judging.max_cost is not None:
        calls = affordable(one.judge, pending, one.prices, options.judging.max_cost)
        calls = calls if limits.max_calls is None else min(calls, limits.max_calls)
        limits = dataclasses.replace(limits, max_calls=calls)
    settings = dataclasses.replace(one.settings, limits=limits)
    return publish(one.prepared, one.task, one.judge, Path(options.folder), settings, progress)


def estimate(options: EvalOptions) -> Estimate:
    """What an evaluation would ask of the judge, without asking."""
    return _estimate(_prepare(dataclasses.replace(options, lm_eval=())), options)[0]


def _prepare(options: EvalOptions) -> _Evaluation:
    from mmpu import evaluate as evaluation
    from mmpu.judging.glm import read_calibration
    from mmpu.judging.run import Limits

    task = _local_task(options.task, options.data, options.trust, options.allow_urls, options.lm_eval)
    judging = options.judging
    judge_name = _default("judge", options.judge, task)
    judge = load_judge(judge_name, task, options.judge_url, judging.concurrency)
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
    shares = {"max_unread": judging.max_unread, "max_missing": judging.max_missing}
    settings = evaluation.Settings(
        equalise=task.config.equalise if judging.equalise is None else judging.equalise,
        probes=judging.probes,
        calibration=read_calibration(Path(judging.calibration)) if judging.calibration else None,
        limits=Limits(judging.max_calls, judging.rejudge),
        attempts=options.attempts or task.config.attempts,
        lm_eval=_lm_eval(contenders, options.lm_eval, options.limit, options.data) if options.lm_eval else {},
        **{name: share for name, share in shares.items() if share is not None},
    )
    label, folder = _named(baseline)[0], Path(options.folder)
    prepared = evaluation.prepare(contenders, label, task, judge, split, sampling, folder, settings)
    return _Evaluation(task, judge, load_prices(judge_name), settings, prepared)


def _estimate(one: _Evaluation, options: EvalOptions) -> tuple[Estimate, list[Question]]:
    from mmpu.evaluate import STORE, asked
    from mmpu.judging.economy import estimate
    from mmpu.judging.run import missing
    from mmpu.judging.verdicts import Verdicts

    everything = asked(one.judge, one.prepared)
    path = Path(options.folder) / STORE
    pending = missing(everything, Verdicts(path), options.judging.rejudge) if path.exists() else everything
    n = max(len(p.match.items) for p in one.prepared)
    return estimate(one.judge, pending, len(everything) - len(pending), n, one.prices), pending


def audit_judge(
    judge_name: str,
    task_name: str,
    baseline: str | None,
    split: str,
    limit: int,
    url: str | None,
    data: str | Sequence[str],
    trust: bool,
    folder: Path,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Audit:
    """Lets a judge compare answers that must lose with a baseline's, or with the task's references."""
    from mmpu.engines.reference import Reference
    from mmpu.evaluate import STORE
    from mmpu.judging.audit import audit_with_traps
    from mmpu.judging.verdicts import Verdicts

    task = _local_task(task_name, data, trust)
    judge = load_judge(judge_name, task, url)
    engine = _contender("baseline", baseline).engine if baseline else Reference()
    samples = task.samples(f"{split}[:{limit}]")
    answers = engine.generate(samples, 1, task.config.sampling)
    known = [(s, a[0].text) for s, a in zip(samples, answers, strict=True) if not isinstance(a, Failed)]
    if not known:
        hint = "give --baseline a file of answers" if baseline is None else "look at the baseline's answers"
        raise UserError(f"there is no answer to compare with on {split}[:{limit}] of {task_name}; {hint}")
    return audit_with_traps(judge, known, Verdicts(folder / STORE), progress)


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
    from mmpu.generate import Collection

    task = _local_task(options.task, options.data, options.trust, options.allow_urls)
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


def lm_eval(
    systems: Sequence[str], tasks: Sequence[str], limit: int | None, folder: Path, data: str | Sequence[str] = ()
) -> list[Path]:
    """Runs lm-eval's tasks alone; returns the files with its reports, one per system."""
    from mmpu.answers import slug

    reports = _lm_eval([_contender(*_named(text)) for text in systems], tasks, limit, data)
    if not reports:
        raise UserError("lm-eval runs models, and these are recorded answers; name a run, a stage or a model")
    paths = {folder / f"{slug(name)}.lm_eval.json": report for name, report in reports.items()}
    for path, report in paths.items():
        write_atomically(path, json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return list(paths)


def _lm_eval(
    contenders: Sequence[Contender], tasks: Sequence[str], limit: int | None, data: str | Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What lm-eval reports of the contenders that are models."""
    from mmpu import harness
    from mmpu.engines.hf import HF

    models = {c.name: c.engine.student for c in contenders if isinstance(c.engine, HF)}
    named = (item.partition("=") for item in ([data] if isinstance(data, str) else data))
    places = {name: folder for name, equals, folder in named if equals}
    return {name: harness.run(student, tasks, limit, data=places) for name, student in models.items()}


def export(target: str, folder: Path) -> None:
    """Writes the merged weights of a run, a stage or a model."""
    from mmpu.loading import StudentConfig
    from mmpu.student import Student

    path = Path(target).expanduser()
    stage = _last_stage(path) if (path / "config.yaml").exists() else path
    Student.load(StudentConfig(str(stage) if stage.exists() else target)).save(folder)


def export_alpaca_eval(
    store: Path, target: Path, task_name: str, data: str | Sequence[str] = (), trust: bool = False
) -> list[tuple[Path, int]]:
    """Writes AlpacaEval's files for every match of a task in a store, from the answers beside the store.

    Returns:
        Each match's folder, and how many of its duels could not be read.
    """
    from mmpu.answers import answers_of, slug
    from mmpu.judging.alpaca import write_annotations
    from mmpu.judging.match import match_of
    from mmpu.judging.verdicts import Verdicts

    task = _local_task(task_name, data, trust)
    verdicts = Verdicts(store)
    matches = [match for values in verdicts.matches() if (match := match_of(values)).task == task.name]
    if not matches:
        raise UserError(f"{store} has no match on the task {task.name}")
    written: list[tuple[Path, int]] = []
    for match in (m for m in matches if m.system != m.baseline):
        samples = {sample.id: sample for sample in task.samples(match.split)}
        ours, theirs = (
            answers_of(s, store.parent / f"{task.name}.{match.split}") for s in (match.system, match.baseline)
        )
        folder = target / f"{slug(match.system.name)}.{slug(match.baseline.name)}.{slug(match.judge)}"
        unread = write_annotations(match, verdicts.get(match.keys), samples, ours, theirs, folder)
        written.append((folder, unread))
    return written


def load_judge(name: str, task: YamlTask, url: str | None = None, concurrency: int | None = None) -> Judge:
    """A judge from its YAML, with the task's own prompt for that kind of judge if it has one; `url` and `concurrency`
    replace its engine's, whose endpoint must be known before anything runs."""
    path, own, values = _judge_values(name)
    cls = plugins.find_class("judge", own.kind, Judge)
    provided: dict[str, object] = {"task": task}
    if "engine" in values:
        spec: Any = values.pop("engine")
        engine_name, engine_values = component(spec, f"{path}: engine")
        given = {"url": url, "concurrency": concurrency}
        engine_values.update({key: value for key, value in given.items() if value})
        provided["engine"] = _engine({"name": engine_name, **engine_values}, task, f"{path}: engine")
    if "prompt" in values:
        values["prompt"] = str(_judge_prompt(own.kind, task) or plugins.beside(path, str(values["prompt"])))
    return build(cls, {"name": path.stem, **values}, str(path), provided)


def _judge_prompt(kind: str, task: YamlTask) -> Path | None:
    """The prompt that a task has for judges of a kind."""
    for known in task.config.judge_prompts:
        plugins.find_class("judge", known, Judge)
    if kind not in task.config.judge_prompts:
        return None
    folder = task.path.parent.resolve()
    prompt = (folder / task.config.judge_prompts[kind]).resolve()
    if not prompt.is_relative_to(folder):
        raise UserError(f"{task.path}: `judge_prompts.{kind}` leaves the task's folder; put {prompt.name} beside it")
    return prompt


def load_prices(name: str) -> Prices | None:
    """The price list of a judge's YAML."""
    from mmpu.judging.economy import Prices

    path, own, _ = _judge_values(name)
    return build(Prices, own.prices, f"{path}: prices") if own.prices else None


def _judge_values(name: str) -> tuple[Path, JudgeConfig, Values]:
    path = plugins.find_data("judges", name)
    values = load_yaml(path)
    keys = ("about", "kind", "prices")
    return path, build(JudgeConfig, {k: values.pop(k) for k in keys if k in values}, str(path)), values


def _default(key: str, given: str | None, task: YamlTask) -> str:
    chosen = given or getattr(task.config, key)
    if not chosen:
        raise UserError(f"task {task.name} names no {key}; choose one with --{key}")
    return str(chosen)


def _named(text: str) -> tuple[str, str]:
    label, equals, target = text.partition("=")
    return (label, target) if equals else (text.rstrip("/"), text)


def _contender(name: str, target: str) -> Contender:
    from mmpu.answers import Contender
    from mmpu.engines.replay import Replay

    path = Path(target).expanduser()
    if target == "reference" and not path.exists():
        from mmpu.engines.reference import Reference

        return Contender(name, target, Reference(), "none")
    if path.suffix in (".jsonl", ".json"):
        if not path.exists():
            raise UserError(f"no answers file {target}")
        return Contender(name, path.name, Replay(str(path)), _hash_files([path]))
    from mmpu.engines.hf import HF
    from mmpu.loading import StudentConfig, resolve_model
    from mmpu.student import Student

    stage = _last_stage(path) if (path / "config.yaml").exists() else path
    config = StudentConfig(str(stage) if stage.exists() else target)
    trained: Values = {}
    run = _run_of(stage)
    if run is not None:
        values, index = run
        config = _as_trained(values, stage)
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


def _task(spec: str | Mapping[str, Any], allow_urls: bool = False) -> YamlTask:
    name, overrides = component(spec, "task")
    return load_task(name, allow_urls=allow_urls, **overrides)


def _local_task(
    name: str,
    data: str | Sequence[str],
    trust: bool = False,
    allow_urls: bool = False,
    others: Sequence[str] = (),
) -> YamlTask:
    """A task by its name, with what `--data` says of it, which may name `others` too."""
    given = [data] if isinstance(data, str) else data
    return load_local(name, given, trust=trust, allow_urls=allow_urls, others=others)


def _asked(spec: str | Mapping[str, Any], task: YamlTask, where: str) -> tuple[Engine, str]:
    """An engine to keep the answers of, and what they depend on besides its identity: a run's or model's weights."""
    name, values = component(spec, where) if isinstance(spec, str) or "name" in spec else ("", {})
    if name != "hf":
        return _engine(spec, task, where), ""
    if set(values) != {"model"}:
        raise UserError(
            f"{where} hf: takes one key, `model`, a run, a stage or a model; got {', '.join(values) or 'none'}"
        )
    contender = _contender(name, str(values["model"]))
    return contender.engine, contender.weights
