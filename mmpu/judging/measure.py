"""From a match and the readings in the store to the row that is published. No judge, no task and no text is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpu.boards import ITEMS, Agreement, Entry, LengthModel, WinRate
from mmpu.core import UserError
from mmpu.duel import IDENTICAL, Verdict
from mmpu.judging import audit
from mmpu.judging.glm import RESAMPLES, VARIANTS, Calibration, Fit, Outcome, Refused, length_controlled
from mmpu.judging.match import Match, match_of
from mmpu.judging.verdicts import Reading, Verdicts
from mmpu.statistics import Interval, interval

MAX_UNREAD = 0.02
"""Share of duels without a readable verdict above which an evaluation fails."""
EQUALISED = "lc_equalised"


@dataclass(frozen=True)
class Measured:
    """An entry, and what comparisons between entries are made of."""

    match: Match
    entry: Entry
    wins: Mapping[str, Mapping[str, float]]
    """The items' wins by metric (`raw`, `lc_equalised`) and sample, and what several answers are worth (`avg@4`, …)."""
    fits: Mapping[str, Fit]
    """By procedure (`lc_glm.minimal`, …)."""


def measure(
    match: Match,
    readings: Mapping[str, Reading],
    calibration: Calibration | None = None,
    judges: Mapping[str, Agreement] | None = None,
    max_unread: float = MAX_UNREAD,
) -> Measured:
    """Everything that is published of a match.

    Args:
        readings: The store's, by key; what is not there is unread.
        judges: Agreement with other judges of the same answers.

    Raises:
        UserError: more than `max_unread` of the duels could not be read at all.
    """
    clusters = _clusters(match)
    raw = {item.sample: item.raw.verdicts(item.sample, readings) for item in match.items}
    record = win_rate(list(raw.values()), match.weighting, clusters, max_unread)
    wins = {"raw": wins_of(raw, match.weighting)}
    lengths = _length_control(match, wins["raw"], readings, calibration, max_unread)
    if lengths.equalised:
        wins[EQUALISED] = lengths.equalised
    wins |= {name: {i.sample: i.metrics[name] for i in match.items if name in i.metrics} for name in match.metrics}
    known = {i.sample: i.grades[0] for i in match.items if i.grades[0] is not None}
    scores = {s: marks[0] for s, v in raw.items() if (marks := [x.detail["ours"] for x in v if "ours" in x.detail])}
    entry = Entry(
        system=match.system,
        baseline=match.baseline,
        split=match.split,
        n=len(match.items),
        win_rate=record,
        accuracy=_mean(known, clusters) if known else None,
        mean_words=sum(i.words[0] for i in match.items) / len(match.items),
        truncated=match.truncated,
        provenance=match.provenance,
        created=match.created,
        length_controlled=lengths.rates,
        length_models={n: _model(f) for n, f in lengths.fits.items()},
        length_refused=lengths.refused,
        equalised=dict(sorted(Counter(i.how for i in match.items if i.how is not None).items())),
        score=_mean(scores, clusters) if scores else None,
        metrics=match.metrics,
        lm_eval=match.lm_eval,
        clusters=None if clusters is None else len(set(clusters.values())),
        counts=match.counts,
        audit=audit.audit(match, raw, readings, judges or {}),
        items=dict(sorted(wins["raw"].items())) if len(match.items) <= ITEMS else {},
        resampled=dict(sorted(clusters.items())) if clusters and len(match.items) <= ITEMS else {},
    )
    return Measured(match, entry, wins, lengths.fits)


def _model(fit: Fit) -> LengthModel:
    length, difficulty, intercept = fit.weights
    return LengthModel(fit.c, length, difficulty, intercept, fit.saved, fit.saved_by_length)


@dataclass(frozen=True)
class _LengthControl:
    """What the procedures of length control give, by name."""

    rates: dict[str, Interval]
    refused: dict[str, str]
    fits: dict[str, Fit]
    equalised: dict[str, float]
    """Wins of length-equalised duels, by sample; empty where none were judged, or too many could not be read."""


def _length_control(
    match: Match,
    wins: Mapping[str, float],
    readings: Mapping[str, Reading],
    calibration: Calibration | None,
    max_unread: float,
) -> _LengthControl:
    found = _LengthControl({}, {}, {}, {})
    equal = {i.sample: i.equalised.verdicts(i.sample, readings) for i in match.items if i.equalised is not None}
    equalised = wins_of(equal, match.weighting)
    unread = len(equal) - len(equalised)
    if unread > max_unread * len(equal):
        found.refused[EQUALISED] = f"{unread} of {len(equal)} length-equalised duels could not be read"
    elif equal:
        found.equalised.update(equalised)
        found.rates[EQUALISED] = _mean(equalised, _clusters(match))
    outcomes = [Outcome(i.sample, wins.get(i.sample), *i.characters, i.cluster) for i in match.items]
    for variant in VARIANTS if calibration else VARIANTS[:1]:
        name = f"lc_glm.{variant}"
        try:
            fit = length_controlled(outcomes, variant, calibration, resamples=RESAMPLES)
        except Refused as reason:
            found.refused[name] = str(reason)
        else:
            found.fits[name], found.rates[name] = fit, fit.rate
    return found


def _clusters(match: Match) -> dict[str, str] | None:
    """Which items are resampled together, by sample; None if every item stands for itself."""
    return {item.sample: item.cluster for item in match.items} if match.clustered else None


def measure_all(
    matches: Sequence[Match], store: Verdicts, calibration: Calibration | None, max_unread: float
) -> list[Measured]:
    """Matches measured from the store; other judges' matches there count for agreement."""
    others = [match_of(values) for values in store.matches()]
    return [
        measure(match, store.get(match.keys), calibration, _agreements(match, others, store), max_unread)
        for match in matches
    ]


def _agreements(match: Match, others: Sequence[Match], store: Verdicts) -> dict[str, Agreement]:
    """With every other judge that saw the same answers."""
    found: dict[str, Agreement] = {}
    for other in others:
        if other.answers == match.answers and other.provenance.judge_identity != match.provenance.judge_identity:
            both = audit.agreement(*(raw_wins(m, store.get(m.keys)) for m in (match, other)))
            if both:
                found[other.judge] = both
    return found


def win_rate(
    verdicts: Sequence[tuple[Verdict, ...]],
    weighting: str = "hard",
    clusters: Mapping[str, str] | None = None,
    max_unread: float = MAX_UNREAD,
) -> WinRate:
    """Wins over readable duels; a duel is worth the mean of its readable orders.

    Args:
        clusters: By sample, where several are to be resampled together.

    Raises:
        UserError: more than `max_unread` of the duels could not be read at all.
    """
    named = {orders[0].sample: orders for orders in verdicts}
    hard, soft = wins_of(named, "hard"), wins_of(named, "soft")
    reasons = [orders[0].reason for orders in verdicts if all(v.win is None for v in orders)]
    if len(reasons) > max_unread * len(verdicts):
        common = sorted(set(reasons), key=reasons.count, reverse=True)[:3]
        raise UserError(
            f"{len(reasons)} of {len(verdicts)} duels could not be read, more than {max_unread:.0%}; nothing was "
            f"published. The same command asks for these again. Most frequent: {' | '.join(common)}"
        )
    return WinRate(
        rate=_mean(soft if weighting == "soft" else hard, clusters),
        wins=sum(w > 0.5 for w in hard.values()),
        losses=sum(w < 0.5 for w in hard.values()),
        ties=sum(w == 0.5 for w in hard.values()),
        unread=len(reasons),
        identical=sum(orders[0].reason == IDENTICAL for orders in verdicts),
        soft=_mean(soft, clusters) if soft else None,
        weighting="soft" if weighting == "soft" else "hard",
    )


def wins_of(verdicts: Mapping[str, tuple[Verdict, ...]], weighting: str) -> dict[str, float]:
    """The win of each duel that could be read, by sample."""
    found: dict[str, float] = {}
    for sample, orders in verdicts.items():
        read = [v.soft if weighting == "soft" else v.win for v in orders]
        known = [value for value in read if value is not None]
        if known:
            found[sample] = float(np.mean(known))
    return found


def raw_wins(match: Match, readings: Mapping[str, Reading]) -> dict[str, float]:
    """The items' wins as judged, by sample."""
    return wins_of({i.sample: i.raw.verdicts(i.sample, readings) for i in match.items}, match.weighting)


def _mean(values: Mapping[str, float], clusters: Mapping[str, str] | None) -> Interval:
    return interval(list(values.values()), [clusters[s] for s in values] if clusters else None)
