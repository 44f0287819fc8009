"""B6: how often 95% intervals hold the truth, and what length-controlled rates are off by, on random judgements.

python -m benchmarks.b6_coverage --sets 2000 --seed 0

P(win) = σ(θ + φ · tanh(standardised length difference) + ψ · difficulty), σ(θ) being the rates. Two systems answer the
same items; what makes an item easy or hard for both, and what the items of a cluster share, is in a normal variable
behind each verdict. So each verdict has exactly this probability, and the truth is known.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmpu.judging.compare import difference
from mmpu.judging.glm import Calibration, Outcome, length_controlled
from mmpu.statistics import Difference, Floats, Interval, interval, paired

SIZES = (30, 100, 199, 805)
RATES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
BETTER = 0.5
"""By how much the second system's θ is above the first's."""
SHARED = 0.5
"""Of the variance behind two systems' verdicts on one item, what they share."""
COLUMNS = ("raw", "minimal", "noreg", "raw, paired", "minimal, paired", "noreg, paired")
GRID = np.linspace(-8, 8, 4001)


@dataclass(frozen=True)
class Setting:
    """What verdicts depend on."""

    name: str
    length: float = 0.0
    """φ."""
    longer: float = 0.0
    """Mean length difference, in standard deviations."""
    difficulty: float = 0.0
    """ψ."""
    cluster: int = 1
    """Items of a cluster."""
    alike: float = 0.0
    """Of the variance behind verdicts, what the items of a cluster share."""
    ties: bool = False
    """A verdict is the mean of two readings."""


SETTINGS = (
    Setting("nothing but chance"),
    Setting("length", length=1.0, longer=0.5),
    Setting("length and difficulty", length=1.0, longer=0.5, difficulty=0.7),
    Setting("length, two readings", length=1.0, longer=0.5, ties=True),
    Setting("length, clusters of three", length=1.0, longer=0.5, cluster=3, alike=0.3),
)


@dataclass
class Tally:
    """Of one statistic over data sets."""

    errors: list[float] = field(default_factory=list[float])
    held: int = 0

    def add(self, found: Interval | Difference, truth: float) -> None:
        assert found.low is not None
        assert found.high is not None
        self.errors.append(found.value - truth)
        self.held += found.low <= truth <= found.high

    @property
    def coverage(self) -> float:
        return 100 * self.held / len(self.errors)

    @property
    def bias(self) -> float:
        return 100 * float(np.mean(self.errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000, help="Data sets per cell.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--settings", type=int, nargs="*", default=range(len(SETTINGS)), help="Which, from 0.")
    parser.add_argument("--each", action="store_true", help="A row per rate, not the range over rates.")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}; {given.sets} data sets")
    print(f"per cell, seed {given.seed}; rates {', '.join(map(str, RATES))}", end="\n\n")
    head = ("n", "verdicts depend on", *(["rate"] if given.each else []), *COLUMNS, "bias minimal", "bias noreg")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for n in given.sizes:
        for setting in (SETTINGS[i] for i in given.settings):
            found = {rate: cell(n, setting, rate, given.sets, given.seed) for rate in RATES}
            if given.each:
                for rate, tallies in found.items():
                    row(n, f"{setting.name} | {rate}", [tallies])
            else:
                row(n, setting.name, list(found.values()))
            sys.stdout.flush()


def row(n: int, name: str, tallies: list[Mapping[str, Tally]]) -> None:
    """Lowest and highest coverage over the rates, and the largest bias."""
    cells: list[str] = []
    for column in COLUMNS:
        low, high = (pick(t[column].coverage for t in tallies) for pick in (min, max))
        cells.append(f"{low:.1f} – {high:.1f}" if len(tallies) > 1 else f"{low:.1f}")
    cells += [f"{max((t[c].bias for t in tallies), key=abs):+.2f}" for c in ("minimal", "noreg")]
    print("| " + " | ".join((str(n), name, *cells)) + " |")


def cell(n: int, setting: Setting, rate: float, sets: int, seed: int) -> dict[str, Tally]:
    """All statistics at one size, setting and rate."""
    rng = np.random.default_rng([seed, n, SETTINGS.index(setting), round(1000 * rate)])
    tallies = {column: Tally() for column in COLUMNS}
    thetas = (math.log(rate / (1 - rate)), math.log(rate / (1 - rate)) + BETTER)
    raw = [marginal(theta, setting, with_length=True) for theta in thetas]
    equal = [marginal(theta, setting, with_length=False) for theta in thetas]
    for _ in range(sets):
        once(rng, n, setting, thetas, tallies, raw, equal)
    return tallies


def once(
    rng: np.random.Generator,
    n: int,
    setting: Setting,
    thetas: tuple[float, float],
    tallies: Mapping[str, Tally],
    raw: list[float],
    equal: list[float],
) -> None:
    """One data set into the tallies."""
    names = [str(i // setting.cluster) for i in range(n)]
    clusters = names if setting.cluster > 1 else None
    difficulty = rng.normal(size=n)
    common = rng.normal(size=n)
    outcomes: list[list[Outcome]] = []
    for theta in thetas:
        gaps = rng.normal(setting.longer, 1, n)
        p = 1 / (1 + np.exp(-(theta + setting.length * np.tanh(gaps) + setting.difficulty * difficulty)))
        wins = verdicts(rng, p, common, setting)
        lengths = np.round(400 * gaps).astype(int)
        rows = zip(names, wins.tolist(), lengths.tolist(), strict=True)
        outcomes.append([Outcome(str(i), w, 10_000 - d, 10_000, name) for i, (name, w, d) in enumerate(rows)])
    wins = [[o.win for o in rows if o.win is not None] for rows in outcomes]
    tallies["raw"].add(interval(wins[0], clusters), raw[0])
    tallies["raw, paired"].add(paired(wins[1], wins[0], clusters), raw[1] - raw[0])
    calibration = Calibration({str(i): float(d) for i, d in enumerate(difficulty)})
    for variant in ("minimal", "noreg"):
        one, two = (length_controlled(rows, variant, calibration) for rows in outcomes)
        tallies[variant].add(one.rate, equal[0])
        tallies[f"{variant}, paired"].add(difference(two, one), equal[1] - equal[0])


def verdicts(rng: np.random.Generator, p: Floats, common: Floats, setting: Setting) -> Floats:
    """Wins with probabilities p, alike within clusters, and between systems by what is common."""
    from statistics import NormalDist

    threshold = np.array([NormalDist().inv_cdf(float(v)) for v in p])
    cluster = rng.normal(size=len(p))[np.arange(len(p)) // setting.cluster]
    rest = 1 - SHARED - setting.alike
    behind = math.sqrt(SHARED) * common + math.sqrt(setting.alike) * cluster
    read = [behind + math.sqrt(rest) * rng.normal(size=len(p)) < threshold for _ in range(1 + setting.ties)]
    return np.mean(read, axis=0)


def marginal(theta: float, setting: Setting, *, with_length: bool) -> float:
    """The mean of P(win) over lengths and difficulties, or over difficulties at equal lengths."""
    weight = np.exp(-(GRID**2) / 2)
    weight /= weight.sum()
    lengths = np.tanh(GRID + setting.longer) * setting.length if with_length else np.zeros(1)
    over = weight if with_length else np.ones(1)
    hard = setting.difficulty * GRID[::20]
    of_hard = weight[::20] / weight[::20].sum()
    p = 1 / (1 + np.exp(-(theta + lengths[:, None] + hard[None, :])))
    return float(over @ p @ of_hard)


if __name__ == "__main__":
    main()
