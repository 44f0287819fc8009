"""A page of runs: their curves over one another with seeds pooled, the settings in which they differ, what was asked of
teachers, and step by step what the student said.

Reads `metrics.jsonl`, `groups*.jsonl`, `pictures*.jsonl`, `warnings.jsonl`, `ledger.json` and `config.yaml` of run
folders, nothing else, so a run of another machine will do, and one that goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpu import __version__, files
from mmpu.boards import FOLDER, document
from mmpu.core import UserError
from mmpu.recipes.resolved import defaults
from mmpu.statistics import around
from mmpu.store import write_atomically
from mmpu.studies.curves import Run, flattened, read
from mmpu.train.pictures import read as kept
from mmpu.train.rows import rows_of, values

OWN = Path(__file__).parent / "page"
SCRIPTS = (FOLDER / "page.js", FOLDER / "diff.js", OWN / "curves.js", OWN / "rollouts.js", OWN / "run.js")
GROUPS = 20_000
"""Sampled groups that a page holds; of a longer run those of evenly spaced steps."""
APART = ("run", "store", "seed")
"""Settings in which runs that are pooled may differ."""


def write_run_page(folders: Sequence[Path], out: Path) -> Path:
    """Writes the page to `out`.

    Raises:
        UserError: a folder is not a run's, two have one name, or `out` cannot be written.
    """
    names = [folder.name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two runs are called {twice!r}; rename one of their folders, or make two pages")
    runs = [read(folder) for folder in folders]
    settings = [flattened(run.config) for run in runs]
    differ = sorted({n for of in settings for n in of if len({_text(other.get(n)) for other in settings}) > 1})
    labels = [_label(of, differ) for of in settings]
    rollouts = [_groups(folder) for folder in folders]
    numbers = {
        "mmpu": __version__,
        "pictures": [],
        "boards": [],
        "runs": [
            {
                "name": name,
                "label": label,
                "settings": {key: _text(value) for key, value in of.items()},
                "defaults": defaults(run.config),
                "warnings": _warnings(run.folder),
                "ledger": _ledger(run.folder),
                "groups": len(groups),
                "left_out": left_out,
            }
            for name, label, of, run, (groups, left_out) in zip(names, labels, settings, runs, rollouts, strict=True)
        ],
        "differ": differ,
        "stages": list(dict.fromkeys(stage for run in runs for stage in run.stages())),
        "curves": _curves(runs, labels),
    }
    pictures = [path for folder in folders for path in sorted(folder.glob("pictures*.jsonl"))]
    shown = {name: image for path in pictures for name, image in kept(path)}
    texts = {"pictures": [], "named": shown, "groups": [groups for groups, _ in rollouts]}
    write_atomically(out, document(", ".join(names), SCRIPTS, numbers, texts))
    return out


def _label(settings: Mapping[str, object], differ: Sequence[str]) -> str:
    """What tells a run from the others, its seed aside: runs of one label are pooled."""
    told = [f"{key.rsplit('.', 1)[-1]}={_text(settings.get(key))}" for key in differ if key not in APART]
    return ", ".join(told) or "all runs"


def _curves(runs: Sequence[Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    """By stage, metric and label, the points `[step, mean, half an interval or null, runs]`."""
    pools: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        pools.setdefault(label, []).append(run)
    found: list[dict[str, Any]] = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages()):
        for metric in dict.fromkeys(name for run in runs if stage in run.stages() for name in run.metrics(stage)):
            lines = [{"label": label, "points": list(_pooled(pool, stage, metric))} for label, pool in pools.items()]
            lines = [line for line in lines if line["points"]]
            if lines:
                found.append({"stage": stage, "metric": metric, "lines": lines})
    return found


def _pooled(runs: Sequence[Run], stage: str, metric: str) -> Iterator[list[Any]]:
    values: dict[int, list[float]] = {}
    for run in runs:
        for step, value in run.series(stage, metric):
            values.setdefault(step, []).append(value)
    for step in sorted(values):
        mean, reach = around(values[step])
        yield [step, mean, reach if reach is not None and math.isfinite(reach) else None, len(values[step])]


def _groups(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The groups of a run in order of step, and how many were left out so that the page stays small."""
    found = [_group(row, path) for path in sorted(folder.glob("groups*.jsonl")) for row in rows_of(path)]
    found.sort(key=lambda group: group["step"])
    steps = list(dict.fromkeys((group["stage"], group["step"]) for group in found))
    every = math.ceil(len(found) / GROUPS)
    kept = set(steps[::every]) if every > 1 else set(steps)
    shown = [group for group in found if (group["stage"], group["step"]) in kept]
    return shown, len(found) - len(shown)


def _group(group: dict[str, Any], path: Path) -> dict[str, Any]:
    """A group as the page reads it.

    Raises:
        UserError: it is none.
    """
    responses: Any = group.get("responses")
    texts = [r.get("text") for r in responses if isinstance(r, dict)] if isinstance(responses, list) else None
    if texts is None or len(texts) < len(responses) or not all(isinstance(t, str) for t in (group.get("id"), *texts)):
        raise UserError(f"{path}: step {group['step']} of {group['stage']} holds what is no group; restore the file")
    return _finite(group)


def _finite(value: Any) -> Any:
    """Without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ledger(folder: Path) -> dict[str, Any]:
    path = folder / "ledger.json"
    try:
        found = files.value_in(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return _finite(found) if isinstance(found, dict) else {}


def _warnings(folder: Path) -> list[list[Any]]:
    """What training warned of, with how often, in the order in which it came up."""
    path, found = folder / "warnings.jsonl", dict[str, int]()
    try:
        rows = values(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            found[row["text"]] = found.get(row["text"], 0) + 1
    return [[text, count] for text, count in found.items()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
