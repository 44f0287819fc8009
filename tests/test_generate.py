"""Collecting answers from the command line: preview, resume after kill −9, failures, and what replay makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from endpoint import Endpoint, Reply, error, question, said
from mmpu.cli.main import main
from mmpu.core import Response, Sampling, UserError
from mmpu.engines.replay import Replay
from mmpu.store.prune import age, size
from mmpu.task.yaml_task import load_task

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task of 30 prompts, of which two are the same."""
    monkeypatch.chdir(tmp_path)
    rows = [{"q": f"{i if i else 1}+1?"} for i in range(30)]
    Path("rows.json").write_text(json.dumps(rows))
    Path("sums.yaml").write_text('prompt: [{user: "{{ q }}"}]\nsource: rows.json\nsampling: {max_tokens: 10}\n')
    return tmp_path


def command(endpoint: Endpoint, *arguments: str, out: str = "o/out.jsonl") -> list[str]:
    keys = ["model=tiny", f"url={endpoint.url}", "retries=1", "price={input: 2, output: 10}"]
    return ["generate", "sums.yaml", *keys, "--engine", "openai", "--out", out, *arguments]


def mmpu(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def echo(_: int, body: dict[str, Any]) -> Reply:
    texts = [f"{question(body)} {k}" for k in range(body["n"])]
    return said(*texts, usage={"prompt_tokens": 4, "completion_tokens": 3 * body["n"]})


def test_what_is_written_is_what_replay_reads(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = echo
    done = mmpu(*command(endpoint, "--n", "2", "--temperature", "0.5", "--limit", "5"))
    assert done.exit_code == 0, done.output
    samples = load_task("sums.yaml").samples("train[:5]")
    rows = [json.loads(line) for line in Path("o/out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [s.id for s in samples], "in the order of the samples"
    replayed = Replay("o/out.jsonl").generate(samples, 2, Sampling())
    assert replayed == [tuple(Response(f"{s.prompt[0].text} {k}") for k in range(2)) for s in samples]
    assert len(endpoint.bodies) == 4, "two of the five prompts are the same"
    assert {(b["n"], b["temperature"], b["max_tokens"]) for b in endpoint.bodies} == {(2, 0.5, 10)}
    assert json.loads(Path("o/out.ledger.json").read_text()) == {
        "engine_cache_hits": 1,
        "engine_calls": 4,
        "engine_requests": 4,
        "engine_tokens_in": 16,
        "engine_tokens_out": 24,
    }
    assert (
        "o/out.jsonl: 5 of 5 prompts answered. Over all starts: asked 4, failed 0, tokens in 16, out 24" in done.output
    )


def test_an_answer_that_was_cut_stays_marked(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: said("half", reason="length")
    mmpu(*command(endpoint, "--limit", "1"))
    assert Replay("o/out.jsonl").generate(load_task("sums.yaml").samples("train[:1]"), 1, Sampling()) == [
        (Response("half", finished=False),)
    ]


def test_a_dry_run_tells_the_cost_and_leaves_nothing(folder: Path, endpoint: Endpoint) -> None:
    before = sorted(folder.rglob("*"))
    done = mmpu(*command(endpoint, "--dry-run", "--n", "2"))
    assert done.exit_code == 0, done.output
    lines = dict(line.split("  ", 1) for line in done.output.splitlines())
    shown = {name: value.strip() for name, value in lines.items()}
    assert shown["prompts"] == "30"
    assert shown["to ask"] == "29 prompts, 2 answers each"
    assert shown["tokens out"] == "580 at most"
    tokens_in = int(shown["tokens in"].split(",")[0])
    assert 29 <= tokens_in <= 58
    assert float(shown["cost"].split()[0]) == pytest.approx((tokens_in * 2 + 580 * 10) / 1e6, abs=0.005)
    assert endpoint.bodies == []
    assert sorted(folder.rglob("*")) == before
    mmpu(*command(endpoint, "--limit", "10"))
    again = mmpu(*command(endpoint, "--dry-run"))
    assert "to ask            20 prompts, 1 answers each" in again.output


def test_failures_are_reported_and_asked_for_again(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda n, body: error(400, "too long") if question(body) in ("3+1?", "4+1?") else echo(n, body)
    done = mmpu(*command(endpoint))
    assert done.exit_code == 1
    assert "28 of 30 prompts answered" in done.output
    assert (
        "2 prompts have no answer; the same command asks for them again. Why:\n  2  HTTP 400: too long" in done.output
    )
    assert len(Path("o/out.jsonl").read_text().splitlines()) == 28
    asked = len(endpoint.bodies)
    endpoint.answer = echo
    done = mmpu(*command(endpoint))
    assert done.exit_code == 0, done.output
    assert "30 of 30 prompts answered. Over all starts: asked 31, failed 2" in done.output
    assert len(endpoint.bodies) == asked + 2


def test_kill_9_costs_only_what_was_on_its_way(folder: Path, endpoint: Endpoint) -> None:
    def slowly(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return echo(n, body)

    endpoint.answer = slowly
    arguments = [sys.executable, "-m", "mmpu.cli", *command(endpoint), "concurrency=2"]
    with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL) as first:
        while len(endpoint.bodies) < 10:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert not Path("o/out.jsonl").exists()
    endpoint.answer = echo
    done = mmpu(*command(endpoint, "concurrency=2"))
    assert done.exit_code == 0, done.output
    assert "30 of 30" in done.output
    assert 29 <= len(endpoint.bodies) <= 29 + 6


def test_a_file_with_other_answers_is_not_overwritten(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = echo
    assert mmpu(*command(endpoint, "--limit", "3")).exit_code == 0
    assert mmpu(*command(endpoint, "--limit", "6")).exit_code == 0, "more of the same"
    content = Path("o/out.jsonl").read_bytes()
    for changed in (["--limit", "2"], ["--temperature", "0"], ["model=other"]):
        done = mmpu(*command(endpoint, *changed))
        assert done.exit_code == 2
        assert "answers something else than was asked for here" in done.stderr
    assert Path("o/out.jsonl").read_bytes() == content
    Path("mine.jsonl").write_text('{"id": "train-1", "output": "mine"}\n')
    assert mmpu(*command(endpoint, out="mine.jsonl")).exit_code == 2


def test_an_engine_may_stand_in_a_file(folder: Path, endpoint: Endpoint) -> None:
    Path("old.jsonl").write_text('{"id": "train-1", "output": "old"}\n')
    fallback = f"{{name: openai, model: tiny, url: '{endpoint.url}'}}"
    Path("e.yaml").write_text(f"name: replay\npath: old.jsonl\nfallback: {fallback}\n")
    endpoint.answer = echo
    done = mmpu(
        "generate", "sums.yaml", "fallback.concurrency=2", "--engine", "e.yaml", "--out", "o.jsonl", "--limit", "2"
    )
    assert done.exit_code == 0, done.output
    outputs = [json.loads(line)["output"] for line in Path("o.jsonl").read_text().splitlines()]
    assert outputs == ["old", "1+1? 0"]
    assert len(endpoint.bodies) == 1


def test_a_model_of_this_machine_answers_and_resumes(folder: Path) -> None:
    def collect(*arguments: str) -> Result:
        done = mmpu("generate", "sums.yaml", "--engine", "hf", "model=tiny-text", "--out", "o.jsonl", *arguments)
        assert done.exit_code == 0, done.output
        return done

    before = sorted(folder.rglob("*"))
    assert "to ask            29 prompts, 2 answers each" in collect("--dry-run", "--n", "2").output
    assert sorted(folder.rglob("*")) == before
    collect("--n", "2", "--limit", "4")
    first = Path("o.jsonl").read_text().splitlines()
    collect("--n", "2", "--limit", "6")
    rows = Path("o.jsonl").read_text().splitlines()
    assert rows[:4] == first
    assert [len(json.loads(row)["outputs"]) for row in rows] == [2] * 6
    assert json.loads(Path("o.ledger.json").read_text())["engine_calls"] == 5, "two of the six prompts are the same"


MISTAKES = {
    "engine": (["--engine", "opnai"], "no engine 'opnai' on the search path; did you mean 'openai'?"),
    "key": (["--engine", "openai", "modle=x"], "engine openai: unknown key 'modle'; did you mean 'model'?"),
    "endpoint": (["--engine", "openai", "model=x"], "no endpoint for x."),
    "hf": (["--engine", "hf", "x=1"], "engine hf: takes one key, `model`"),
    "split": (["--engine", "reference", "--split", "tset"], "has no split 'tset'; did you mean 'test'?"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_costs_one_message_and_no_file(folder: Path, arguments: list[str], message: str) -> None:
    before = sorted(folder.rglob("*"))
    done = mmpu("generate", "sums.yaml", "--out", "o/out.jsonl", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert sorted(folder.rglob("*")) == before


# -----------------------------------------------------------------------------------------------------------------
# mmpu cache


def test_the_cache_is_shown_and_pruned(folder: Path, endpoint: Endpoint) -> None:
    endpoint.answer = echo
    mmpu(*command(endpoint))
    shown = mmpu("cache", "o/store.sqlite")
    assert shown.exit_code == 0, shown.output
    (row,) = [line for line in shown.output.splitlines() if line.startswith("openai:tiny")]
    assert row.split()[1] == "29"
    assert "deleted 0 answers" in mmpu("cache", "o/store.sqlite", "--older-than", "1h").output
    assert "deleted 0 answers" in mmpu("cache", "o/store.sqlite", "--keep", "1MB").output
    assert "holds nothing of 'tiny'; did you mean" in mmpu("cache", "o/store.sqlite", "--model", "tiny").stderr
    assert "deleted 29 answers" in mmpu("cache", "o/store.sqlite", "--model", row.split()[0], "--all").output
    asked = len(endpoint.bodies)
    mmpu(*command(endpoint))
    assert len(endpoint.bodies) == asked + 29
    assert mmpu("cache", "nowhere.sqlite").exit_code == 2
    assert not Path("nowhere.sqlite").exists()


def test_ages_and_sizes_are_read() -> None:
    assert (age("12h"), age("1.5d"), age("2w")) == (43200, 129600, 1209600)
    assert (size("7"), size("1.5 KB"), size("2GiB"), size("500mb")) == (7, 1536, 2 * 2**30, 500 * 2**20)
    for read, text in ((age, "3 months"), (age, ""), (size, "big"), (size, "-1MB")):
        with pytest.raises(UserError, match="cannot read the"):
            read(text)
