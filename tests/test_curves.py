"""Metrics looked at: the panel, the figures, the one number in which runs differ; and the alarms of a stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mmpu.cli.main import main
from mmpu.core import UserError
from mmpu.studies import curves
from mmpu.train import alarms
from mmpu.train.stage_config import StageConfig


def run(folder: Path, tau: float = 1.2, steps: int = 20, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    stages = [{"name": "sft", "method": "sft"}, {"name": "align", "method": {"name": "ldl_grpo", "label_tau": tau}}]
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": str(folder), "seed": seed, "stages": stages}))
    rows: list[dict[str, Any]] = [{"stage": "sft", "step": s, "loss": 2 - s / 10} for s in range(5)]
    rows += [
        {"stage": "align", "step": s, "loss": 1 / (s + 1), "accuracy": 0.5 + s * tau / 100, "score_auc": float("nan")}
        for s in range(steps)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "align", "st'  # a line being written
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_the_panel_shows_the_newest_stage(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["watch", str(run(tmp_path / "a")), "--once"])
    assert done.exit_code == 0
    assert re.search(r"stage align, step 19", done.output)
    assert re.search(r"accuracy\s+│\s+0\.728\s+│\s+0\.5\s+│\s+0\.728\s+│\s+▁", done.output)
    assert done.output.index("loss") < done.output.index("accuracy")
    assert "score_auc" not in done.output


def test_sparks() -> None:
    assert curves.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert curves.spark([2.0] * 100) == "▁" * 34
    assert curves.spark([]) == ""


def test_a_report_draws_convergence_metrics_and_sensitivity(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    runs = [run(tmp_path / f"tau-{tau}", tau, seed=i) for i, tau in enumerate((0.6, 1.2, 1.5))]
    written = curves.draw(runs, tmp_path / "report")
    assert {"tau-0.6-convergence.png", "tau-1.2-align.png", "sensitivity.png"} <= {path.name for path in written}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert b"<svg" in curves.draw(runs[:1], tmp_path / "report", "svg")[0].read_bytes()


def test_the_one_number_in_which_runs_differ(tmp_path: Path) -> None:
    configs = [curves.read(run(tmp_path / str(tau), tau)).config for tau in (0.6, 1.2)]
    assert curves.differing(configs) == "stages.1.method.label_tau"
    assert curves.differing([*configs, {**configs[0], "task": "other"}]) is None
    assert curves.differing([configs[0], configs[0]]) is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["watch", str(tmp_path), "--once"])
    assert done.exit_code == 2
    assert "no config.yaml" in done.output


# ------------------------------------------------------------------------------------------------------------ alarms


class Notes:
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def watched(rows: list[dict[str, float]], **knobs: Any) -> tuple[dict[str, Any], list[str]]:
    config, state, notes = StageConfig("x", "sft", "train", **knobs), dict(alarms.START), Notes()
    for row in rows:
        row = {"unusable_groups": 0.0, **row}
        row |= alarms.drift(state, row)
        state = alarms.watch(config, state, row, notes)
    return state, notes.warned


def test_reward_hacking_is_noticed() -> None:
    """Score up, accuracy down over three windows after the first; noise within windows does not matter."""

    def course(score: float, accuracy: float) -> list[dict[str, float]]:
        noise = (0.05, -0.05)
        return [{"score": 0.5 + score * i + noise[i % 2], "accuracy": 0.5 + accuracy * i} for i in range(16)]

    knobs = {"hacking_window": 4, "hacking_rises": 3}
    assert any("please the scorer" in text for text in watched(course(0.02, -0.02), **knobs)[1])
    for harmless in (course(0.02, 0.02), course(-0.02, -0.02), course(0.02, -0.02)[:15]):
        assert watched(harmless, **knobs)[1] == []


def test_drift_and_memory() -> None:
    state, warned = watched([{"length": 10.0, "score": 0.0}, {"length": 16.0, "score": 1.0}])
    assert state["first_length"] == 10
    assert state["mean_score"] == pytest.approx(0.1)
    assert warned == ["stage x: response length moved by +60% since the stage's start"]


def test_too_many_unusable_groups_stop_the_stage() -> None:
    with pytest.raises(UserError, match="60% of the groups"):
        watched([{"unusable_groups": 0.6}])
    assert watched([{"skipped_groups": 1.0}])[1], "skipped for want of a signal: warned about, not stopped"
