"""Evaluations of what any engine answers: asked once, kept under what it depends on, refused where it cannot be."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from endpoint import Endpoint, Reply, question, said
from mmpu.boards.board_file import read
from mmpu.cli.main import main

ROWS = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"q": f"{i}+1?", "a": str(i + 1)} for i in range(ROWS)]
    Path("rows.json").write_text(json.dumps(rows))
    Path("sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nreference: "{{ a }}"\nsource: rows.json\ngrader: number\n'
        "judge: rule\nbaseline: reference\nsampling: {max_tokens: 10}\n"
    )
    return tmp_path


def evaluated(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["eval", *arguments, "--task", "sums.yaml"])


def adds(_: int, body: dict[str, Any]) -> Reply:
    """Right for the first three."""
    first = int(question(body).split("+")[0])
    return said(*[str(first + 1 if first < 3 else 0)] * body["n"])


def test_an_endpoint_is_a_system_that_is_asked_once(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = adds
    system = f"big=openai:org/tiny@{endpoint.url}"
    for _ in range(2):
        done = evaluated(system)
        assert done.exit_code == 0, done.output
        assert len(endpoint.bodies) == ROWS
    entry = next(e for e in read(Path("leaderboards/sums.rule.json")).entries if e.system.name == "big")
    assert (entry.system.name, entry.system.model, entry.system.weights) == ("big", "org/tiny", "openai:org/tiny")
    assert {body["model"] for body in endpoint.bodies} == {"org/tiny"}
    assert entry.win_rate.rate.value == pytest.approx(0.25), "three ties, three losses"
    evaluated(system, "--temperature", "0.5")
    assert len(endpoint.bodies) == 2 * ROWS, "another sampling, other answers"
    written = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in written if endpoint.url.encode() in p.read_bytes()], "no address is kept"
    assert json.loads(Path("leaderboards/answers.ledger.json").read_text())["answers_calls"] == 2 * ROWS


def test_a_dry_run_says_what_answers_cost_and_asks_nobody(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = adds
    Path("dear.yaml").write_text(
        f"name: openai\nmodel: dear\nurl: {endpoint.url}\nprice: {{input: 2, output: 1000}}\nconcurrency: 1\n"
    )
    before = sorted(folder.rglob("*"))
    done = evaluated("dear=dear.yaml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "system            dear\n" in done.output
    assert f"to ask            {ROWS} prompts, 1 answers each\n" in done.output
    assert "cost              0.06 at most" in done.output
    assert "calls              0" in done.output
    assert not endpoint.bodies
    assert sorted(folder.rglob("*")) == before
    assert evaluated("dear=dear.yaml").exit_code == 0
    again = evaluated("dear=dear.yaml", "--dry-run")
    assert "system            dear" not in again.output
    assert len(endpoint.bodies) == ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x=openai:@http://localhost:1/v1"], "names no model; write x=openai:MODEL@URL"),
        (["x=openai:tiny"], "no endpoint for tiny"),
        (["x=openai:tiny@http://a:b@c/v1"], "password"),
        (["tiny-text", "--engine", "openai"], "LABEL=openai:MODEL@URL"),
        (["x=nothing.yaml"], "no model 'nothing.yaml'"),
        (["x=hf.yaml"], "hf.yaml: hf needs `model`"),
        (["x=replay.yaml"], "path"),
    ],
)
def test_who_cannot_answer_is_refused_before_anything_is_asked(
    folder: Path, arguments: list[str], message: str
) -> None:
    Path("hf.yaml").write_text("name: hf\n")
    Path("replay.yaml").write_text("name: replay\n")
    done = evaluated(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not Path("leaderboards").exists()


@pytest.mark.parametrize("arguments", [["tiny-text", "--engine", "vllm"], ["x=vllm:tiny-text"]])
@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_extra_is_named(folder: Path, arguments: list[str]) -> None:
    done = evaluated(*arguments)
    assert done.exit_code == 2
    assert "pip install 'mmpu[vllm]'" in done.output
