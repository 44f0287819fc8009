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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mmpu.config import Values, build, override, to_values
from mmpu.core import Failed, Sample, Sampling, UserError
from mmpu.duel import Duel, Judge
from mmpu.recipes import presets, run_config
from mmpu.recipes import training as recipe
from mmpu.recipes.judges import read_judge
from mmpu.recipes.runs import trained_student
from mmpu.specs import Named
from mmpu.store import write_atomically
from mmpu.studies.comparison import START, Comparison, Result, markdown, read_lines, tabulate
from mmpu.task import load_task
from mmpu.thinking import answer_of, thinks_on

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
    folder = Path(str(values["run"])).expanduser()
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
            results[name].append(_evaluated(options, start.task, start.folder.parent, name))
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
    method, scorer, candidates and updates per rollout."""
    preset = presets.load(name)
    begin = _begin(values, folder, seed)
    student = values["student"] if isinstance(values["student"], dict) else {"model": values["student"]}
    last: Values = {k: v for k, v in values["stages"][-1].items() if k not in ("method", "scorer")}
    stage = {**last, "name": STAGE, "method": preset.method.written}
    if preset.scorer is not None:
        stage["scorer"] = preset.scorer.written
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


def _evaluated(options: Options, named: Named, seed_folder: Path, name: str) -> Result:
    """The system's result, from its file if it is there."""
    run = seed_folder / name
    split = f"{options.split}[:{options.limit}]" if options.limit else options.split
    path = run / f"eval.{Path(options.judge).stem}.{options.split}.{options.limit or 'all'}.json"
    if path.exists():
        return build(Result, json.loads(path.read_text()), str(path))
    task = load_task(named.name, **named.values)
    samples = task.samples(split)
    judge = read_judge(options.judge).make(task, options.judge_url)
    ours, truncated = _answers(run, samples, task.config.sampling)
    start = seed_folder / START / "answers.jsonl"
    theirs = ours if name == START else [answer_of(row["output"]) for row in read_lines(start)]
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

    found = HF(trained_student(run)).generate(samples, 1, sampling)
    failed = [f.reason for f in found if isinstance(f, Failed)]
    if failed:
        raise UserError(f"{run}: {len(failed)} prompts could not be answered; first: {failed[0]}")
    responses = [f[0] for f in found if isinstance(f, tuple)]
    rows = [{"id": s.id, "output": r.raw} for s, r in zip(samples, responses, strict=True)]
    write_atomically(run / "answers.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [r.text for r in responses], sum(not r.finished or thinks_on(r.raw) for r in responses)


def _wins(judge: Judge, samples: Sequence[Sample], ours: Sequence[str], theirs: Sequence[str]) -> list[float | None]:
    duels = [Duel(s, a, b) for s, a, b in zip(samples, ours, theirs, strict=True)]
    wins: list[float | None] = []
    for orders in judge.compare(duels):
        read = [v.win for v in orders if v.win is not None]
        wins.append(sum(read) / len(read) if read else None)
    return wins
