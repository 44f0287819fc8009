"""Several methods from one stage I, on the same prompts, decoding and anchors, over several seeds, in one table.

    FOLDER/store.sqlite                       the teacher's answers: one call per prompt for all runs together
    FOLDER/seed-0/start/                      all stages of the config but the last
    FOLDER/seed-0/<preset>/                   the last stage, its method, scorer and K replaced by the preset's
    FOLDER/seed-0/<preset>/answers.*.jsonl    its answers to the test prompts
    FOLDER/seed-0/<preset>/eval.*.json        the same graded and compared with the start's
    FOLDER/verdicts.sqlite                    what the judge said, as `mmpu eval` keeps it
    FOLDER/comparison.json, comparison.md     the table

The same command resumes: what is trained, answered or read is not done again; verdicts that could not be read are asked
for again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mmpu import files
from mmpu.config import Values, build, override, to_values
from mmpu.core import Failed, Response, Sample, Sampling, UserError
from mmpu.duel import Duel
from mmpu.engines.replay import Replay
from mmpu.evaluation import STORE, by_sample
from mmpu.judging import Verdicts, wins_over
from mmpu.recipes import presets, run_config
from mmpu.recipes import training as recipe
from mmpu.recipes.collecting import recorded
from mmpu.recipes.judges import read_judge
from mmpu.recipes.runs import trained_student
from mmpu.specs import Named
from mmpu.store import write_atomically
from mmpu.studies.comparison import START, Comparison, Result, markdown, stored, tabulate
from mmpu.task import load_task
from mmpu.thinking import thinks_on

STAGE = "stage2"
"""The name of every method's stage: prompts and seeds of a stage hang on its name."""


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
    attempts: int | None = None
    """Answers per prompt; the first is judged, all are graded. None takes the task's."""
    overrides: tuple[str, ...] = ()
    """`key=value` for the config, `preset.key=value` for one method's stage."""


def compare(options: Options, say: Callable[[str], None]) -> Comparison:
    """Trains, evaluates and tabulates.

    Raises:
        UserError: a method does not fit, before anything is trained.
    """
    if not options.methods or not options.seeds or len(set(options.methods)) < len(options.methods):
        raise UserError("compare needs at least one method and one seed, and each method once")
    values = _base(options)
    folder = files.place(str(values["run"]))
    plans = {
        seed: {name: _plan(options, values, folder, seed, name) for name in options.methods} for seed in options.seeds
    }
    for name, plan in plans[options.seeds[0]].items():
        try:
            recipe.check_run(run_config.read({**plan, "student": values["student"]}, f"preset {name}"))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    results: dict[str, list[Result]] = {name: [] for name in (START, *options.methods)}
    for seed, runs in plans.items():
        say(f"seed {seed}: {START}")
        start = run_config.read(_begin(values, folder, seed), options.config)
        recipe.train_run(start)
        for name, plan in runs.items():
            say(f"seed {seed}: {name}")
            recipe.train_run(run_config.read(plan, f"preset {name}"))
        for name in (START, *options.methods):
            results[name].append(_evaluated(options, start.task, folder, start.folder.parent, name))
    runs = {name: [folder / f"seed-{seed}" / name for seed in options.seeds] for name in results}
    comparison = tabulate(folder, options.seeds, results, runs)
    write_atomically(folder / "comparison.json", json.dumps(to_values(comparison), indent=2, default=str) + "\n")
    write_atomically(folder / "comparison.md", markdown(comparison))
    return comparison


def _base(options: Options) -> Values:
    """The config's values, with the overrides that are not for one method."""
    values, path = presets.resolved(options.config, ())
    stages = values.get("stages")
    if not isinstance(stages, list) or len(cast(list[object], stages)) < 2:
        raise UserError(
            f"{path}: compare needs a stage I and a last stage whose method it replaces, at least two stages"
        )
    return override(values, [a for a in options.overrides if a.split(".")[0] not in options.methods])


def _begin(values: Values, folder: Path, seed: int) -> Values:
    return {**_shared(values, folder, seed, START), "stages": values["stages"][:-1]}


def _plan(options: Options, values: Values, folder: Path, seed: int, name: str) -> Values:
    """The run of one method. The config's last stage says prompts, decoding, steps and optimiser; the preset says
    method, scorer, candidates and updates per rollout. A method without a preset takes the last stage's scorer."""
    preset = presets.load(name)
    begin = _begin(values, folder, seed)
    student = values["student"] if isinstance(values["student"], dict) else {"model": values["student"]}
    last: Values = {k: v for k, v in values["stages"][-1].items() if k not in ("method", "scorer")}
    stage = {**last, "name": STAGE, "method": preset.method.written}
    if preset.scorer is not None:
        stage["scorer"] = preset.scorer.written
    elif name not in presets.names() and "scores" in preset.method.make({}).needs and "scorer" in values["stages"][-1]:
        stage["scorer"] = values["stages"][-1]["scorer"]
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


def _evaluated(options: Options, named: Named, folder: Path, seed_folder: Path, name: str) -> Result:
    """The system's result, from its file if it is there and whole."""
    task = load_task(named.name, **named.values)
    attempts = options.attempts or task.config.attempts
    what = ".".join(map(str, (options.split, options.limit or "all", *([attempts] if attempts > 1 else []))))
    path = seed_folder / name / f"eval.{Path(options.judge).stem}.{what}.json"
    if path.exists():
        known = build(Result, stored(path), str(path))
        if not known.unread:
            return known
    samples = task.samples(f"{options.split}[:{options.limit}]" if options.limit else options.split)
    ours, theirs = (
        _answers(seed_folder / who, f"answers.{what}.jsonl", samples, attempts, task.config.sampling)
        for who in (name, START)
    )
    first = [each[0] for each in ours]
    metrics = by_sample(task.grader, samples, ours) if attempts > 1 and task.grader is not None else {}
    judge = read_judge(options.judge).make(task, options.judge_url)
    duels = [Duel(s, a.text, b[0].text) for s, a, b in zip(samples, first, theirs, strict=True)]
    result = Result(
        [task.grade(sample, response.text) for sample, response in zip(samples, first, strict=True)],
        wins_over(judge, duels, Verdicts(folder / STORE)),
        sum(len(response.text.split()) for response in first) / len(first),
        sum(not response.finished or thinks_on(response.raw) for response in first),
        {metric: [found.get(sample.id) for sample in samples] for metric, found in metrics.items()},
    )
    write_atomically(path, json.dumps(to_values(result)) + "\n")
    return result


def _answers(
    run: Path, file: str, samples: Sequence[Sample], attempts: int, sampling: Sampling
) -> list[tuple[Response, ...]]:
    """A run's answers to each prompt, from the file in its folder if they are there."""
    path = run / file
    if not path.exists():
        from mmpu.engines.hf import HF

        made = _all(HF(trained_student(run)).generate(samples, attempts, sampling), run)
        rows = [{"id": s.id, **recorded(each)} for s, each in zip(samples, made, strict=True)]
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return _all(Replay(str(path)).generate(samples, attempts, sampling), run)


def _all(found: Sequence[tuple[Response, ...] | Failed], run: Path) -> list[tuple[Response, ...]]:
    failed = [f.reason for f in found if isinstance(f, Failed)]
    if failed:
        raise UserError(f"{run}: {len(failed)} prompts could not be answered; first: {failed[0]}")
    return [f for f in found if isinstance(f, tuple)]
