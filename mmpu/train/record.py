"""What a run writes down: metrics and groups as JSON lines, the ledger, trackers, and what the user sees meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmpu.core import Group, Response, Task
from mmpu.learning import Row
from mmpu.prompts import question
from mmpu.shown import visible
from mmpu.store import Ledger, write_atomically
from mmpu.train.pictures import Pictures
from mmpu.train.rows import lines_of
from mmpu.train.signals import Signals

SHOWN = ("loss", "kl_target", "nll_per_token", "score", "accuracy", "length")
"""Metrics beside the progress bar."""
SILENCE = 60.0
"""Seconds after which a line is due where there is no terminal."""


class Record:
    """The written side of a run. Every process may call it; files are one per process or written by the main one."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        ledger: Ledger,
        task: Task,
        signals: Signals | None = None,
        thumbnail: Callable[[str], str] | None = None,
    ) -> None:
        """Args:
        thumbnail: Makes small copies of pictures, to be kept; None keeps their names alone.
        """
        self.folder = folder
        self.accelerator = accelerator
        self.ledger = ledger
        self.task = task
        self.signals = signals or Signals(accelerator.num_processes > 1)
        self.console = Console(stderr=True)
        rank = accelerator.process_index
        self.metrics_file = folder / "metrics.jsonl"
        self.groups_file = folder / (f"groups.{rank}.jsonl" if rank else "groups.jsonl")
        name = f"pictures.{rank}.jsonl" if rank else "pictures.jsonl"
        self.pictures = Pictures(folder / name, thumbnail) if thumbnail else None

    def rewind(self, stage: str, step: int) -> None:
        """Forgets what was written at or after `step` of the stage: it is about to happen again."""
        files = [self.groups_file, *([self.metrics_file] if self.accelerator.is_main_process else [])]
        for path in files:
            if not path.exists():
                continue
            kept = [line for line, row in lines_of(path) if not (row["stage"] == stage and row["step"] >= step)]
            write_atomically(path, "".join(line + "\n" for line in kept))

    def step(
        self,
        stage: str,
        step: int,
        sums: Mapping[str, float],
        means: Mapping[str, float],
        groups: Sequence[Group],
        rows: Sequence[Sequence[Row]],
        dropped: Sequence[Group] = (),
    ) -> dict[str, float]:
        """Writes a step down. `sums` add up over processes, `means` are averaged.

        Args:
            dropped: Groups that were sampled and not trained on.

        Returns:
            The metrics over all processes.
        """
        metrics = self._gather(sums, means)
        self._add_up_ledgers()
        with self.groups_file.open("a", encoding="utf-8") as file:
            trained = [(group, self._group(group, made)) for group, made in zip(groups, rows, strict=True)]
            others = [(group, {**self._group(group, []), "dropped": True}) for group in dropped]
            for group, written in [*trained, *others]:
                if group.responses or group.teacher_responses:
                    line = {"stage": stage, "step": step, **written}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self.pictures is not None:
            named = ((_short(image), image) for group in (*groups, *dropped) for image in group.sample.images)
            self.pictures.keep(named)
        if self.accelerator.is_main_process:
            self._write({"stage": stage, "step": step, **metrics})
            self.ledger.save()
        self.accelerator.log({f"{stage}/{name}": value for name, value in metrics.items()}, step=step)
        return metrics

    def refused(self, stage: str, step: int, rows: Sequence[Row]) -> None:
        """Writes down which samples spoiled an update."""
        rank = self.accelerator.process_index
        with (self.folder / (f"refused.{rank}.jsonl" if rank else "refused.jsonl")).open("a", encoding="utf-8") as file:
            for row in rows:
                written = {"id": row.sample.id, "text": row.response.raw, "weight": row.weight}
                file.write(json.dumps({"stage": stage, "step": step, **written}, ensure_ascii=False) + "\n")

    def preflight(self, stage: str, step: int, found: Mapping[str, float]) -> None:
        if found and self.accelerator.is_main_process:
            self._write({"stage": stage, "step": step, **{f"preflight_{k}": v for k, v in found.items()}})
            listed = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            self.say(f"pre-flight of {stage} at step {step}: {listed}")

    def say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            self.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Says a warning, and keeps it for the run's page."""
        self.say(f"warning: {text}")
        if self.accelerator.is_main_process:
            with (self.folder / "warnings.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def progress(self, stage: str, done: int, total: int) -> Generator[Callable[[int, Mapping[str, float]], None]]:
        """A progress bar on a terminal; elsewhere a line for the first step, every tenth part, and every minute."""
        live = self.accelerator.is_main_process and self.console.is_terminal
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not live,
        )
        began = last = time.monotonic()
        with bar:
            handle = bar.add_task(stage, total=total, completed=done, note="")

            def advance(step: int, metrics: Mapping[str, float]) -> None:
                nonlocal last
                note, now = _note(metrics), time.monotonic()
                bar.update(handle, completed=step, note=note)
                due = step in (done + 1, total) or step % max(1, total // 10) == 0 or now - last > SILENCE
                if not live and due:
                    last, left = now, (now - began) / (step - done) * (total - step)
                    self.say(f"{stage} {step}/{total} {note}, {_clock(now - began)} gone, {_clock(left)} to go")

            yield advance

    def _gather(self, sums: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
        own = (dict(sums), dict(means), self.signals.received)
        everyone = cast(list[tuple[dict[str, float], dict[str, float], int]], gather_object([own]))
        self.signals.agreed = max(number for _, _, number in everyone)
        metrics: dict[str, float] = {}
        for name in {n: None for s, _, _ in everyone for n in s}:
            metrics[name] = sum(s.get(name, 0.0) for s, _, _ in everyone)
        for name in {n: None for _, m, _ in everyone for n in m}:
            values = [m[name] for _, m, _ in everyone if name in m and not math.isnan(m[name])]
            metrics[name] = sum(values) / len(values) if values else math.nan
        return metrics

    def _add_up_ledgers(self) -> None:
        """Moves what the other processes have counted since the last time into the main one's ledger."""
        everyone = cast(list[dict[str, int]], gather_object([dict(self.ledger.counts)]))
        if not self.accelerator.is_main_process:
            self.ledger.counts.clear()
            return
        for counts in everyone[1:]:
            self.ledger.add(**counts)

    def _write(self, row: Mapping[str, Any]) -> None:
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _group(self, group: Group, rows: Sequence[Row]) -> dict[str, Any]:
        weights = {id(row.response): row.weight for row in rows}
        scores: Sequence[float] = group.scores or (math.nan,) * len(group.responses)

        parts = group.parts or ({},) * len(group.responses)

        def written(response: Response, score: float, made_of: Mapping[str, float]) -> dict[str, Any]:
            known: dict[str, Any] = {"parts": {n: _number(v) for n, v in made_of.items()}} if made_of else {}
            if response.logp:
                known["logp"] = sum(response.logp)
            return known | {
                "text": response.raw,
                "tokens": len(response.tokens or ()),
                "finished": response.finished,
                "score": _number(score),
                "weight": weights.get(id(response)),
                "grade": self.task.grade(group.sample, response.text),
            }

        result: dict[str, Any] = {
            "id": group.sample.id,
            "prompt": question(group.sample.prompt),
            "anchor": group.anchor,
            "anchor_score": _number(group.anchor_score),
            "responses": [written(r, s, p) for r, s, p in zip(group.responses, scores, parts, strict=True)],
        }
        if group.anchor is not None:
            result["anchor_finished"] = group.anchor_finished
        if group.sample.images:
            result["images"] = [_short(image) for image in group.sample.images]
        if group.context is not None:
            result["context"] = question(group.context.prompt)
        if group.teacher_responses:
            result["teacher_responses"] = [written(r, math.nan, {}) for r in group.teacher_responses]
        return result | ({"notes": dict(group.notes)} if group.notes else {})


def _note(metrics: Mapping[str, float]) -> str:
    """A step's metrics in a few words."""
    said = [f"{name} {metrics[name]:.3f}" for name in SHOWN if name in metrics]
    said += [f"lr {metrics['lr']:.2g}"] if "lr" in metrics else []
    if metrics.get("seconds_update"):
        said.append(f"{metrics.get('tokens', 0) / metrics['seconds_update']:,.0f} tokens/s")
    return " ".join(said)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _short(image: str) -> str:
    """An image's name; a picture that is itself the name, by its content."""
    return f"sha256:{hashlib.sha256(image.encode()).hexdigest()[:16]}" if image.startswith("data:") else image
