"""What an entry's numbers depend on besides the systems: task, data, judge, sampling, versions, commit."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmpu.boards.board import Provenance
from mmpu.core import Sample, Sampling, digest
from mmpu.duel import MARKS, Judge
from mmpu.media import prompt_key
from mmpu.prompts import prompt_hash
from mmpu.task import YamlTask


def provenance_of(task: YamlTask, samples: Sequence[Sample], judge: Judge, sampling: Sampling) -> Provenance:
    rows = [[s.id, prompt_key(s.prompt), s.reference, s.answer] for s in samples]
    return Provenance(
        task_hash=digest(task.written),
        data_hash=digest(rows),
        judge_identity=_identity(judge),
        sampling=dict(asdict(sampling), stop=list(sampling.stop)),
        versions=versions("mmpu", "torch", "transformers", "peft"),
        commit=_commit(),
        judge=judge_of(judge),
    )


def _identity(judge: Judge) -> str:
    """Of the judge as a whole: a reading does not depend on which other orders are asked for, a result does."""
    return judge.identity if judge.orders in (("none",), MARKS) else f"{judge.identity}:{'+'.join(judge.orders)}"


def judge_of(judge: Judge) -> dict[str, str]:
    """Name, model, revision and the prompt as hash and text, as far as a judge has them."""
    prompt = getattr(judge, "prompt", None)
    known = {
        "name": judge.name,
        "model": getattr(getattr(judge, "engine", None), "model", None),
        "revision": getattr(judge, "revision", None),
        "prompt": prompt_hash(Path(prompt)) if prompt else None,
        "text": Path(prompt).read_text(encoding="utf-8") if prompt else None,
    }
    return {key: str(value) for key, value in known.items() if value}


def versions(*packages: str) -> dict[str, str]:
    def one(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {name: one(name) for name in packages}


def _commit() -> str | None:
    """The commit of the checkout that mmpu runs from, marked if it has changes; None outside a checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
