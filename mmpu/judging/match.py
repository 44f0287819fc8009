"""A match: two systems' answers to the same prompts, as far as results depend on them, without the texts.

It stands in the verdict store beside the readings, so that everything published can be computed from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Literal

from mmpu.boards import Provenance, System
from mmpu.core import UserError, digest
from mmpu.duel import IDENTICAL, Duel, Judge, Order, Verdict, settled
from mmpu.judging.equalise import Equalised, How, equalise, words
from mmpu.judging.verdicts import Reading, key_of
from mmpu.prompts import conditions
from mmpu.statistics import Interval


@dataclass(frozen=True)
class Asked:
    """A duel's readings in the store; none where the answers are identical."""

    readings: tuple[tuple[str, Order], ...]
    """Key and order."""

    def verdicts(self, sample: str, store: Mapping[str, Reading]) -> tuple[Verdict, ...]:
        """What the store holds; a reading that it lacks is unread."""
        if not self.readings:
            return (Verdict(sample, "none", 0.5, 0.5, IDENTICAL),)
        return settled(
            tuple(
                replace(store[key].verdict(order), sample=sample)  # another sample may have asked the same
                if key in store
                else Verdict(sample, order, None, reason="never asked")
                for key, order in self.readings
            )
        )


@dataclass(frozen=True)
class Item:
    """One prompt of a match. Pairs are ours, theirs."""

    sample: str
    cluster: str
    characters: tuple[int, int]
    words: tuple[int, int]
    grades: tuple[float | None, float | None]
    raw: Asked
    equalised: Asked | None = None
    """The duel of answers of comparable length; None if it was not wanted."""
    how: How | None = None
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Of several answers of ours, by name."""


@dataclass(frozen=True)
class Probe:
    """An answer that must lose, against the baseline's."""

    kind: str
    sample: str
    asked: Asked


@dataclass(frozen=True)
class Match:
    task: str
    split: str
    judge: str
    decided_by: str
    weighting: Literal["hard", "soft"]
    system: System
    baseline: System
    provenance: Provenance
    items: tuple[Item, ...]
    created: str
    truncated: int = 0
    clustered: bool = False
    counts: dict[str, int] = field(default_factory=dict[str, int])
    probes: tuple[Probe, ...] = ()
    metrics: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """Of several answers of the system to each prompt."""
    lm_eval: dict[str, Any] = field(default_factory=dict[str, Any])
    """What lm-eval reports of the system."""

    @property
    def key(self) -> str:
        """The same systems' same answers to the same prompts before the same judge."""
        return digest(
            [
                self.task,
                self.split,
                self.provenance.judge_identity,
                _told_apart(self.system),
                _told_apart(self.baseline),
                [item.sample for item in self.items],
            ]
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """Whose answers to what: equal for two judges of the same."""
        return (self.task, self.split, self.system.outputs, self.baseline.outputs)

    @property
    def keys(self) -> list[str]:
        """Of all readings that it rests on."""
        asked = [a for item in self.items for a in (item.raw, item.equalised) if a is not None]
        return [key for a in (*asked, *(p.asked for p in self.probes)) for key, _ in a.readings]

    def plain(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Match)


def _told_apart(system: System) -> dict[str, Any]:
    """What makes it another system; where it comes from does not."""
    values = asdict(system)
    del values["origin"]
    return values


def match_of(values: Mapping[str, Any]) -> Match:
    """A match from the store."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise UserError(f"{where}: {first['msg']}; this is no match that an evaluation wrote") from None


def asked_of(judge: Judge, duel: Duel) -> Asked:
    """Where a duel's readings are, or will be."""
    if duel.identical:
        return Asked(())
    identity = judge.identity
    return Asked(tuple((key_of(identity, duel, order), order) for order in judge.orders))


def item_of(
    judge: Judge,
    duel: Duel,
    grades: tuple[float | None, float | None],
    cluster: str | None,
    equal: Equalised | None,
) -> Item:
    """A duel as an item; `equal` is None where no length-equalised duel is wanted."""
    return Item(
        duel.sample.id,
        cluster or duel.sample.id,
        (len(duel.ours), len(duel.theirs)),
        (words(duel.ours), words(duel.theirs)),
        grades,
        asked_of(judge, duel),
        asked_of(judge, equal_duel(duel, equal)) if equal else None,
        equal.how if equal else None,
    )


def equal_duel(duel: Duel, equal: Equalised) -> Duel:
    """The same duel with answers of comparable length."""
    return Duel(duel.sample, equal.ours, equal.theirs)


def equalised(duel: Duel) -> Equalised:
    """A duel's answers at comparable length; the task has short answers where its sample has one."""
    return equalise(duel.ours, duel.theirs, duel.sample.answer is not None)


def counts_of(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, int]:
    """What was out of the ordinary in both systems' answers."""
    counts: Counter[str] = Counter()
    for who, texts in (("ours", ours), ("theirs", theirs)):
        counts.update({f"{who}.{name}": n for name, n in conditions(texts).items() if n})
    return dict(sorted(counts.items()))
