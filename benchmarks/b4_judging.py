"""B4: what judging costs besides the judge: length control with its intervals, `mmpu tasks` and `check`.

python -m benchmarks.b4_judging
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmpu.judging.glm import RESAMPLES, Calibration, Outcome, Variant, length_controlled

ITEMS = 805
"""AlpacaEval's instructions; also the size at which FuseChat published."""
ROWS = 10_000


def main() -> None:
    print("| what | seconds |\n| --- | ---: |")
    for variant in ("minimal", "noreg", "v1"):
        how = f"{RESAMPLES} refits, C by cross-validation" if variant == "v1" else "jackknife"
        row(f"`lc_glm.{variant}`, {ITEMS} items, {how}", timed(lambda v=variant: refit(v)))
    with tempfile.TemporaryDirectory() as folder:
        path = sums(Path(folder))
        row("`mmpu tasks`", timed(lambda: mmpu("tasks")))
        row(f"`mmpu tasks check`, {ROWS:,} rows of JSON lines", timed(lambda: mmpu("tasks", "check", str(path))))


def row(what: str, seconds: float) -> None:
    print(f"| {what} | {seconds:.2f} |", flush=True)


def timed(work: Callable[[], object], rounds: int = 3) -> float:
    """The median of some rounds, in seconds."""
    found: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def refit(variant: Variant) -> None:
    """Judgements that depend on length, difficulty and chance as AlpacaEval's do, with two gamed baselines."""
    rng = np.random.default_rng(0)
    ours, theirs = (rng.lognormal(7, 0.7, ITEMS).astype(int) for _ in range(2))
    difficulty = rng.normal(0, 1, ITEMS)
    gap = np.tanh((theirs - ours) / (theirs - ours).std())
    wins = 1 / (1 + np.exp(-(rng.normal(0, 2, ITEMS) - gap + difficulty)))
    names = [str(i) for i in range(ITEMS)]
    gamed = rng.normal(0, 1, 2 * ITEMS)
    calibration = Calibration(
        dict(zip(names, difficulty.tolist(), strict=True)),
        tuple(names * 2),
        tuple(gamed.tolist()),
        tuple((1 / (1 + np.exp(2 * gamed))).tolist()),
    )
    rows = zip(names, wins.tolist(), ours.tolist(), theirs.tolist(), strict=True)
    length_controlled([Outcome(name, win, a, b, name) for name, win, a, b in rows], variant, calibration)


def sums(folder: Path) -> Path:
    rows = [{"n": i, "q": f"What is {i}+1?", "a": str(i + 1)} for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = f"{{train: {{where: n < {ROWS // 2}}}, test: {{where: n >= {ROWS // 2}}}}}"
    (folder / "sums.yaml").write_text(
        'source: rows.jsonl\nprompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\norigin: "{{ q }}"\n'
        f'reference: "The answer is {{{{ a }}}}."\ngrader: number\nsplits: {splits}\n'
    )
    return folder / "sums.yaml"


def mmpu(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "mmpu.cli", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
