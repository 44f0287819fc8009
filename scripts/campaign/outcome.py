"""What came of one row of the campaign, and the commands that its arms start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENDS = (0, 1, 2)
"""Exit codes of a command that was not interrupted."""
UNFORESEEN = "this should not have happened"
LONGEST = 10.0
"""Seconds beyond which a refusal is a hang."""


@dataclass(frozen=True)
class Outcome:
    """Trials of one kind, and those that went wrong, each in words."""

    what: str
    trials: int
    failures: list[str] = field(default_factory=list[str])
    note: str = ""


def environment(**more: str) -> dict[str, str]:
    """Of a command that is started: this checkout, one thread, no network."""
    known = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **known, **more}


def mmpu(*arguments: str) -> list[str]:
    """The command line of mmpu."""
    return [sys.executable, "-m", "mmpu.cli", *arguments]


def start(arguments: Sequence[str], folder: Path, **more: str) -> subprocess.Popen[str]:
    """A command, its output kept."""
    return subprocess.Popen(
        mmpu(*arguments), cwd=folder, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def complaint(code: int, output: str, allowed: Collection[int]) -> str | None:
    """Why a command's end is a failure; None if it is one of those that are allowed."""
    if "Traceback (most recent call last)" in output or UNFORESEEN in output:
        return f"unforeseen: {output.strip()[-400:]}"
    if code not in allowed:
        return f"exit {code}: {output.strip().splitlines()[-1][:200] if output.strip() else 'no word'}"
    return None
