"""Commands at the same time: boards lose no row, and a run has one master."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml

from scripts.campaign.outcome import Outcome, complaint, start

ROWS = 12
AT_ONCE = 4


def run(folder: Path, seed: int, scale: float) -> list[Outcome]:
    return [_boards(folder, seed, max(AT_ONCE, round(50 * scale))), _runs(folder)]


def _boards(folder: Path, seed: int, count: int) -> Outcome:
    rng = random.Random(seed)
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"q": f"What is {i}?", "a": str(i)}) + "\n" for i in range(ROWS))
    )
    task = {
        "source": "rows.jsonl",
        "prompt": [{"user": "{{ q }}"}],
        "answer": "{{ a }}",
        "grader": "number",
        "splits": {"test": {}},
    }
    (folder / "sums.yaml").write_text(yaml.safe_dump(task))
    names = [f"s{n}" for n in range(count)]
    for name in ["base", *names]:
        rows = [{"id": f"test-{i + 1}", "output": str(i if rng.random() < 0.7 else -1)} for i in range(ROWS)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failures: list[str] = []
    for at in range(0, count, AT_ONCE):
        running = {
            name: start(
                [
                    "eval",
                    f"{name}={name}.jsonl",
                    "--baseline",
                    "base=base.jsonl",
                    "--task",
                    "sums.yaml",
                    "--judge",
                    "rule",
                ],
                folder,
            )
            for name in names[at : at + AT_ONCE]
        }
        for name, process in running.items():
            output = "".join(process.communicate())
            if said := complaint(process.returncode, output, (0,)):
                failures.append(f"{name}: {said}")
    board = json.loads((folder / "leaderboards/sums.rule.json").read_text())
    lost = set(names) - {entry["system"]["name"] for entry in board["entries"]}
    failures += [f"{name} is not on the board" for name in sorted(lost)]
    return Outcome(
        f"{count} evaluations publish to one board, {AT_ONCE} at once", count, failures, f"{count - len(lost)} rows"
    )


def _runs(folder: Path) -> Outcome:
    stage = {"name": "sft", "method": "sft", "split": "train[:60]", "prompts_per_step": 4, "steps": 40}
    values = {
        "run": str(folder / "run"),
        "student": {"model": "tiny-text"},
        "task": "market",
        "teacher": "reference",
        "stages": [stage],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    both = [start(["train", "run.yaml"], folder) for _ in range(2)]
    ended = [("".join(process.communicate()), process.returncode) for process in both]
    codes = sorted(code for _, code in ended)
    failures = [said for output, code in ended if (said := complaint(code, output, (0, 2)))]
    if codes not in ([0, 0], [0, 2]):
        failures.append(f"two trainings of one run ended with {codes}")
    refused = [output for output, code in ended if code == 2]
    failures += [f"the refusal names no holder: {output[-200:]}" for output in refused if "process" not in output]
    return Outcome("two trainings of one run", 1, failures, f"exit {codes}")
