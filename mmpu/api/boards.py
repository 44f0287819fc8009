"""`mmpu.evaluate`, `mmpu.judge`, and the boards and verdicts that they give."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpu.api.answers import Answers
from mmpu.api.runs import Run
from mmpu.api.shown import frame, html
from mmpu.api.student import Student
from mmpu.api.task import Task
from mmpu.core import Failed, Response, Sample, UserError
from mmpu.duel import Duel
from mmpu.files import file_name
from mmpu.recipes import evaluation
from mmpu.recipes.judges import read_judge

if TYPE_CHECKING:
    from mmpu import boards
    from mmpu.judging import Estimate

System = Run | Student | Answers | str | Path | Sequence[str | None]
"""Who answers: a run, a student, a model's or a run's name or path, a file of answers, or the answers themselves."""


class Board:
    """A leaderboard's file: systems against a baseline, under one judge, on one task.

    Raises:
        UserError: it is no board.
    """

    def __init__(self, path: str | Path) -> None:
        from mmpu.boards import read

        self.path = Path(path)
        self.board: boards.Board = read(self.path)

    @property
    def entries(self) -> tuple[boards.Entry, ...]:
        """The rows with all that is known of them; rates and accuracies are shares of 1, intervals 95%."""
        return tuple(self.board.entries)

    def page(self, out: str | Path | None = None) -> Path:
        """Writes the page of the board and of the answers behind it; returns where it is."""
        from mmpu.recipes.pages import write_page

        return write_page([self.path], Path(out) if out else self.path.with_suffix(".html"))[0]

    def to_pandas(self) -> Any:
        """A row per entry; rates and accuracies are shares of 1 with the ends of their 95% intervals."""
        return frame([_flat(entry) for entry in self.entries])

    def __repr__(self) -> str:
        return f"Board({str(self.path)!r}, {len(self.entries)} entries)"

    def _repr_html_(self) -> str:
        from mmpu.boards import cells, header, notes, ranked, sentences

        rows = [cells(entry, self.board) for entry in ranked(self.board)]
        said = " ".join((*notes(self.board), *sentences(self.board)))
        title = f"{self.board.task}, judge {self.board.judge}: {self.board.decided_by}"
        return html(title, header(self.board), rows, said)


def _flat(entry: boards.Entry) -> dict[str, object]:
    row: dict[str, object] = {"system": entry.system.name, "baseline": entry.baseline.name, "split": entry.split}
    rates = {"win_rate": entry.win_rate.rate, "accuracy": entry.accuracy, **entry.length_controlled, **entry.metrics}
    for name, rate in rates.items():
        row |= {name: rate and rate.value, f"{name}_low": rate and rate.low, f"{name}_high": rate and rate.high}
    counts = {name: getattr(entry.win_rate, name) for name in ("wins", "losses", "ties", "unread")}
    return {**row, **counts, "words": entry.mean_words, "n": entry.n}


def evaluate(
    systems: Mapping[str, System] | Sequence[Run | Student | str | Path],
    task: Task | str | None = None,
    *,
    judge: str | None = None,
    baseline: System | None = None,
    split: str | None = None,
    limit: int | None = None,
    attempts: int | None = None,
    folder: str | Path = "leaderboards",
    judge_url: str | None = None,
    trust: bool = False,
    judging: evaluation.JudgingOptions | None = None,
    dry_run: bool = False,
    **sampling: Any,
) -> Board | Estimate:
    """Lets systems answer a task, judges them against the baseline, and publishes the board.

    Args:
        systems: By label, or named by themselves.
        task: None takes the one that the runs among the systems were trained on.
        judge: A judge's name or YAML; None takes the task's or, where that names none and can grade, `rule`.
        baseline: A label among the systems, or another system; None takes the task's.
        split: None takes the one that the task is evaluated on.
        limit: First so many prompts only.
        attempts: Answers per prompt, for Avg@k; the first is judged.
        folder: Where boards, answers and verdicts are kept: what was paid for is not asked again.
        judge_url: OpenAI-compatible endpoint of the judge, up to `/v1`.
        judging: Budget and bounds of the judging.
        dry_run: Returns what it would cost, without asking anybody.
        sampling: `temperature`, `max_tokens` (tokens of an answer), `seed`; else the task's own.

    Raises:
        UserError: as `mmpu eval`.
    """
    given = dict(systems) if isinstance(systems, Mapping) else {_label(each): each for each in systems}
    targets = tuple(f"{label}={_target(label, system, Path(folder))}" for label, system in given.items())
    found = Task(task) if isinstance(task, str) else task
    options = evaluation.EvalOptions(
        targets,
        None if found is None else found.source,
        judge or _rule(found, targets),
        _baseline(baseline, given, Path(folder)),
        split,
        limit,
        judge_url,
        () if found is None or found.data is None else found.data,
        trust or (found is not None and found.trust),
        folder=str(folder),
        sampling=sampling,
        attempts=attempts,
        judging=judging or evaluation.JudgingOptions(),
    )
    if dry_run:
        return evaluation.estimate(options)
    board = evaluation.evaluate(options, announce=_announce)
    from mmpu.boards import board_name

    return Board(Path(folder) / board_name(board.task, board.judge))


def _baseline(baseline: System | None, given: Mapping[str, System], folder: Path) -> str | None:
    """The baseline as the command line names it: a label among the systems, a target, or a target with a label."""
    if baseline is None or (isinstance(baseline, str) and baseline in given):
        return baseline
    target = _target("baseline", baseline, folder)
    return target if isinstance(baseline, str | Path) else f"baseline={target}"


def _announce(estimate: Estimate) -> None:
    if estimate.calls:
        print("\n".join(estimate.lines()), file=sys.stderr)


def _rule(task: Task | None, targets: Sequence[str]) -> str | None:
    """The judge of a task that names none and can grade."""
    known = None if task is not None else evaluation.trained_on(targets)
    found = Task(known.name) if known is not None else task
    return "rule" if found is not None and found.task.config.judge is None and found.task.grader else None


def _label(system: Any) -> str:
    found = system.folder if isinstance(system, Run) else system.model if isinstance(system, Student) else system
    return Path(str(found)).name or str(found)


def _target(label: str, system: System, folder: Path) -> str:
    """What stands for a system at the prompt; answers that Python holds are written to a file."""
    if isinstance(system, Run):
        return str(system.folder)
    if isinstance(system, Student):
        if system.options:
            raise UserError(f"{label}: an evaluation holds a model as it is; leave out {', '.join(system.options)}")
        return system.model
    if isinstance(system, str | Path):
        return str(system)
    if isinstance(system, Answers):
        return str(system.save(folder / "given" / f"{file_name(label)}.jsonl"))
    raise UserError(f"{label}: answers without their samples; make them with `mmpu.answers(task, texts)`")


def answers(task: Task | str, texts: Sequence[str | None], split: str | None = None) -> Answers:
    """Texts as answers to the samples of a split, in their order; None is no answer.

    Raises:
        UserError: there are more or fewer than samples.
    """
    samples = (Task(task) if isinstance(task, str) else task).samples(split)
    if len(texts) != len(samples):
        raise UserError(f"{len(texts)} texts for {len(samples)} samples; name the slice, such as `test[:100]`")
    made = [Failed("none was given") if text is None else (Response(text),) for text in texts]
    return Answers(samples, made)


@dataclass(frozen=True)
class Verdicts:
    """What a judge says of pairs of answers, in the order of the samples."""

    samples: Sequence[Sample]
    wins: Sequence[float | None]
    """1 where ours won, 0 where theirs, 1/2 a tie; None where the judge could not be read."""

    @property
    def rate(self) -> float | None:
        """The win rate over what could be read, a share of 1."""
        known = [win for win in self.wins if win is not None]
        return sum(known) / len(known) if known else None

    def __iter__(self) -> Iterator[float | None]:
        return iter(self.wins)

    def __len__(self) -> int:
        return len(self.wins)

    def to_pandas(self) -> Any:
        """A row per sample: `id`, `prompt`, `win`."""
        return frame(self._rows())

    def _rows(self) -> list[dict[str, object]]:
        pairs = zip(self.samples, self.wins, strict=True)
        return [{"id": sample.id, "prompt": sample.prompt[-1].text, "win": win} for sample, win in pairs]

    def _repr_html_(self) -> str:
        rate = "–" if self.rate is None else f"{self.rate:.1%}"
        return html(f"win rate {rate}", ("id", "prompt", "win"), [list(row.values()) for row in self._rows()])


def judge(
    task: Task | str,
    ours: Answers | Sequence[str | None],
    theirs: Answers | Sequence[str | None],
    *,
    judge: str = "rule",
    split: str | None = None,
    judge_url: str | None = None,
    folder: str | Path = "leaderboards",
) -> Verdicts:
    """Lets a judge compare pairs of answers to a task's samples; verdicts are kept and not asked for twice.

    Args:
        ours: Answers to the samples of `split`, in their order.
        judge: A judge's name or YAML.
        judge_url: Its OpenAI-compatible endpoint, up to `/v1`.
        folder: Where `verdicts.sqlite` is.

    Raises:
        UserError: an answer is missing, or the judge cannot be asked.
    """
    from mmpu.evaluation import STORE
    from mmpu.judging import Verdicts as Store
    from mmpu.judging import wins_over

    found = Task(task) if isinstance(task, str) else task
    sides = [each if isinstance(each, Answers) else answers(found, each, split) for each in (ours, theirs)]
    samples = sides[0].samples
    if [s.id for s in samples] != [s.id for s in sides[1].samples]:
        raise UserError("ours and theirs answer different samples")
    duels: list[Duel] = []
    for sample, a, b in zip(samples, sides[0].texts, sides[1].texts, strict=True):
        if a is None or b is None:
            raise UserError(f"sample {sample.id!r} lacks an answer; leave it out on both sides")
        duels.append(Duel(sample, a, b))
    one = read_judge(judge).make(found.task, judge_url)
    return Verdicts(samples, wins_over(one, duels, Store(Path(folder) / STORE)))
