"""`mmpu.Run`: what training left in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpu.api.shown import frame, html
from mmpu.api.student import Student
from mmpu.config import Values, load_yaml
from mmpu.core import UserError
from mmpu.recipes import runs
from mmpu.train.rows import rows_of

SHOWN = ("loss", "accuracy", "score", "length", "lr")
"""Metrics of a run's table."""


class Run:
    """A run's folder: its config, its metrics, its students.

    Raises:
        UserError: there is no run in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").is_file():
            raise UserError(f"{self.folder} holds no run: there is no config.yaml in it")

    @property
    def config(self) -> Values:
        """The config with every default spelled out."""
        return load_yaml(self.folder / "config.yaml")

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that are done."""
        done = {path.parent.name for path in self.folder.glob("*/student.json")}
        return tuple(s["name"] for i, s in enumerate(self.config["stages"]) if f"{i}-{s['name']}" in done)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A mapping per step, with `stage` and `step`; losses in nats, lengths in tokens, times in seconds."""
        return list(rows_of(self.folder / "metrics.jsonl"))

    def student(self, stage: str | None = None, *, trust: bool = False) -> Student:
        """The student after a stage; None takes the last one that is done.

        Raises:
            UserError: no stage is done, or none of this name.
        """
        if stage is None:
            return Student(runs.last_stage(self.folder), trust=trust)
        names = [s["name"] for s in self.config["stages"]]
        if stage not in self.stages:
            raise UserError(f"{self.folder}: no stage {stage!r} is done; done are {', '.join(self.stages) or 'none'}")
        return Student(self.folder / f"{names.index(stage)}-{stage}", trust=trust)

    def report(self, out: str | Path | None = None) -> Path:
        """Writes the run's page; returns where it is."""
        from mmpu.studies.run_page import write_run_page

        return write_run_page([self.folder], Path(out) if out else self.folder / "report/report.html")

    def to_pandas(self) -> Any:
        """A row per step, a column per metric."""
        return frame(self.metrics)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, done: {', '.join(self.stages) or 'nothing'})"

    def _repr_html_(self) -> str:
        rows = [row for row in self.metrics if "loss" in row]
        last = {row["stage"]: row for row in rows}
        names = [name for name in SHOWN if any(name in row for row in last.values())]
        cells = [[stage, row["step"] + 1, *(row.get(name) for name in names)] for stage, row in last.items()]
        return html(f"Run {self.folder}", ["stage", "steps", *names], cells)
