"""A disk that fills up: a small tmpfs where one may be mounted, else a limit on the size of files."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path

import yaml

from scripts.campaign.outcome import ENDS, Outcome, complaint, environment, mmpu

SIZES = (1, 3, 6, 9, 14)
"""MiB."""


def run(folder: Path, seed: int, scale: float) -> list[Outcome]:
    failures: list[str] = []
    sizes = SIZES[: max(1, round(len(SIZES) * min(1.0, scale)))]
    note = ""
    for size in sizes:
        place = folder / f"{size}"
        place.mkdir()
        with _small(place, size) as how:
            note = how
            failures += [f"{size} MiB: {said}" for said in _trained(place, size, how)]
    return [Outcome("training and evaluating on a full disk", len(sizes), failures, note)]


def _trained(place: Path, size: int, how: str) -> list[str]:
    stage = {
        "name": "sft",
        "method": "sft",
        "split": "train[:60]",
        "prompts_per_step": 4,
        "steps": 4,
        "checkpoint_every": 1,
    }
    values = {
        "run": "run",
        "student": {"model": "tiny-text"},
        "task": "market",
        "teacher": "reference",
        "stages": [stage],
    }
    (place / "run.yaml").write_text(yaml.safe_dump(values))
    limit = [] if how == "tmpfs" else ["prlimit", f"--fsize={size * 2**20}"]
    found: list[str] = []
    evaluation = [
        "eval",
        "base=tiny-text",
        "--baseline",
        "reference",
        "--task",
        "market",
        "--judge",
        "rule",
        "--limit",
        "20",
    ]
    for arguments in (["train", "run.yaml"], evaluation):
        done = subprocess.run(
            [*limit, *mmpu(*arguments)], cwd=place, env=environment(HOME=str(place)), capture_output=True, text=True
        )
        if said := complaint(done.returncode, done.stdout + done.stderr, ENDS):
            found.append(f"{arguments[0]}: {said}")
    return found


@contextlib.contextmanager
def _small(place: Path, size: int) -> Generator[str]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        yield "files limited in size; no tmpfs may be mounted here"
        return
    try:
        yield "tmpfs"
    finally:
        subprocess.run(["umount", str(place)], check=True)
