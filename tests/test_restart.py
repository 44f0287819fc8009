"""A run that is killed anywhere and started again is the same run, bit for bit, whatever is trained and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmpu.recipes import training
from mmpu.train.record import Record
from tiny import save

pytestmark = [pytest.mark.numerical, pytest.mark.slow]


class Killed(BaseException):
    """Stands for SIGKILL between two steps."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restart")
    save("qwen2", folder / "model")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2]} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = {
        "source": "rows.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": "{{ q }}"}],
        "reference": "The answer is {{ a }}.",
        "answer": "{{ a }}",
        "grader": "final_answer",
        "splits": {"train": {}, "test": {"part_of": "train"}},
        "sampling": {"max_tokens": 4},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder


def config(place: Path, run: Path, lora: dict[str, Any] | None, *methods: str, **stage: Any) -> Path:
    each = {"split": "train", "prompts_per_step": 2, "steps": 3, "k": 2, "checkpoint_every": 2, **stage}
    scored = {"ppo": {"scorer": "rule"}, "grpo": {"scorer": "rule"}}
    values = {
        "run": str(run),
        "student": {"model": str(place / "model"), "device": "cpu", "lora": lora},
        "task": str(place / "task.yaml"),
        "teacher": "reference",
        "stages": [
            {"name": m, "method": m, **scored.get(m, {}), "optim": {"lr": 1e-3}, "preflight": {"prompts": 0}, **each}
            for m in methods
        ],
    }
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.parent / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {f"{f.parent.parent.name}/{n}": t for f in run.glob("*/*/*.safetensors") for n, t in load_file(f).items()}


def killed_after(monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    written = Record.step

    def dying(self: Record, name: str, at: int, *rest: Any, **more: Any) -> Any:
        found = written(self, name, at, *rest, **more)
        if (name, at) == (stage, step):
            raise Killed
        return found

    monkeypatch.setattr(Record, "step", dying)


CASES: dict[str, tuple[dict[str, Any] | None, tuple[str, ...]]] = {
    "full": (None, ("grpo", "sft")),
    "lora": ({}, ("ppo", "sft")),
    "dora-ema": ({"dora": True}, ("sft", "sdft")),
    "pissa-value": ({"init": "pissa"}, ("sft", "ppo")),
    "olora-saved": ({"init": "olora", "rslora": True, "modules_to_save": ["norm"]}, ("sft", "grpo")),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_before_and_after_a_checkpoint_it_ends_the_same(
    case: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, methods = CASES[case]
    lora = None if lora is None else {"r": 2, "alpha": 4, **lora}
    whole = training.train(str(config(place, tmp_path / "whole", lora, *methods)))
    path = str(config(place, tmp_path / "killed", lora, *methods))
    for step in (0, 2):
        with monkeypatch.context() as patched:
            killed_after(patched, methods[1], step)
            with pytest.raises(Killed):
                training.train(path)
    again = training.train(path)
    first, second = weights(whole), weights(again)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
