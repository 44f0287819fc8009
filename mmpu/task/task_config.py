"""The keys of a task's YAML and of its splits, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmpu.core import Grader, Sampling
from mmpu.knobs import Count, Parallel, Seed
from mmpu.specs import Spec
from mmpu.task.sample import SampleTemplates

EVALUATION = ("test", "validation")
"""Splits that are for evaluation, also as `test_real`: nothing may be trained on them."""


@dataclass(frozen=True)
class Split:
    """Which rows belong to a split."""

    source: str | None = None
    """A source of its own; None takes the task's."""
    where: str | None = None
    """A Jinja expression over a row's fields, such as `number < 900`."""
    share: str | None = None
    """A percentage of the rows, chosen by a hash of their `origin`, `id` or prompt; `train: 90%` is short for it."""
    local: tuple[str, ...] = ()
    """Names that the files of an `hf:` source go by where `data` points at a folder; the first that is there counts."""
    part_of: str | None = None
    """The split whose samples these are too, so that sharing them is no leak."""
    published: Count | None = None
    """Samples that the whole published split has, for `mmpu tasks check`."""


@dataclass(frozen=True)
class TaskConfig(SampleTemplates):
    """The keys of a task YAML."""

    about: str = ""
    """One line for `mmpu tasks`."""
    aliases: tuple[str, ...] = ()
    """Other names, such as those of a paper's table."""
    dataset: str | None = None
    """What `--data NAME=PATH` calls the files, where several tasks share them."""
    source: str | None = None
    revision: str | None = None
    """Commit, tag or branch of a data set of the hub, where `source` names none; without one its rows may change."""
    fields: tuple[str, ...] = ()
    """Names for the columns of rows that are lists."""
    unique: str | None = None
    """A template; of rows with the same text the first is kept."""
    grader: Spec[Grader] | None = None
    attempts: Parallel = 1
    """Answers per prompt in an evaluation; more than one gives Avg@k, maj@k and pass@k."""
    splits: dict[str, Split] = field(default_factory=lambda: {"train": Split(), "test": Split()})
    evaluate: str = "test"
    """The split of `mmpu eval` unless it is told another."""
    held_out: tuple[str, ...] = ()
    """Evaluation splits of other tasks that training splits must share nothing with, as `gsm-plus/test`."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn unless a config says otherwise."""
    judge: str | None = None
    """The judge of `mmpu eval` unless it is told another."""
    judge_prompts: dict[str, str] = field(default_factory=dict[str, str])
    """By kind of judge, such as `pairwise`, a prompt file beside the YAML that takes the place of the judge's own."""
    baseline: str | None = None
    """The baseline of `mmpu eval` unless it is told another; `reference` is the data set's own answers."""
    benchmark: str | None = None
    """`org/name#task`: the benchmark of the hub whose leaderboard takes the accuracy of the whole `evaluate` split."""
    licence: str = ""
    redistribute: bool = True
    """False where the licence forbids to keep prompts and pictures beside a board, so that no page shows them."""
    citation: str = ""
    obtain: str = ""
    """How to get files that are not there, for errors."""
    traps: str = ""
    """What is easily got wrong about the data or their scoring."""
    shuffle: Seed | None = None
    """Seed of an order of the rows, for files that are sorted; a slice such as `train[:400]` is then a sample."""
    equalise: bool = False
    """Win rates also between answers of comparable length (`lc_equalised`), as PU-RLD's tasks have them."""
    data: str | None = None
    """Folder that relative paths start from; default: the YAML's."""

    def for_evaluation(self, split: str) -> bool:
        """Whether a split is there to be evaluated on, so that nothing may be trained on it."""
        config = self.splits.get(split)
        names = (split, config.part_of) if config and config.part_of else (split,)
        return any(name.split("_")[0] in EVALUATION for name in names)
