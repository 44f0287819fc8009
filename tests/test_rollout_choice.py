"""`rollout: auto`: vLLM where it and a GPU are there and the run lets it sample, else in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpu.recipes import rollout_choice, run_config

HERE: dict[str, Any] = {
    "run": "runs/x",
    "student": {"model": "tiny-text"},
    "task": "market",
    "stages": [{"name": "one", "method": "grpo", "scorer": "rule", "split": "train[:8]"}],
}
PBSD = [{"name": "one", "method": "pbsd", "split": "train[:8]"}]


@pytest.mark.parametrize(
    ("installed", "gpu", "processes", "changes", "chosen"),
    [
        (True, True, "1", {}, "vllm"),
        (True, True, "1", {"student": {"model": "tiny-text", "lora": {"r": 4, "alpha": 8}}}, "vllm"),
        (False, True, "1", {}, "hf"),
        (True, False, "1", {}, "hf"),
        (True, True, "2", {}, "hf"),
        (True, True, "1", {"student": {"model": "tiny-text", "device": "cpu"}}, "hf"),
        (True, True, "1", {"student": {"model": "tiny-text", "lora": {"r": 4, "alpha": 8, "dora": True}}}, "hf"),
        (True, True, "1", {"stages": PBSD}, "hf"),
        (True, True, "1", {"rollout": "hf"}, "hf"),
    ],
)
def test_what_samples_follows_from_what_is_there(
    monkeypatch: pytest.MonkeyPatch, installed: bool, gpu: bool, processes: str, changes: dict[str, Any], chosen: str
) -> None:
    monkeypatch.setattr(rollout_choice, "find_spec", lambda _: Path() if installed else None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert run_config.read({"rollout": "auto", **HERE, **changes}, "here").rollout.name == chosen
