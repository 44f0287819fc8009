"""lm-eval both ways, with the extra installed: our tasks get the same scores there, its report comes back whole."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from mmpu.core import UserError
from mmpu.evaluation import lm_eval as harness

WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}


def questions() -> list[dict[str, str]]:
    names = list(WORDS)
    return [
        {"q": f"Ann has {a} apples and buys {b} more. How many apples has Ann?", "a": names[WORDS[a] + WORDS[b] - 1]}
        for a in names[:4]
        for b in names[:3]
    ]


def sums(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()))
    values = {
        "about": "Sums in words.",
        "source": "rows.jsonl",
        "prompt": [{"user": "{{ q }}"}],
        "reference": "{{ a }}",
        "answer": "{{ a }}",
        "grader": "final_answer",
        "splits": {"test": {}},
        "sampling": {"temperature": 0.0, "max_tokens": 12},
        "judge": "rule",
        "baseline": "reference",
    }
    (folder / "sums.yaml").write_text(yaml.safe_dump(values))
    return folder / "sums.yaml"


def test_an_export_holds_the_samples_and_calls_our_grader(tmp_path: Path) -> None:
    harness.export([str(sums(tmp_path))], tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/mmpu_sums.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["answer"]) for row in rows] == [(row["q"], row["a"]) for row in questions()]
    assert harness.grade(rows[0], ["The answer is two."]) == {"grade": 1}
    assert harness.grade(rows[0], ["The answer is six."]) == {"grade": 0}
    assert (tmp_path / "out/mmpu_grade.py").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("shapes", "have pictures or several turns"), ("stories", "no task 'stories'")],
)
def test_what_lm_eval_cannot_hold_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        harness.export([name], tmp_path)


CODE = """
import sys
from functools import partial
from pathlib import Path
from mmpu.cli.main import main
from mmpu.evaluation import lm_eval as harness
from mmpu.recipes import evaluation as assess

whole = harness.run
harness.run = partial(whole, include=Path("out"))
assess.evaluate(assess.EvalOptions(("ours=tiny-text",), "sums.yaml", folder="ours", lm_eval=("mmpu_sums",)))
harness.run = whole
main(sys.argv[1:])
"""
"""An evaluation with our task as lm-eval runs it, and one with a task of its own."""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In one process of its own, since lm-eval, which takes long to import, warns and prints at will."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    folder = tmp_path_factory.mktemp("harness")
    harness.export([str(sums(folder))], folder / "out")
    rows = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(12)]
    (folder / "gsm").mkdir()
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        (folder / f"gsm/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    systems = ["eval", "base=tiny-text", "--task", "sums.yaml", "--baseline", "reference", "--limit", "4"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, *systems, "--lm-eval", "gsm8k", "--data", "gsm8k=gsm"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def entries(path: Path) -> dict[str, Any]:
    return {entry["system"]["name"]: entry for entry in json.loads(path.read_text())["entries"]}


@pytest.mark.slow
def test_scores_are_equal_and_land_in_the_entry(evaluated: Path) -> None:
    found = entries(evaluated / "ours/sums.rule.json")
    ours = found["ours"]
    assert ours["lm_eval"]["results"]["mmpu_sums"]["grade,none"] == pytest.approx(ours["accuracy"]["value"])
    assert ours["lm_eval"]["versions"] == {"mmpu_sums": 1.0}
    assert ours["lm_eval"]["hashes"].keys() == {"mmpu_sums"}
    assert ours["lm_eval"]["lm_eval"]
    assert found["reference"]["lm_eval"] == {}


@pytest.mark.slow
def test_lm_eval_reads_local_files_in_the_hub_s_place(evaluated: Path) -> None:
    """Its own GSM8K, offline, beside a task of ours."""
    found = entries(evaluated / "leaderboards/sums.rule.json")["base"]["lm_eval"]
    assert found["n-samples"] == {"gsm8k": {"original": 6, "effective": 4}}
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= found["results"]["gsm8k"].keys()


def test_what_lm_eval_has_no_number_for_is_null() -> None:
    report = {"results": {"sums": {"acc": 1.0, "acc_stderr": math.nan, "deep": [math.inf, "N/A", 3]}}}
    assert harness.finite(report) == {"results": {"sums": {"acc": 1.0, "acc_stderr": None, "deep": [None, "N/A", 3]}}}
