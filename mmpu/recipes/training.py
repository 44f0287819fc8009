"""Training, top to bottom: read a config, wire what its stages share, see that they fit, train one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape

from mmpu.config import Values, to_values
from mmpu.core import Engine, Sample, UserError
from mmpu.engines.hf import HF, refuse_unsampled
from mmpu.learning import Method
from mmpu.media import thumbnail
from mmpu.recipes import changes, fit, run_config, trackers, wiring
from mmpu.recipes.claim import claim
from mmpu.recipes.fit import Planned
from mmpu.recipes.resolved import resolved
from mmpu.recipes.run_config import RunConfig
from mmpu.recipes.wiring import Wired
from mmpu.store import Ledger, locked, write_atomically
from mmpu.student import WANTED, Student, free_memory, load_student, remarks, shortage
from mmpu.train import loop, sharding
from mmpu.train.checkpoint import WRITE_ERRORS
from mmpu.train.fitting import Fitting
from mmpu.train.record import Record
from mmpu.train.rehearsal import Listening, Rehearsal
from mmpu.train.rollout import Rollout
from mmpu.train.shadow import Shadow
from mmpu.train.signals import Signals
from mmpu.train.stage import Stage, keeps_reference, seed_of


def train(config: str, assignments: Sequence[str] = (), restart_from: str | None = None) -> Path:
    """Trains all stages of a config; finished ones are skipped, an interrupted one resumes.

    Args:
        restart_from: A stage that is trained anew with those after it; what was there is set aside.

    Returns:
        The run's folder.
    """
    return train_run(run_config.load(config, assignments), restart_from)


def train_run(run: RunConfig, restart_from: str | None = None) -> Path:
    """The same for a config that is already read."""
    trackers.check(run.trackers)
    accelerator = Accelerator(
        cpu=run.student.device == "cpu", log_with=list(run.trackers) or None, project_dir=str(run.folder)
    )
    sharding.admit(accelerator, run.student, run.rollout.name)
    set_seed(run.seed)
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(locked(run.folder / ".lock", f"the run {run.folder}"))
        signals = held.enter_context(Signals(accelerator.num_processes > 1).handled())
        return _train(run, accelerator, signals, restart_from)


def _train(run: RunConfig, accelerator: Accelerator, signals: Signals, restart_from: str | None) -> Path:
    """Trains in a folder that no other command trains in."""
    main = accelerator.is_main_process  # the others' counts go to it with each step
    ledger = Ledger(run.folder / ("ledger.json" if main else ".ledger.json"), at_once=main)
    wired = wiring.wired(run.task, run.allow_urls, run.teacher, run.store_file, ledger)
    plan = fit.plan(run, wired)
    if accelerator.is_main_process:
        record = Record(run.folder, accelerator, ledger, wired.task)
        claim(run, plan, restart_from, record.say)
    accelerator.wait_for_everyone()
    if run.trackers:
        values = changes.flat(resolved(run, [stage.sampling for stage in plan]))
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in values}
        accelerator.init_trackers("mmpu", plain)
    _Training(run, wired, accelerator, signals).stages(plan)
    if run.trackers:
        accelerator.end_training()
    return run.folder


def check_run(run: RunConfig) -> None:
    """Raises what `train` would refuse before it begins.

    Raises:
        UserError: a mistake in the config, or parts that do not fit.
    """
    ledger = Ledger(run.folder / "ledger.json")
    fit.plan(run, wiring.wired(run.task, run.allow_urls, run.teacher, run.store_file, ledger))


@dataclass(frozen=True)
class _Training:
    """What lives as long as a run."""

    run: RunConfig
    wired: Wired
    accelerator: Accelerator
    signals: Signals

    def stages(self, plan: Sequence[Planned]) -> None:
        """Trains what is not finished. Student and sampler live on from stage to stage, so that they share what is slow
        to start."""
        run, main = self.run, self.accelerator.is_main_process
        student: Student | None = None
        sampler: Engine | None = None
        samples: dict[str, list[Sample]] = {}
        with contextlib.ExitStack() as held:
            if main:
                held.callback(self.wired.ledger.save)  # what a run that stops within a step has asked
            for index, stage in enumerate(plan):
                place = run.folder / f"{index}-{stage.config.name}"
                if (place / "student.json").exists():
                    if main:
                        _sweep(place)  # a run that was killed right after it
                    continue
                if student is None or sampler is None:
                    student = _student_at(run, run.folder, index)
                    samples = self.rehearsed(plan[index:], index, student)
                    sampler = wiring.sampler(run.rollout, self.wired.task, student, run.folder / ".rollout")
                    held.callback(sampler.close)
                self.train(stage, student, sampler, place, samples[stage.config.name])
                if main:
                    _finish(run, place, student)
                if index + 1 < len(plan):
                    self.signals.go()
                if run.student.lora is not None and run.student.lora.init != "default":
                    # A part of the base was in the adapter; the next stage starts from the weights as they are saved.
                    sampler.close()
                    student = sampler = None
                self.accelerator.wait_for_everyone()

    def rehearsed(self, plan: Sequence[Planned], first: int, student: Student) -> dict[str, list[Sample]]:
        """The samples of each stage that is still to be trained, all of them encoded before the first begins. A run
        that does not begin leaves its folder to one with other settings."""
        try:
            return self._rehearsed(plan, first, student)
        except UserError:
            if self.accelerator.is_main_process and not (self.run.folder / "metrics.jsonl").exists():
                (self.run.folder / "config.yaml").unlink(missing_ok=True)
            raise

    def _rehearsed(self, plan: Sequence[Planned], first: int, student: Student) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = {}
        record = Record(self.run.folder, self.accelerator, self.wired.ledger, self.wired.task)
        unsaved = Ledger(self.run.folder / ".rehearsal.json")
        for index, stage in enumerate(plan, first):
            config, listening = stage.config, Listening()
            wired = dataclasses.replace(self.wired, frozen=listening, live=listening, ledger=unsaved)
            own = [] if config.scorer is None else wiring.asking_the_student(config.scorer)
            needs = stage.method.needs | (wiring.scorer(config.scorer, wired).needs if config.scorer else frozenset())
            if "responses" in needs and self.run.rollout.name == "hf":
                refuse_unsampled(student)
            rehearsal = Rehearsal(
                config,
                student,
                Fitting(student, student, stage.method, stage.sampling.max_tokens),
                self.wired.teacher,
                [wiring.scorer(spec, wired) for spec in own],
                listening,
                needs,
                lambda text: record.say(escape(text)),
                self.run.rollout.values.get("max_length"),
            )
            place, task = self.run.folder / f"{index}-{config.name}", self.wired.task
            found[config.name] = rehearsal(task.samples(config.split), place, self.accelerator.is_main_process)
            for why, example in task.examples.get(config.split, {}).items():
                count = task.dropped[config.split][why]
                record.say(escape(f"stage {config.name!r}: {count} rows left out by `{why}`, the first {example}"))
        return found

    def train(self, stage: Planned, student: Student, sampler: Engine, place: Path, samples: Sequence[Sample]) -> None:
        """Trains one stage to its end, in the folder `place`."""
        config, method, task, ledger = stage.config, stage.method, self.wired.task, self.wired.ledger
        place.mkdir(parents=True, exist_ok=True)
        drawn = seed_of(self.run.seed, config.name, "adapter")
        student.start_stage(keeps_reference(config, method), "value" in method.needs, drawn)
        shadow = _shadow(self.run, method, student)
        scorer = None
        if config.scorer is not None:
            wired = dataclasses.replace(self.wired, frozen=HF(student, "frozen"), live=HF(student))
            scorer = wiring.scorer(config.scorer, wired)
        reader = shadow.other if shadow is not None and shadow.other is not None else student
        rollout = Rollout(
            method,
            scorer,
            sampler,
            self.wired.teacher,
            config.k,
            stage.sampling,
            ledger,
            shadow,
            self.run.teacher_sampling,
            config.low_anchor,
            Fitting(student, reader, method, stage.sampling.max_tokens),
        )
        kept = thumbnail if task.config.redistribute else None  # a licence may forbid to keep pictures
        record = Record(place.parent, self.accelerator, ledger, task, self.signals, kept)
        begun = Stage(config, place, samples, task, rollout, student, self.accelerator, self.run.seed)
        record.say(begun.described)
        short = shortage(student, config.optim.tokens_per_pass, free_memory(student.device))
        for remark in (*remarks(self.run.student, student.device), *([short] if short else [])):
            record.warn(remark)
        if student.reach is not None:
            (record.warn if student.reach.share < WANTED else record.say)(f"stage {config.name}: {student.reach}")
        loop.run(begun, record)


def _student_at(run: RunConfig, folder: Path, index: int) -> Student:
    """The student before stage `index`."""
    if index == 0:
        return load_student(run.student)
    before = folder / f"{index - 1}-{run.stages[index - 1].name}"
    student = load_student(dataclasses.replace(run.student, model=str(before)))
    student.config = run.student
    return student


def _shadow(run: RunConfig, method: Method, student: Student) -> Shadow | None:
    if method.shadow is None:
        return None
    other = None
    if method.shadow.kind == "external":
        other = load_student(dataclasses.replace(run.student, model=method.shadow.model, lora=None))
        other.requires_grad_(False)
    return Shadow(method.shadow, student, other)


def _finish(run: RunConfig, place: Path, student: Student) -> None:
    """Saves a stage's weights; `student.json`, written last, says that they are complete."""
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
    entry: Values = {"base": base, "adapters": adapters} if lora else {"base": "model", "adapters": []}
    if lora:
        for name in names[: names.index(place.name)]:  # so that the folder can be moved alone
            shutil.copytree(place.parent / name / "adapter", place / "before" / name, dirs_exist_ok=True)
        if Path(base).is_absolute():
            entry["base_from_here"] = os.path.relpath(base, place.resolve())
    entry["student"] = to_values(run.student)
    write_atomically(place / "student.json", json.dumps(entry, indent=2) + "\n")
    _sweep(place)


def _sweep(place: Path) -> None:
    """Removes the checkpoints of a finished stage."""
    for old in (*place.glob("step-*"), *place.glob(".step-*.tmp")):
        shutil.rmtree(old, ignore_errors=True)
