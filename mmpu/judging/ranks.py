"""How sure the order of systems is that met one baseline on the same prompts, and their strengths by Bradley–Terry.

Places are resampled together: prompts are drawn with replacement (with their clusters), every system's mean is taken
over the same draw, and a system's places are the middle 95% of those that it had. The baseline stands among them with
one half.

All that is told here is told by boards alone: their entries name the win of every prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mmpu.boards import Board, Entry, Strengths
from mmpu.judging.compare import Game, bradley_terry
from mmpu.statistics import Interval, resample_counts

RESAMPLES = 2_000
FEW = 3
"""Systems, the baseline among them, from which on strengths are worth a column."""

Wins = Mapping[str, Mapping[str, float]]
"""By system and sample."""


@dataclass
class Met:
    """Systems that met one baseline on one split under one judge."""

    split: str
    baseline: str
    judge_identity: str
    wins: dict[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    clusters: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, system: str, wins: Mapping[str, float], clusters: Mapping[str, str]) -> None:
        """Args: as in `Entry`, where samples without a group are one of their own."""
        self.wins[system] = wins
        self.clusters |= {sample: clusters.get(sample, sample) for sample in wins}


def met(entries: Iterable[Entry]) -> list[Met]:
    """Who may be with_strengths together, of the entries that name the win of every prompt."""
    found: dict[tuple[str, str, str], Met] = {}
    for entry in entries:
        if entry.items and entry.system != entry.baseline:
            name = (entry.split, entry.baseline.name, entry.provenance.judge_identity)
            found.setdefault(name, Met(*name)).add(entry.system.name, entry.items, entry.resampled)
    return list(found.values())


def with_strengths(board: Board) -> Board:
    """The board with the strengths of its systems."""
    told = [(one, strengths(one.wins, one.baseline, one.clusters)) for one in met(board.entries)]
    return replace(
        board, strengths=tuple(Strengths(m.split, m.baseline, m.judge_identity, found) for m, found in told if found)
    )


def places(wins: Wins, baseline: str, clusters: Mapping[str, str], seed: int = 0) -> dict[str, tuple[int, int]]:
    """First and last place of each system, 1 being the best, at 95%; only prompts that all were judged on count.

    Args:
        clusters: By sample, those that are resampled together.

    Returns:
        Nothing where there is no common prompt.
    """
    common = [s for s in clusters if all(s in of for of in wins.values())]
    if not common:
        return {}
    names = [*wins, baseline]
    value_SN = np.array([[*(wins[name][s] for name in wins), 0.5] for s in common])
    drawn: list[np.ndarray] = []
    for count_S in resample_counts([clusters[s] for s in common], RESAMPLES, seed):
        mean_N = np.round(count_S @ value_SN / count_S.sum(), 12)  # a tie is one whatever the order of the sum
        drawn.append(1 + (mean_N[None, :] > mean_N[:, None]).sum(axis=1))
    place_DN = np.array(drawn)
    low, high = (
        np.quantile(place_DN, 0.025, axis=0, method="lower"),
        np.quantile(place_DN, 0.975, axis=0, method="higher"),
    )
    return {name: (int(low[i]), int(high[i])) for i, name in enumerate(names)}


def strengths(wins: Wins, baseline: str, clusters: Mapping[str, str]) -> dict[str, Interval]:
    """Bradley–Terry's chance to beat the average system; nothing where fewer than three met."""
    if len(wins) + 1 < FEW:
        return {}
    games = [Game(name, baseline, win, clusters[s]) for name, of in wins.items() for s, win in of.items()]
    return bradley_terry(games) if games else {}
