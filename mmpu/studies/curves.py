"""A run's metrics, looked at: live in the terminal, or as curves in PNG and SVG files for papers.

Reads `metrics.jsonl` and `config.yaml` of run folders, nothing else, so a run of another machine will do.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmpu.config import load_yaml
from mmpu.core import UserError
from mmpu.shown import one_line
from mmpu.train.rows import rows_of

BARS = "▁▂▃▄▅▆▇█"
TAIL = 0.1
"""Share of a stage's steps, at its end, that a sensitivity curve takes the mean of."""
FIRST = ("loss", "score", "accuracy", "score_auc", "kl_ref", "entropy", "clip_fraction", "length", "length_drift")
"""Metrics in the order they are shown; the others follow by name."""


@dataclass(frozen=True)
class Run:
    """What a run wrote down."""

    folder: Path
    config: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def stages(self) -> list[str]:
        return list(dict.fromkeys(str(row["stage"]) for row in self.rows))

    def series(self, stage: str, name: str) -> list[tuple[int, float]]:
        """Steps and values of a metric where it was measured."""
        found = [(row["step"], number(row.get(name))) for row in self.rows if row["stage"] == stage]
        return [(step, value) for step, value in found if value is not None]

    def metrics(self, stage: str) -> list[str]:
        names = {n for row in self.rows if row["stage"] == stage for n, v in row.items() if isinstance(v, int | float)}
        names -= {"step"}
        return [n for n in FIRST if n in names] + sorted(names - set(FIRST))


def read(folder: Path) -> Run:
    """Raises:
    UserError: the folder is not a run's, or has no metrics yet.
    """
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    return Run(folder, load_yaml(folder / "config.yaml"), tuple(rows_of(folder / "metrics.jsonl")))


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


# ------------------------------------------------------------------------------------------------------------------
# in the terminal


def spark(values: Sequence[float], width: int = 40) -> str:
    """Values as a row of bars, each the mean of a stretch."""
    size = max(1, math.ceil(len(values) / width))
    means = [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(BARS[int((v - low) / (high - low or 1.0) * (len(BARS) - 1))] for v in means)


def panel(run: Run) -> Any:
    """The newest stage's metrics as a table: last value, least, largest, course."""
    from rich.table import Table
    from rich.text import Text

    stages = run.stages()
    if not stages:
        return f"{run.folder}: no step yet"
    stage = stages[-1]
    last = max(row["step"] for row in run.rows if row["stage"] == stage)
    table = Table(title=Text(one_line(f"{run.folder}, stage {stage}, step {last}")), title_justify="left")
    for column in ("metric", "last", "least", "largest", "course"):
        table.add_column(column, justify="left" if column in ("metric", "course") else "right", no_wrap=True)
    for name in run.metrics(stage):
        values = [value for _, value in run.series(stage, name)]
        if values:
            table.add_row(
                Text(one_line(name)), *(f"{v:.4g}" for v in (values[-1], min(values), max(values))), spark(values)
            )
    return table


def watch(folder: Path, every: float, once: bool, also: Callable[[], object] = lambda: None) -> None:
    """Shows the panel until interrupted, or once.

    Args:
        also: Called at every look.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if once:
        console.print(panel(read(folder)))
        also()
        return
    with Live(panel(read(folder)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(panel(read(folder)), refresh=True)
            also()


# ------------------------------------------------------------------------------------------------------------------
# on paper


def draw(folders: Sequence[Path], out: Path, kind: str = "png") -> list[Path]:
    """Draws a run's convergence and metrics, and, for several runs that differ in one number, how results hang on it.

    Returns:
        The files written.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("curves need matplotlib: pip install 'mmpu[report]'") from None
    matplotlib.use("Agg")
    runs = [read(folder) for folder in folders]
    empty = [str(run.folder) for run in runs if not run.rows]
    if empty:
        raise UserError(f"no metrics yet in {', '.join(empty)}")
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    for run in runs:
        figures[f"{run.folder.name}-convergence"] = _convergence(run)
        figures |= {f"{run.folder.name}-{stage}": _grid(run, stage) for stage in run.stages()}
    knob = differing([run.config for run in runs]) if len(runs) > 1 else None
    if knob is not None:
        figures["sensitivity"] = _sensitivity(runs, knob)
    images: dict[str, bytes] = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=130, bbox_inches="tight")
        images[name] = buffer.getvalue()
    for name, image in images.items():
        (out / f"{name}.{kind}").write_bytes(image)
    return [out / f"{name}.{kind}" for name in images]


def differing(configs: Sequence[Mapping[str, Any]]) -> str | None:
    """The dotted name of the one number in which configs differ, run folders and seeds aside; None if it is not one."""
    flat = [flattened(config) for config in configs]
    names = {n for values in flat for n in values if len({json.dumps(v.get(n), default=str) for v in flat}) > 1}
    names -= {"run", "store", "seed"}
    if len(names) != 1:
        return None
    (name,) = names
    return name if all(isinstance(values.get(name), int | float) for values in flat) else None


def flattened(value: object, prefix: str = "") -> dict[str, object]:
    """Nested settings by their dotted names."""
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in cast(Mapping[object, object], value).items()]
    elif isinstance(value, list):
        items = [(str(i), v) for i, v in enumerate(cast(list[object], value))]
    else:
        return {prefix: value}
    return {n: v for key, each in items for n, v in flattened(each, f"{prefix}.{key}" if prefix else key).items()}


def _figure(rows: int, columns: int, width: float = 4.2, height: float = 2.8) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _convergence(run: Run) -> Any:
    """The loss of each stage, end to end, with a line where one passes into the next; each stage has an axis of its
    own scale."""
    figure, axes = _figure(1, 1, 7.0, 3.2)
    axis, offset = axes[0][0], 0
    for number, stage in enumerate(run.stages()):
        if number:
            axis.axvline(offset, color="grey", linestyle="--", linewidth=1)
            axis = axis.twinx()
        series = run.series(stage, "loss")
        axis.plot([offset + step for step, _ in series], [v for _, v in series], color=f"C{number}", label=stage)
        axis.set_ylabel(f"loss of {stage}", color=f"C{number}")
        offset += max((step for step, _ in series), default=0) + 1
    axes[0][0].set_xlabel("step")
    axes[0][0].set_title(f"{run.folder.name}: convergence of its stages")
    return figure


def _grid(run: Run, stage: str) -> Any:
    names = [n for n in run.metrics(stage) if run.series(stage, n)]
    columns = 4
    figure, axes = _figure(math.ceil(len(names) / columns), columns, 3.2, 2.2)
    for n, axis in enumerate(axes.flat):
        if n >= len(names):
            axis.set_axis_off()
            continue
        series = run.series(stage, names[n])
        axis.plot([step for step, _ in series], [v for _, v in series], linewidth=1)
        axis.set_title(names[n], fontsize=9)
        axis.tick_params(labelsize=7)
    figure.subplots_adjust(hspace=0.6, wspace=0.4)
    return figure


def _sensitivity(runs: Sequence[Run], knob: str) -> Any:
    """Means over the last tenth of the last stage, with standard errors over its steps, against the knob."""
    shown = [n for n in ("accuracy", "score", "kl_ref", "length") if all(r.series(r.stages()[-1], n) for r in runs)]
    if not shown:
        raise UserError("the runs share no metric to compare: accuracy, score, kl_ref or length")
    figure, axes = _figure(1, len(shown))
    ordered = sorted(runs, key=lambda run: float(str(flattened(run.config)[knob])))
    xs = [float(str(flattened(run.config)[knob])) for run in ordered]
    for axis, name in zip(axes[0], shown, strict=True):
        points: list[tuple[float, float]] = []
        for run in ordered:
            values = [v for _, v in run.series(run.stages()[-1], name)]
            last = values[-max(1, round(TAIL * len(values))) :]
            mean = sum(last) / len(last)
            spread = math.sqrt(sum((v - mean) ** 2 for v in last) / max(1, len(last) - 1) / len(last))
            points.append((mean, spread))
        axis.errorbar(xs, [mean for mean, _ in points], [1.96 * s for _, s in points], marker="o", capsize=3)
        axis.set_xlabel(knob)
        axis.set_title(name)
    return figure
