"""Leaderboards: one JSON file per task and judge, every row with what is needed to recompute it.

The same inputs give the same bytes but for `created`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mmpu.core import UserError
from mmpu.files import file_name
from mmpu.statistics import Difference, Interval

SCHEMA = 3
ITEMS = 20_000
"""Prompts up to which an entry names the win of each."""


@dataclass(frozen=True)
class Origin:
    """Where a system's base comes from, and how large the system is; None where nothing at hand says so."""

    organisation: str | None = None
    """Who published it on the hub."""
    hub: str | None = None
    """Its name there."""
    revision: str | None = None
    """Its commit there."""
    licence: str | None = None
    """As its model card states it."""
    parameters: int | None = None
    """Of the system that answered, adapters merged; tied ones counted once."""


@dataclass(frozen=True)
class System:
    """Who answered."""

    name: str
    model: str
    weights: str
    """Hash of the weight files, or of the answers file where answers were given."""
    method: str | None
    """How its last stage was trained; None for a model as it came."""
    config: str | None
    """Hash of the run's resolved config."""
    seed: int | None
    outputs: str
    """Hash of its answers."""
    origin: Origin = field(default_factory=Origin, compare=False)


@dataclass(frozen=True)
class WinRate:
    """Duels against the baseline: mean of wins with ties one half, over the readable ones."""

    rate: Interval
    """Of the headline: letters, or under `weighting` soft the probabilities behind them."""
    wins: int
    losses: int
    ties: int
    unread: int
    identical: int
    """Of the ties, pairs of identical answers, decided without a call."""
    soft: Interval | None = None
    """Mean of P(win) + P(tie) / 2, where the judge gave probabilities."""
    weighting: Literal["hard", "soft"] = "hard"


@dataclass(frozen=True)
class Adversarial:
    """How answers that must lose fared against the baseline's."""

    n: int
    lost: int
    tied: int
    won: int
    unread: int


@dataclass(frozen=True)
class Agreement:
    """On how many duels two ways to decide agree who won, a tie being a way to decide too."""

    share: float
    n: int


@dataclass(frozen=True)
class Audit:
    """What is known about the judge's reliability on these duels. Rates are shares; None where nothing tells."""

    readings: int
    flip_rate: float | None
    """Of duels read in both orders, those where another order gave another winner."""
    first_slot: float | None
    """Share of wins, ties halved, that went to the answer shown first; 0.5 if the judge favours no slot."""
    tie_rate: float | None
    unread_rate: float
    length_correlation: float | None
    """Pearson correlation of the win with the difference in characters."""
    grade_agreement: Agreement | None
    """With the task's own grader, on duels that it decides."""
    judges: dict[str, Agreement] = field(default_factory=dict[str, Agreement])
    """With other judges of the same answers."""
    adversarial: dict[str, Adversarial] = field(default_factory=dict[str, Adversarial])


@dataclass(frozen=True)
class LengthModel:
    """The regression behind an `lc_glm`."""

    c: float | None
    """Inverse strength of the L1 penalty of `v1`, chosen by cross-validation; None where there is none."""
    length: float
    difficulty: float
    intercept: float
    saved: float | None = None
    """Nats per duel by which the fit predicts better than a coin: duels that it did not see, in `v1` its own. None
    where that is unknown."""
    saved_by_length: float | None = None
    """The same against the win rate alone."""


@dataclass(frozen=True)
class Provenance:
    """What the numbers depend on besides the systems."""

    task_hash: str
    data_hash: str
    judge_identity: str
    sampling: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    judge: dict[str, str] = field(default_factory=dict[str, str])
    """The judge's name, model, revision and its prompt, as hash and text, each where it has one."""


@dataclass(frozen=True)
class Entry:
    """One row."""

    system: System
    baseline: System
    split: str
    n: int
    win_rate: WinRate
    accuracy: Interval | None
    """Mean grade, where the task has a grader."""
    mean_words: float
    truncated: int
    provenance: Provenance
    created: str
    length_controlled: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """By name of the procedure (`lc_equalised`, `lc_glm.minimal`, …); procedures are never mixed."""
    length_models: dict[str, LengthModel] = field(default_factory=dict[str, LengthModel])
    length_refused: dict[str, str] = field(default_factory=dict[str, str])
    """Why a procedure gives no number here."""
    equalised: dict[str, int] = field(default_factory=dict[str, int])
    """Duels by how `lc_equalised` made the lengths comparable."""
    score: Interval | None = None
    """Mean mark in 0..1, where the judge marks each answer by itself."""
    metrics: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """Of several answers per prompt, by name: `avg@12`, `maj@12`, `pass@12`."""
    lm_eval: dict[str, Any] = field(default_factory=dict[str, Any])
    """Results of lm-eval's own tasks, with its versions and hashes."""
    clusters: int | None = None
    """Groups of items that were resampled together; None if every item stands for itself."""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """What was out of the ordinary in the answers: `ours.empty`, `missing`, …"""
    audit: Audit | None = None
    items: dict[str, float] = field(default_factory=dict[str, float])
    """By sample, the wins of which `win_rate.rate` is the mean, so that ranks can be told from boards alone; nothing
    beyond `ITEMS` prompts."""
    resampled: dict[str, str] = field(default_factory=dict[str, str])
    """By sample, its group, where `clusters` counts groups."""


@dataclass(frozen=True)
class Strengths:
    """Systems that met one baseline on the same prompts under one judge, by Bradley–Terry."""

    split: str
    baseline: str
    judge_identity: str
    systems: dict[str, Interval]
    """Each one's chance to beat the average of them; the baseline is among them."""


@dataclass(frozen=True)
class Comparison:
    """Two systems against the same baseline, under the same judge, on the same prompts."""

    ours: str
    theirs: str
    baseline: str
    split: str
    judge_identity: str
    metric: str
    """`raw`, a procedure of length control, or what several answers are worth, such as `avg@12`."""
    difference: Difference
    """Of the rates, ours − theirs."""
    mcnemar: float | None
    """Exact p-value over the items on which one did better; None for regressions."""
    holm: float
    """The difference's p-value after Holm's correction over the comparisons made together."""


@dataclass(frozen=True)
class Board:
    """All entries of a task under one judge."""

    task: str
    judge: str
    decided_by: str
    entries: tuple[Entry, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    strengths: tuple[Strengths, ...] = ()
    """Where three systems or more met."""
    schema: int = SCHEMA


def board_name(task: str, judge: str) -> str:
    """The file of a board in its folder."""
    return f"{file_name(task)}.{file_name(judge)}.json"


def merge(board: Board, new: Sequence[Entry], comparisons: Sequence[Comparison] = ()) -> Board:
    """The board with new entries; one takes the place of the same system on the same prompts, sampling, baseline and
    judge. Comparisons with a system that was evaluated anew are dropped, unless they are new too."""
    taken = set(map(_name, new))
    kept = [e for e in board.entries if _name(e) not in taken]
    judged = {(e.split, e.baseline.name, e.provenance.judge_identity, e.system.name) for e in new}
    current = [
        c
        for c in board.comparisons
        if not judged & {(c.split, c.baseline, c.judge_identity, name) for name in (c.ours, c.theirs)}
    ]
    return dataclasses.replace(board, entries=(*kept, *new), comparisons=(*current, *comparisons))


def merged(boards: Sequence[Board]) -> Board:
    """Boards of one task and judge as one; of two entries of the same system under the same circumstances the one made
    later stands.

    Raises:
        UserError: there is none, or they are of different tasks or judges.
    """
    names = {(board.task, board.judge) for board in boards}
    if len(names) != 1:
        told = ", ".join(sorted(f"{task} under {judge}" for task, judge in names)) or "no board"
        raise UserError(f"boards of one task and judge can be merged, and these are {told}")
    entries = sorted((e for board in boards for e in board.entries), key=lambda e: e.created)
    latest = {_name(entry): entry for entry in entries}
    found = dataclasses.replace(boards[-1], entries=(), comparisons=())
    for board in boards:
        own = [e for e in board.entries if latest[_name(e)] == e]
        kept = {(e.split, e.baseline.name, e.provenance.judge_identity, e.system.name) for e in own}
        met = [
            c
            for c in board.comparisons
            if all((c.split, c.baseline, c.judge_identity, name) in kept for name in (c.ours, c.theirs))
        ]
        found = merge(found, own, met)
    return found


def _name(entry: Entry) -> str:
    """What two entries share where the later one takes the other's place."""
    return json.dumps(key_of(dataclasses.asdict(entry)), sort_keys=True)


def key_of(entry: dict[str, Any]) -> list[Any]:
    """By which entries are told apart, and ordered in a file."""
    return [
        entry["split"],
        entry["baseline"]["name"],
        entry["system"]["name"],
        entry["system"]["seed"],
        entry["provenance"]["sampling"],
        entry["provenance"]["judge_identity"],
    ]


def comparison_key(comparison: dict[str, Any]) -> list[str]:
    """The order of comparisons in a file."""
    return [comparison[k] for k in ("split", "baseline", "judge_identity", "metric", "ours", "theirs")]
