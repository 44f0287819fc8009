"""Runs that are killed at random moments end bitwise where the run that nobody disturbed ends."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import yaml

from scripts.campaign.outcome import Outcome, start

SETTINGS: dict[str, dict[str, Any]] = {
    "sft, ldl_grpo": {"stages": ["sft", "ldl_grpo"]},
    "LoRA": {"student": {"lora": {"r": 4, "alpha": 8}}, "stages": ["sft", "ldl_grpo"]},
    "EMA teacher": {"stages": ["sdft"]},
    "value head": {"stages": ["ppo"]},
}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "ldl_grpo": {"method": "ldl_grpo", "scorer": "rule", "k": 3},
    "sdft": {"method": "sdft"},
    "ppo": {"method": "ppo", "scorer": "rule"},
}
STEPS, KILLS = 6, 8


def run(folder: Path, seed: int, scale: float) -> list[Outcome]:
    rng = random.Random(seed)
    return [_setting(folder / str(i), name, rng, scale) for i, name in enumerate(SETTINGS)]


def _setting(folder: Path, name: str, rng: random.Random, scale: float) -> Outcome:
    folder.mkdir(parents=True)
    whole, seconds = _finished(folder, name, "whole")
    wanted = max(1, round(KILLS * scale))
    failures: list[str] = []
    kills = 0
    for _ in range(4 * wanted):  # a run may end before it is killed
        if kills == wanted:
            break
        process = start(["train", str(_config(folder, name, "killed"))], folder)
        time.sleep(rng.uniform(0.2, 1.1) * seconds)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        elif process.returncode:
            failures.append(
                f"{name}: the run ended by itself with {process.returncode}: {process.communicate()[1][-300:]}"
            )
        process.communicate()
    ended, _ = _finished(folder, name, "killed")
    failures += [f"{name}: {what} differs after {kills} kills" for what in whole if whole[what] != ended.get(what)]
    return Outcome(
        f"{name}: {kills} kills of a run",
        kills,
        failures,
        "weights, metrics, groups, ledger bitwise equal" if not failures else "",
    )


def _config(folder: Path, name: str, run_name: str) -> Path:
    setting = SETTINGS[name]
    stages = [
        {
            "name": key,
            "split": "train[:60]",
            "prompts_per_step": 4,
            "steps": STEPS,
            "checkpoint_every": 2,
            **METHODS[key],
        }
        | {"sampling": {"max_tokens": 12}}
        for key in setting["stages"]
    ]
    values = {
        "run": str(folder / run_name),
        "store": str(folder / run_name / "store.sqlite"),
        "student": {"model": "tiny-text", **setting.get("student", {})},
        "task": "market",
        "teacher": "reference",
        "stages": stages,
    }
    path = folder / f"{run_name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _finished(folder: Path, name: str, run_name: str) -> tuple[dict[str, str], float]:
    """What a run that is let alone leaves behind, and the seconds that it took."""
    begun = time.monotonic()
    process = start(["train", str(_config(folder, name, run_name))], folder)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name} cannot be run at all: {errors[-500:]}")
    place = folder / run_name
    weights = sorted(p for p in place.glob("*/**/*.safetensors") if "step-" not in str(p))
    found = {str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest() for p in weights}
    for file in ("metrics.jsonl", "groups.jsonl"):
        found[file] = _lines(place / file)
    ledger = place / "ledger.json"
    found["ledger"] = ledger.read_text() if ledger.exists() else ""
    return found, time.monotonic() - begun


def _lines(path: Path) -> str:
    """A file of rows without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [{k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in rows]
    return json.dumps(kept, sort_keys=True)
