"""Evaluation, top to bottom: every system answers the same prompts, a judge compares it with the baseline,
statistics, a board.

Sample ─Engine→ Response ─Judge→ Verdict ─statistics→ Entry

Verdicts are kept in `verdicts.sqlite` beside the boards; what is there is not asked for again.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from mmpu.core import Duel, Engine, Failed, Judge, Response, Sample, Sampling, UserError, digest
from mmpu.judging.audit import adversarial
from mmpu.judging.compare import comparisons
from mmpu.judging.glm import Calibration
from mmpu.judging.match import Item, Match, Probe, asked_of, counts_of, equal_duel, equalised, item_of
from mmpu.judging.measure import MAX_UNREAD, measure_all
from mmpu.judging.run import Limits, Progress, Question, ask, questions
from mmpu.judging.verdicts import Verdicts
from mmpu.leaderboard import Board, Provenance, System, merge, read, write
from mmpu.media import fingerprint, prompt_key
from mmpu.metrics import over_attempts
from mmpu.prompts import prompt_hash
from mmpu.statistics import Interval
from mmpu.store import write_atomically
from mmpu.task import YamlTask

T = TypeVar("T")
STORE = "verdicts.sqlite"


@dataclass(frozen=True)
class Contender:
    """A system before it has answered."""

    name: str
    model: str
    engine: Engine
    weights: str
    method: str | None = None
    config: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Answers:
    """A system and what it answered, in the order of the samples; None where it has no answer."""

    system: System
    responses: tuple[Response | None, ...]
    """The first answer to each sample, which is the one that is judged."""
    grades: tuple[float | None, ...]
    oddities: Mapping[str, int]
    """What was out of the ordinary, counted: `missing`, `strays`, `repeated`."""
    metrics: Mapping[str, Interval]
    """Of several answers to each sample; empty where one was asked for."""


@dataclass(frozen=True)
class Settings:
    """How an evaluation is answered, judged and measured."""

    equalise: bool = False
    """Judge length-equalised answers too (`lc_equalised`)."""
    probes: int = 5
    """Prompts on which answers that must lose are judged, where a model judges."""
    calibration: Calibration | None = None
    """For `lc_glm.noreg` and `lc_glm.v1`."""
    max_unread: float = MAX_UNREAD
    """Share of duels without a readable verdict above which nothing is published."""
    max_missing: float = 0.02
    """Share of prompts without an answer, of either side, above which nothing is judged."""
    limits: Limits = field(default_factory=Limits)
    attempts: int = 1
    """Answers per prompt; the first is judged, all are graded."""
    lm_eval: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By contender, what lm-eval reports of it, to be published beside."""


@dataclass(frozen=True)
class Prepared:
    """A match with the duels that it needs judged."""

    match: Match
    duels: tuple[Duel, ...]


def evaluate(
    contenders: Sequence[Contender],
    baseline: str,
    task: YamlTask,
    judge: Judge,
    split: str,
    sampling: Sampling,
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Board:
    """Answers, judges and publishes; returns the board that `folder/<task>.<judge>.json` now holds.

    Args:
        baseline: The name of the contender that the others are compared with.

    Raises:
        Stopped: the budget of `settings.limits` is spent; the same call goes on from there.
    """
    settings = settings or Settings()
    prepared = prepare(contenders, baseline, task, judge, split, sampling, folder, settings)
    return publish(prepared, task, judge, folder, settings, progress)


def publish(
    prepared: Sequence[Prepared],
    task: YamlTask,
    judge: Judge,
    folder: Path,
    settings: Settings,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Board:
    """Judges what the store lacks, measures all matches and merges their entries into the board.

    Raises:
        Stopped: the budget of `settings.limits` is spent; the same call goes on from there.
    """
    path = folder / f"{task.name}.{judge.name}.json"
    store = Verdicts(folder / STORE)
    ask(judge, asked(judge, prepared), store, settings.limits, progress)
    for one in prepared:
        store.add_match(one.match.key, one.match.plain())
    measured = measure_all([one.match for one in prepared], store, settings.calibration, settings.max_unread)
    for one in measured:
        _write_verdicts(folder / f"{task.name}.{judge.name}", one.match, store)
    # Another evaluation may have published meanwhile.
    board = read(path) if path.exists() else Board(task.name, judge.name, judge.describe)
    board = merge(board, [m.entry for m in measured], comparisons(measured))
    write(path, board)
    return board


def prepare(
    contenders: Sequence[Contender],
    baseline: str,
    task: YamlTask,
    judge: Judge,
    split: str,
    sampling: Sampling,
    folder: Path,
    settings: Settings,
) -> list[Prepared]:
    """Everything before a judge is asked: answers, and one match per system."""
    if (path := folder / f"{task.name}.{judge.name}.json").exists():
        read(path)  # a board that cannot be added to should fail before anything is asked
    samples = task.samples(split)
    place = folder / f"{task.name}.{split}"
    answers = {
        c.name: answer(c, task, samples, sampling, place, settings.max_missing, settings.attempts) for c in contenders
    }
    provenance = provenance_of(task, samples, judge, sampling)
    theirs = answers[baseline]
    return [_match(ours, theirs, task, judge, split, samples, provenance, settings) for ours in answers.values()]


def asked(judge: Judge, prepared: Sequence[Prepared]) -> list[Question]:
    """All readings that matches need."""
    return questions(judge, [duel for one in prepared for duel in one.duels])


def answer(
    contender: Contender,
    task: YamlTask,
    samples: Sequence[Sample],
    sampling: Sampling,
    folder: Path,
    max_missing: float = 0.0,
    attempts: int = 1,
) -> Answers:
    """`attempts` responses per sample, also written to `folder/<system>.outputs.jsonl`.

    Raises:
        UserError: more than the share `max_missing` of the prompts got none.
    """
    found = contender.engine.generate(samples, attempts, sampling)
    failed = [(s.id, f.reason) for s, f in zip(samples, found, strict=True) if isinstance(f, Failed)]
    if len(failed) > max_missing * len(samples):
        raise UserError(
            f"{contender.name} left {len(failed)} of {len(samples)} prompts unanswered; first, {failed[0][0]!r}: "
            f"{failed[0][1]}"
        )
    attempts_of = [() if isinstance(f, Failed) else tuple(map(_encodable, f)) for f in found]
    answered = [(sample, each) for sample, each in zip(samples, attempts_of, strict=True) if each]
    rows = [{"id": s.id, "output": [r.text for r in e] if attempts > 1 else e[0].text} for s, e in answered]
    write_atomically(
        folder / f"{slug(contender.name)}.outputs.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    )
    system = System(
        contender.name,
        contender.model,
        contender.weights,
        contender.method,
        contender.config,
        contender.seed,
        digest(rows),
    )
    responses = tuple(each[0] if each else None for each in attempts_of)
    grades = tuple(None if r is None else task.grade(s, r.text) for s, r in zip(samples, responses, strict=True))
    oddities = getattr(contender.engine, "oddities", None)
    counts = {"missing": len(failed), **(oddities(samples) if oddities else {})}
    metrics: dict[str, Interval] = {}
    if attempts > 1 and task.grader is not None and answered:
        metrics = over_attempts(task.grader, [sample for sample, _ in answered], [each for _, each in answered])
    return Answers(system, responses, grades, {name: n for name, n in counts.items() if n}, metrics)


def answers_of(system: System, folder: Path) -> dict[str, str]:
    """A system's judged answers by sample, from the file that `answer` wrote.

    Raises:
        UserError: the file is not there, or holds other answers than those that were judged.
    """
    path = folder / f"{slug(system.name)}.outputs.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the answers {path}: {error}") from None
    if digest(rows) != system.outputs:
        raise UserError(f"{path} holds other answers of {system.name} than those that were judged; evaluate again")
    outputs = {row["id"]: row["output"] for row in rows}
    return {sample: output[0] if isinstance(output, list) else output for sample, output in outputs.items()}


def _encodable(response: Response) -> Response:
    """Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a replacement character."""
    return replace(response, text=response.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _match(
    ours: Answers,
    theirs: Answers,
    task: YamlTask,
    judge: Judge,
    split: str,
    samples: Sequence[Sample],
    provenance: Provenance,
    settings: Settings,
) -> Prepared:
    both = zip(samples, ours.responses, theirs.responses, ours.grades, theirs.grades, strict=True)
    answered = [
        (Duel(sample, a.text, b.text), (grade, other), a.finished)
        for sample, a, b, grade, other in both
        if a is not None and b is not None
    ]
    if not answered:
        raise UserError(f"{ours.system.name} and {theirs.system.name} have no prompt that both answered")
    clusters = clusters_of(samples)
    items: list[Item] = []
    duels: list[Duel] = []
    for duel, grades, _ in answered:
        equal = equalised(duel) if settings.equalise else None
        items.append(item_of(judge, duel, grades, clusters[duel.sample.id], equal))
        duels += [duel] if equal is None else [duel, equal_duel(duel, equal)]
    probes: list[Probe] = []
    if "prompt" in provenance.judge and ours.system != theirs.system:
        for duel, _, _ in _spread(answered, settings.probes):
            for kind, trap in adversarial(duel.sample, duel.theirs).items():
                probes.append(Probe(kind, duel.sample.id, asked_of(judge, trap)))
                duels.append(trap)
    counts = counts_of([duel.ours for duel, _, _ in answered], [duel.theirs for duel, _, _ in answered])
    for who, answers in (("ours", ours), ("theirs", theirs)):
        counts.update({f"{who}.{name}": n for name, n in answers.oddities.items()})
    match = Match(
        task=task.name,
        split=split,
        judge=judge.name,
        decided_by=judge.describe,
        weighting=judge.weighting,
        system=ours.system,
        baseline=theirs.system,
        provenance=provenance,
        items=tuple(items),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        truncated=sum(not finished for _, _, finished in answered),
        clustered=len({item.cluster for item in items}) < len(items),
        counts=counts,
        probes=tuple(probes),
        metrics=dict(ours.metrics),
        lm_eval=settings.lm_eval.get(ours.system.name, {}),
    )
    return Prepared(match, tuple(duels))


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced."""
    return list(items[:: max(1, len(items) // count)][:count]) if count else []


def clusters_of(samples: Sequence[Sample]) -> dict[str, str]:
    """Which samples belong together, by id: the same `meta.cluster` or, without one, the same images."""
    found: dict[str, str] = {}
    for sample in samples:
        images = "+".join(fingerprint(image) for image in sample.images)
        found[sample.id] = str(sample.meta.get("cluster") or images or sample.id)
    return found


def _write_verdicts(folder: Path, match: Match, store: Verdicts) -> None:
    """Every verdict of a match to `folder/<system>.verdicts.jsonl`."""
    readings = store.get(match.keys)
    verdicts = [v for item in match.items for v in item.raw.verdicts(item.sample, readings)]
    write_atomically(
        folder / f"{slug(match.system.name)}.verdicts.jsonl",
        "".join(json.dumps(asdict(v), ensure_ascii=False) + "\n" for v in verdicts),
    )


def provenance_of(task: YamlTask, samples: Sequence[Sample], judge: Judge, sampling: Sampling) -> Provenance:
    rows = [[s.id, prompt_key(s.prompt), s.reference, s.answer] for s in samples]
    return Provenance(
        task_hash=digest(task.path.read_text(encoding="utf-8")),
        data_hash=digest(rows),
        judge_identity=_identity(judge),
        sampling=dict(asdict(sampling), stop=list(sampling.stop)),
        versions=versions("mmpu", "torch", "transformers", "peft"),
        commit=_commit(),
        judge=judge_of(judge),
    )


def _identity(judge: Judge) -> str:
    """Of the judge as a whole: a reading does not depend on which other orders are asked for, a result does."""
    return judge.identity if judge.orders == ("none",) else f"{judge.identity}:{'+'.join(judge.orders)}"


def judge_of(judge: Judge) -> dict[str, str]:
    """Name, model, revision and the hash of the prompt, as far as a judge has them."""
    prompt = getattr(judge, "prompt", None)
    known = {
        "name": judge.name,
        "model": getattr(getattr(judge, "engine", None), "model", None),
        "revision": getattr(judge, "revision", None),
        "prompt": prompt_hash(Path(prompt)) if prompt else None,
    }
    return {key: str(value) for key, value in known.items() if value}


def versions(*packages: str) -> dict[str, str]:
    def one(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {name: one(name) for name in packages}


def _commit() -> str | None:
    """The commit of the checkout that mmpu runs from, marked if it has changes; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def slug(name: str) -> str:
    """A file name for a system; names that would fall together get a hash each."""
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
    return plain if plain == name else f"{plain}-{digest(name)[:6]}"
