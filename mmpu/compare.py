"""Several methods from one stage I, on the same prompts, decoding and anchors, over several seeds, in one table.

    FOLDER/store.sqlite                       the teacher's answers: one call per prompt for all runs together
    FOLDER/seed-0/start/                      all stages of the config but the last
    FOLDER/seed-0/<preset>/                   the last stage, its method, scorer and K replaced by the preset's
    FOLDER/seed-0/<preset>/eval.<judge>.json  its answers to the test prompts, graded and compared with the start's
    FOLDER/comparison.json, comparison.md     the table

The same command resumes: what is trained or evaluated is not done again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmpu import plugins, presets, recipe
from mmpu.config import Values, build, load_yaml, override, to_values
from mmpu.core import Duel, Failed, Judge, Sample, Sampling, UserError
from mmpu.statistics import Interval, bootstrap
from mmpu.store import write_atomically
from mmpu.task import YamlTask, load_task

START = "start"
STAGE = "stage2"
"""The name of every method's stage: prompts and seeds of a stage hang on its name."""
SECONDS = ("seconds_generate", "seconds_score", "seconds_update")
COUNTS = ("student_tokens_generated", "teacher_tokens_generated", "local_eval_calls", "external_judge_calls")


@dataclass(frozen=True)
class Options:
    """What `mmpu compare` was asked for."""

    config: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    judge: str = "rule"
    judge_url: str | None = None
    split: str = "test"
    limit: int | None = None
    overrides: tuple[str, ...] = ()
    """`key=value` for the config, `preset.key=value` for one method's stage."""


@dataclass(frozen=True)
class Result:
    """One system of one seed on the test prompts, in their order."""

    grades: list[float | None]
    wins: list[float | None]
    """Against the start; None where the judge's verdicts could not be read."""
    words: float
    truncated: int


@dataclass(frozen=True)
class Line:
    """A row of the table. Intervals are over prompts, after averaging over seeds."""

    name: str
    accuracy: Interval | None
    gain: Interval | None
    """Accuracy minus the start's, prompt by prompt."""
    win_rate: Interval | None
    seed_std: float | None
    """Sample standard deviation of the accuracy (of the win rate where nothing is graded) over seeds."""
    words: float
    truncated: int
    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    folder: Path
    lines: tuple[Line, ...]
    teacher_calls: int
    """Over all runs."""
    prompts: int
    seeds: tuple[int, ...]


def compare(options: Options, say: Callable[[str], None]) -> Comparison:
    """Trains, evaluates and tabulates.

    Raises:
        UserError: a method does not fit, before anything is trained.
    """
    if not options.methods or not options.seeds or len(set(options.methods)) < len(options.methods):
        raise UserError("compare needs at least one method and one seed, and each method once")
    values = _base(options)
    folder = Path(str(values["run"])).expanduser()
    plans = {
        seed: {name: _plan(options, values, folder, seed, name) for name in options.methods} for seed in options.seeds
    }
    for name, plan in plans[options.seeds[0]].items():
        try:
            recipe.check_run(recipe.run_config({**plan, "student": values["student"]}, f"preset {name}"))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    results: dict[str, list[Result]] = {name: [] for name in (START, *options.methods)}
    for seed, runs in plans.items():
        say(f"seed {seed}: {START}")
        begin = recipe.train_run(recipe.run_config(_begin(values, folder, seed), options.config))
        for name, plan in runs.items():
            say(f"seed {seed}: {name}")
            recipe.train_run(recipe.run_config(plan, f"preset {name}"))
        for name in (START, *options.methods):
            results[name].append(_evaluated(options, values, begin.parent, name))
    comparison = _table(folder, options, results)
    write_atomically(folder / "comparison.json", json.dumps(to_values(comparison), indent=2, default=str) + "\n")
    write_atomically(folder / "comparison.md", markdown(comparison))
    return comparison


def _base(options: Options) -> Values:
    """The config's values, with the overrides that are not for one method."""
    path = plugins.find_data("configs", options.config)
    values = load_yaml(path)
    stages = values.get("stages")
    if not isinstance(stages, list) or len(cast(list[object], stages)) < 2:
        raise UserError(
            f"{path}: compare needs a stage I and a last stage whose method it replaces, at least two stages"
        )
    values["stages"] = [presets.expand(stage) for stage in cast(list[Values], stages)]
    return override(values, [a for a in options.overrides if a.split(".")[0] not in options.methods])


def _begin(values: Values, folder: Path, seed: int) -> Values:
    return {**_shared(values, folder, seed, START), "stages": values["stages"][:-1]}


def _plan(options: Options, values: Values, folder: Path, seed: int, name: str) -> Values:
    """The run of one method. The config's last stage says prompts, decoding, steps and optimiser; the preset says
    method, scorer, candidates and updates per rollout."""
    preset = presets.load(name)
    begin = _begin(values, folder, seed)
    student = values["student"] if isinstance(values["student"], dict) else {"model": values["student"]}
    last: Values = {k: v for k, v in values["stages"][-1].items() if k not in ("method", "scorer")}
    stage = {**last, "name": STAGE, "method": preset.method}
    if preset.scorer is not None:
        stage["scorer"] = preset.scorer
    if "k" in preset.stage and preset.stage["k"] == 1:
        stage["k"] = 1
    if "updates" in preset.stage.get("optim", {}):
        stage["optim"] = {**last.get("optim", {}), "updates": preset.stage["optim"]["updates"]}
    stage = override(stage, [a.partition(".")[2] for a in options.overrides if a.split(".")[0] == name])
    start = Path(str(begin["run"])) / f"{len(begin['stages']) - 1}-{begin['stages'][-1]['name']}"
    shared = _shared(values, folder, seed, name)
    return {**shared, "student": {**cast(Values, student), "model": str(start)}, "stages": [stage]}


def _shared(values: Values, folder: Path, seed: int, name: str) -> Values:
    return {**values, "run": str(folder / f"seed-{seed}" / name), "seed": seed, "store": str(folder / "store.sqlite")}


# ------------------------------------------------------------------------------------------------------------------
# evaluation


def _evaluated(options: Options, values: Values, seed_folder: Path, name: str) -> Result:
    """The system's result, from its file if it is there."""
    run = seed_folder / name
    split = f"{options.split}[:{options.limit}]" if options.limit else options.split
    path = run / f"eval.{Path(options.judge).stem}.{options.split}.{options.limit or 'all'}.json"
    if path.exists():
        return build(Result, json.loads(path.read_text()), str(path))
    task = _task(values)
    samples = task.samples(split)
    judge = recipe.load_judge(options.judge, task, options.judge_url)
    ours, truncated = _answers(run, samples, task.config.sampling)
    theirs = ours if name == START else [row["output"] for row in _read(seed_folder / START / "answers.jsonl")]
    result = Result(
        [task.grade(sample, text) for sample, text in zip(samples, ours, strict=True)],
        _wins(judge, samples, ours, theirs),
        sum(len(text.split()) for text in ours) / len(ours),
        truncated,
    )
    write_atomically(path, json.dumps(to_values(result)) + "\n")
    return result


def _answers(run: Path, samples: Sequence[Sample], sampling: Sampling) -> tuple[list[str], int]:
    """One answer per prompt, also written to the run's folder, and how many the length limit cut."""
    from mmpu.engines.hf import HF

    found = HF(recipe.trained_student(run)).generate(samples, 1, sampling)
    failed = [f.reason for f in found if isinstance(f, Failed)]
    if failed:
        raise UserError(f"{run}: {len(failed)} prompts could not be answered; first: {failed[0]}")
    responses = [f[0] for f in found if isinstance(f, tuple)]
    rows = [{"id": s.id, "output": r.text} for s, r in zip(samples, responses, strict=True)]
    write_atomically(run / "answers.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [r.text for r in responses], sum(not r.finished for r in responses)


def _wins(judge: Judge, samples: Sequence[Sample], ours: Sequence[str], theirs: Sequence[str]) -> list[float | None]:
    duels = [Duel(s, a, b) for s, a, b in zip(samples, ours, theirs, strict=True)]
    wins: list[float | None] = []
    for orders in judge.compare(duels):
        read = [v.win for v in orders if v.win is not None]
        wins.append(sum(read) / len(read) if read else None)
    return wins


def _task(values: Values) -> YamlTask:
    spec = values["task"]
    if isinstance(spec, str):
        return load_task(spec)
    named = dict(cast(Values, spec))
    return load_task(str(named.pop("name")), **named)


# ------------------------------------------------------------------------------------------------------------------
# the table


def _table(folder: Path, options: Options, results: Mapping[str, Sequence[Result]]) -> Comparison:
    start = _over_seeds([r.grades for r in results[START]])
    lines = [_line(folder, options, name, found, start) for name, found in results.items()]
    ledgers = [_ledger(folder / f"seed-{seed}" / name) for seed in options.seeds for name in results]
    calls = sum(ledger.get("teacher_calls", 0) for ledger in ledgers)
    return Comparison(folder, tuple(lines), calls, len(results[START][0].grades), options.seeds)


def _line(folder: Path, options: Options, name: str, found: Sequence[Result], start: Sequence[float]) -> Line:
    grades, wins = _over_seeds([r.grades for r in found]), _over_seeds([r.wins for r in found])
    runs = [folder / f"seed-{seed}" / name for seed in options.seeds]
    metrics = [row for run in runs for row in _read(run / "metrics.jsonl")]
    ledgers = [_ledger(run) for run in runs]
    by_seed = [_mean(r.grades if any(g is not None for g in r.grades) else r.wins) for r in found]
    return Line(
        name,
        _interval(grades),
        None if name == START else _interval([ours - base for ours, base in zip(grades, start, strict=True)]),
        None if name == START else _interval(wins),
        float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        sum(r.words for r in found) / len(found),
        sum(r.truncated for r in found),
        sum(row.get(key, 0.0) for row in metrics for key in SECONDS),
        {key: sum(ledger.get(key, 0) for ledger in ledgers) for key in COUNTS},
    )


def _over_seeds(columns: Sequence[Sequence[float | None]]) -> list[float]:
    """Mean of each prompt over seeds; NaN where no seed has a value."""
    return [_mean(values) for values in zip(*columns, strict=True)]


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else math.nan


def _interval(values: Sequence[float]) -> Interval | None:
    known = [v for v in values if not math.isnan(v)]
    return bootstrap(known) if known else None


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _ledger(run: Path) -> dict[str, int]:
    path = run / "ledger.json"
    return json.loads(path.read_text()) if path.exists() else {}


HEADER = (
    "method",
    "accuracy",
    "gain over start",
    "win rate",
    "std of seeds",
    "words",
    "cut",
    "seconds",
    "tokens sampled",
)


def cells(line: Line) -> tuple[str, ...]:
    """A row as text, with 95% intervals."""

    def interval(value: Interval | None, sign: str = "") -> str:
        return "" if value is None else f"{value.value:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"

    return (
        line.name,
        interval(line.accuracy),
        interval(line.gain, "+"),
        interval(line.win_rate),
        "" if line.seed_std is None else f"{line.seed_std:.3f}",
        f"{line.words:.1f}",
        str(line.truncated),
        f"{line.seconds:.0f}",
        str(line.counts["student_tokens_generated"] + line.counts["teacher_tokens_generated"]),
    )


def markdown(comparison: Comparison) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *(cells(line) for line in comparison.lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{note(comparison)}\n"


def note(comparison: Comparison) -> str:
    return (
        f"{comparison.prompts} prompts, seeds {', '.join(map(str, comparison.seeds))}; 95% bootstrap intervals over "
        "prompts, seeds averaged; gains and wins are paired by prompt. Seconds are those of training, all seeds "
        f"together. Teacher calls of all runs together: {comparison.teacher_calls}."
    )
