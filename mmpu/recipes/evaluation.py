"""How an evaluation, an audit, an export of verdicts is put together: configs become objects here, as in `recipe`."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpu.config import replaced
from mmpu.core import Failed, Sample, Sampling, UserError
from mmpu.duel import Judge
from mmpu.files import file_name
from mmpu.recipes.contenders import Contenders, student_of
from mmpu.recipes.judges import read_judge
from mmpu.recipes.presumed import presumed
from mmpu.recipes.runs import contender, is_recorded, named, task_of
from mmpu.specs import Named
from mmpu.store import write_atomically
from mmpu.task import YamlTask, border, load_local, load_task

if TYPE_CHECKING:
    from mmpu.boards import Audit, Board
    from mmpu.evaluation import Contender, Prepared, Settings, Told
    from mmpu.judging import Estimate, Prices, Progress


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
    """`NAME`, `PATH` or `label=PATH` of runs, stages, models or answer files (.jsonl, .json); `label=openai:MODEL@URL`,
    `label=vllm:PATH`, `label=engine.yaml`."""
    task: str | None = None
    """None takes the one that the runs among the systems were trained on."""
    judge: str | None = None
    """None takes the task's, as for `baseline`, `split` and `attempts`."""
    baseline: str | None = None
    split: str | None = None
    limit: int | None = None
    judge_url: str | None = None
    data: str | Sequence[str] = ()
    """`PATH`, or `NAME=PATH` of tasks and data sets."""
    trust: bool = False
    """Whether a task given by its path is trusted, and the Python of a run's model."""
    allow_urls: bool = False
    folder: str = "leaderboards"
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    attempts: int | None = None
    """Answers per prompt."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-eval to run beside."""
    engine: str = "hf"
    """Of runs, stages and models: `hf`, `vllm`, or a YAML file with its keys."""
    judging: JudgingOptions = field(default_factory=JudgingOptions)


@dataclass(frozen=True)
class _Asked:
    """What systems are asked, before anything else is settled."""

    task: YamlTask
    judge: str
    split: str
    sampling: Sampling
    targets: Mapping[str, str]
    """By label."""
    baseline: str
    """A label."""


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
    told: Told | None = None,
) -> Board:
    """Runs an evaluation and returns the published board.

    Args:
        progress: Called whenever verdicts arrive.
        announce: Called before the first call with what is to be paid.
        told: Called whenever answers arrive.
    """
    from mmpu.evaluation import publish

    one = _prepare(options, told)
    estimate = _estimate(one, options)
    announce(estimate)
    limits = one.settings.limits
    if options.judging.max_cost is not None:
        calls = estimate.affordable(options.judging.max_cost)
        calls = calls if limits.max_calls is None else min(calls, limits.max_calls)
        limits = dataclasses.replace(limits, max_calls=calls)
    settings = dataclasses.replace(one.settings, limits=limits)
    return publish(one.prepared, one.task, one.judge, Path(options.folder), settings, progress)


def estimate(options: EvalOptions) -> Estimate:
    """What an evaluation would ask of the judge. Nobody is asked: what is not on the disk is counted at its longest."""
    with tempfile.TemporaryDirectory() as nowhere:
        aside = dataclasses.replace(options, lm_eval=(), folder=nowhere)
        return _estimate(_prepare(aside, pretended=Path(options.folder)), options)


def answering(options: EvalOptions) -> list[str]:
    """What endpoints and other engines are still to be asked, and what it costs, in words. Nobody is asked."""
    asked = _asked(options)
    made = Contenders(asked.task, Path(options.folder), trust=options.trust, asks=False)
    samples, attempts = asked.task.samples(asked.split), options.attempts or asked.task.config.attempts
    return [
        line
        for label, target in asked.targets.items()
        if made.elsewhere(target)
        for line in made.price(label, target, samples, attempts, asked.sampling)
    ]


def _asked(options: EvalOptions) -> _Asked:
    task = _task(options)
    judge, baseline = _default("judge", options.judge, task), _default("baseline", options.baseline, task)
    split = options.split or task.config.evaluate
    split = f"{split}[:{options.limit}]" if options.limit else split
    task.ready(split)
    targets: dict[str, str] = {}
    for text in (*options.systems, baseline):
        label, target = named(text)
        if targets.setdefault(label, target) != target and "=" in text:  # a bare label may name one given before
            raise UserError(f"two systems are labelled {label!r}: {targets[label]} and {target}; choose another label")
    sampling = replaced(task.config.sampling, options.sampling, "sampling")
    return _Asked(task, judge, split, sampling, targets, named(baseline)[0])


def _prepare(options: EvalOptions, told: Told | None = None, pretended: Path | None = None) -> _Evaluation:
    """Args:
    pretended: The folder of earlier answers, which stand for those that models would give.
    """
    from mmpu.evaluation import evaluate as evaluation
    from mmpu.evaluation import place_of, untold
    from mmpu.judging import Limits, read_calibration

    one, judging, folder = _asked(options), options.judging, Path(options.folder)
    task, split = one.task, one.split
    read = read_judge(one.judge)
    judge = read.make(task, options.judge_url, judging.concurrency)
    made = Contenders(task, folder, options.engine, options.trust)
    place = None if pretended is None else place_of(pretended, task.name, split)
    contenders = [
        made(label, target) if place is None or is_recorded(target) else presumed(label, target, place)
        for label, target in one.targets.items()
    ]
    max_missing = evaluation.Settings.max_missing if judging.max_missing is None else judging.max_missing
    _check_reads(contenders, task.samples(split), max_missing)
    settings = evaluation.Settings(
        equalise=task.config.equalise if judging.equalise is None else judging.equalise,
        probes=judging.probes,
        calibration=read_calibration(Path(judging.calibration)) if judging.calibration else None,
        limits=Limits(judging.max_calls, judging.rejudge),
        attempts=options.attempts or task.config.attempts,
        max_unread=evaluation.Settings.max_unread if judging.max_unread is None else judging.max_unread,
        max_missing=max_missing,
        lm_eval=_lm_eval(contenders, options.lm_eval, options.limit, options.data) if options.lm_eval else {},
    )
    prepared = evaluation.prepare(
        contenders, one.baseline, task, judge, split, one.sampling, folder, settings, told or untold
    )
    return _Evaluation(task, judge, read.prices, settings, prepared)


def _task(options: EvalOptions) -> YamlTask:
    """The task that was asked for, or the one that the runs were trained on.

    Raises:
        UserError: nothing says which, or a run's config changes more of a task than whoever trusts it has read.
    """
    name, data = options.task, options.data
    if name is None:
        known = trained_on(options.systems, options.baseline)
        if known is None:
            raise UserError("there is no run among the systems that would say on which task; choose one with --task")
        if not known.values or data:
            name = known.name
        elif options.trust:
            return load_task(known.name, trust=True, allow_urls=options.allow_urls, **known.values)
        else:
            keys = ", ".join(known.values)
            raise UserError(
                f"{known.where} sets {keys} of the task {known.name}; read it, and allow it with --trust, or choose "
                "the task with --task and its files with --data"
            )
    return load_local(name, data, trust=options.trust, allow_urls=options.allow_urls, others=options.lm_eval)


def trained_on(systems: Sequence[str], baseline: str | None = None) -> Named | None:
    """The task that the runs among systems were trained on; None where there is no run.

    Raises:
        UserError: they were trained on several.
    """
    return task_of([named(text)[1] for text in (*systems, *([baseline] if baseline else []))])


def _check_reads(contenders: Sequence[Contender], samples: Sequence[Sample], max_missing: float) -> None:
    """Encodes all prompts for all models before any answers. What a model cannot read counts as unanswered.

    Raises:
        UserError: that is more than the share `max_missing` of the prompts; names every such model.
    """
    found_models = ((c.name, student_of(c.engine)) for c in contenders)  # others need no torch
    models: list[tuple[str, Any]] = [(name, student) for name, student in found_models if student is not None]
    if not models:
        return
    from mmpu.student import misfit, summary

    refused: list[str] = []
    for name, student in models:
        found = [each for sample in samples if (each := misfit(student, sample)) is not None]
        if len(found) > max_missing * len(samples):
            refused.append(f"{name}: {summary(found, len(samples))}")
    if refused:
        raise UserError(
            "\n".join(refused) + f"\nThat is more than {max_missing:.0%} of the prompts (--max-missing); take a model "
            "that reads them, another split, or shorten the task's prompts"
        )


def _estimate(one: _Evaluation, options: EvalOptions) -> Estimate:
    from mmpu.evaluation import STORE, asked
    from mmpu.judging import Verdicts, estimate, missing

    everything = asked(one.judge, one.prepared)
    path = Path(options.folder) / STORE
    pending = missing(everything, Verdicts(path), options.judging.rejudge) if path.exists() else everything
    systems = [p.match for p in one.prepared if p.match.system != p.match.baseline]
    n = min(len(match.items) for match in systems or [p.match for p in one.prepared])
    return estimate(one.judge, pending, len(everything) - len(pending), n, one.prices)


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
    from mmpu.evaluation import STORE
    from mmpu.judging import Verdicts, audit_with_traps

    task = load_local(task_name, data, trust=trust)
    judge = read_judge(judge_name).make(task, url)
    engine = Contenders(task, folder, trust=trust)("baseline", baseline).engine if baseline else Reference()
    samples = task.samples(f"{split}[:{limit}]")
    answers = engine.generate(samples, 1, task.config.sampling)
    engine.close()
    known = [(s, a[0].text) for s, a in zip(samples, answers, strict=True) if not isinstance(a, Failed)]
    if not known:
        hint = "give --baseline a file of answers" if baseline is None else "look at the baseline's answers"
        raise UserError(f"there is no answer to compare with on {split}[:{limit}] of {task_name}; {hint}")
    return audit_with_traps(judge, known, Verdicts(folder / STORE), progress)


def lm_eval(
    systems: Sequence[str],
    tasks: Sequence[str],
    limit: int | None,
    folder: Path,
    data: str | Sequence[str] = (),
    trust: bool = False,
) -> list[Path]:
    """Runs lm-eval's tasks alone; returns the files with its reports, one per system."""
    reports = _lm_eval([contender(*named(text), trust=trust) for text in systems], tasks, limit, data)
    if not reports:
        raise UserError("lm-eval runs models, and these are recorded answers; name a run, a stage or a model")
    paths = {folder / f"{file_name(name)}.lm_eval.json": report for name, report in reports.items()}
    for path, report in paths.items():
        write_atomically(path, json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return list(paths)


def _lm_eval(
    contenders: Sequence[Contender], tasks: Sequence[str], limit: int | None, data: str | Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What lm-eval reports of the contenders that are models.

    Raises:
        UserError: the weights of one of them are not held in this process.
    """
    from mmpu.engines.hf import HF
    from mmpu.evaluation import lm_eval as harness

    for c in contenders:
        if not isinstance(c.engine, HF) and student_of(c.engine) is not None:
            raise UserError(f"{c.name}: lm-eval asks models in this process; leave out vllm, or --lm-eval")
    models = {c.name: c.engine.student for c in contenders if isinstance(c.engine, HF)}
    given = (item.partition("=") for item in ([data] if isinstance(data, str) else data))
    places = {name: folder for name, equals, folder in given if equals}
    return {name: harness.run(student, tasks, limit, data=places) for name, student in models.items()}


def export_alpaca_eval(
    store: Path, target: Path, task_name: str, data: str | Sequence[str] = (), trust: bool = False
) -> list[tuple[Path, int]]:
    """Writes AlpacaEval's files for every match of a task in a store, from the answers beside the store.

    Returns:
        Each match's folder, and how many of its duels could not be read.
    """
    from mmpu.evaluation import answers_of, place_of
    from mmpu.judging import Verdicts, match_of, write_annotations

    task = load_local(task_name, data, trust=trust)
    verdicts = Verdicts(store)
    matches = [match for values in verdicts.matches() if (match := match_of(values)).task == task.name]
    if not matches:
        raise UserError(f"{store} has no match on the task {task.name}")
    written: list[tuple[Path, int]] = []
    for match in (m for m in matches if m.system != m.baseline):
        samples = {sample.id: sample for sample in task.samples(match.split)}
        ours, theirs = (
            answers_of(s, place_of(store.parent, task.name, match.split)) for s in (match.system, match.baseline)
        )
        folder = target / f"{file_name(match.system.name)}.{file_name(match.baseline.name)}.{file_name(match.judge)}"
        unread = write_annotations(match, verdicts.get(match.keys), samples, ours, theirs, folder)
        written.append((folder, unread))
    return written


def _default(key: str, given: str | None, task: YamlTask) -> str:
    """What was asked for, or what the task names; one given by its path names what it may (docs/security.md)."""
    chosen = given or getattr(task.config, key)
    if not chosen:
        raise UserError(f"task {task.name} names no {key}; choose one with --{key}")
    if given or task.trusted:
        return str(chosen)
    if key == "judge":
        return border.check_judge(str(chosen), str(task.path))
    label, equals, name = str(chosen).rpartition("=")
    return f"{label}{equals}{border.check_baseline(name, task.path.parent, str(task.path))}"
