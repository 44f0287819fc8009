"""What is published: the folder of a board and of a run, and what a hub is sent, by a real client to a local server."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner

from endpoint import running
from mmpu.boards import Board, read
from mmpu.cli.main import main
from mmpu.core import UserError
from mmpu.recipes import publishing
from mmpu.recipes.benchmarks import results
from mmpu.recipes.card import card
from mmpu.recipes.origins import licence_of
from mmpu.recipes.runs import contender, weights_of

ROOT = Path(__file__).parent.parent
BOARD = ROOT / "leaderboards/market.rule.json"


class Taker:
    """A hub that takes commits: `files` by path, `made` the repositories."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []
        self.refuses = False
        taker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
                path = urlsplit(self.path).path
                if taker.refuses:
                    self.reply({"error": "You don't have the rights to create a space"}, 403)
                elif path == "/api/repos/create":
                    taker.made.append(json.loads(raw))
                    self.reply({"url": f"http://{self.headers['Host']}/spaces/org/name"})
                elif "/preupload/" in path:
                    files = [f["path"] for f in json.loads(raw)["files"]]
                    self.reply({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
                elif "/commit/" in path:
                    for line in raw.decode().splitlines():
                        item = json.loads(line)
                        if item["key"] == "file":
                            taker.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                    address = f"http://{self.headers['Host']}/spaces/org/name/commit/{'1' * 40}"
                    self.reply({"commitUrl": address, "commitOid": "1" * 40, "commitMessage": "x"})
                else:
                    self.reply({})

            def do_GET(self) -> None:
                self.reply({"id": "org/name", "sha": "1" * 40, "siblings": [], "tags": []})

            def reply(self, content: object, status: int = 200) -> None:
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def taker(monkeypatch: pytest.MonkeyPatch) -> Generator[Taker]:
    from huggingface_hub import HfApi

    made = Taker()
    address = f"http://127.0.0.1:{made.server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=address, token="hf_test"))
    with running(made.server):
        yield made


def mmpu(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_a_board_becomes_a_static_space(taker: Taker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = mmpu("publish", str(BOARD), "--to", "hf://org/name")
    assert done.exit_code == 0, done.output
    assert taker.made[0]["type"] == "space"
    assert taker.made[0]["sdk"] == "static"
    assert {"README.md", "index.html", "market.rule.html", "market.rule.json", "board.schema.json"} <= set(taker.files)
    assert b"sdk: static" in taker.files["README.md"]
    (tmp_path / "got.json").write_bytes(taker.files["market.rule.json"])
    assert read(tmp_path / "got.json") == read(BOARD)
    assert len(json.loads(taker.files["every_eval_ever/market.rule.json"])) == len(read(BOARD).entries) - 1


def test_a_refusal_loses_nothing(taker: Taker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taker.refuses = True
    done = mmpu("publish", str(BOARD), "--to", "hf://org/name")
    assert done.exit_code == 2
    assert "the hub did not take org/name" in done.stderr
    assert (tmp_path / "publish/name/index.html").exists()
    again = mmpu("publish", str(BOARD), "--to", "hf://org/name")
    assert "is not empty" in again.stderr


def test_a_dry_run_sends_nothing(taker: Taker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = mmpu("publish", str(BOARD), "--to", "hf://org/name", "--dry-run")
    assert "would go to the space org/name of the hub" in done.output
    assert "index.html" in done.output
    assert taker.made == []


@pytest.mark.parametrize("to", ["hf://name", "hf://a/b/c", "hf:///b"])
def test_a_repository_has_an_organisation_and_a_name(to: str) -> None:
    with pytest.raises(UserError, match="hf://ORGANISATION/NAME"):
        publishing.repository(to)


def test_a_card_says_how_a_model_came_about() -> None:
    config = {
        "student": {"model": "org/base"},
        "task": "market",
        "seed": 3,
        "teacher": {"name": "replay", "path": "x/anchors.jsonl"},
        "stages": [
            {"name": "sft", "method": "sft", "split": "train[:9]", "optim": {"lr": 1e-5}},
            {"name": "align", "method": {"name": "ldl_grpo", "tau": 1.0}, "split": "train[9:]", "optim": {"lr": 2e-6}},
        ],
    }
    text = card("mine", config, [read(BOARD)])
    front = yaml.safe_load(text.split("---")[1])
    assert front == {"library_name": "transformers", "base_model": "org/base", "tags": ["mmpu", "sft", "ldl_grpo"]}
    assert "| align | ldl_grpo | train[9:] | 2e-06 |" in text
    assert "licence: Apache-2.0" in text
    assert "`replay` (anchors.jsonl)" in text
    assert "**market**, judge `rule`" in text
    assert "no leaderboard yet" in card("mine", config)


def test_a_run_becomes_a_model_that_loads(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "0-sft").mkdir(parents=True)
    shutil.copytree(ROOT / "mmpu/models/tiny-text", run / "0-sft/model")
    (run / "0-sft/student.json").write_text(json.dumps({"base": "model", "adapters": []}))
    stage = {"name": "sft", "method": "sft", "split": "train[:9]", "optim": {"lr": 1e-5}}
    config = {"student": {"model": "tiny-text"}, "task": "market", "seed": 0, "stages": [stage], "run": str(run)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    done = mmpu("publish", str(run), "--to", str(tmp_path / "out"), "--board", str(BOARD))
    assert done.exit_code == 0, done.output
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() > 0
    assert "## Results" in (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load((tmp_path / "out/mmpu.yaml").read_text()) == config
    assert "license: apache-2.0" in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/.eval_results").exists()  # no benchmark takes accuracies of the task market


def test_benchmarks_of_the_hub_take_accuracies(tmp_path: Path) -> None:
    """Of these weights, on the whole split; read back by huggingface_hub."""
    from huggingface_hub import parse_eval_result_entries

    weights = weights_of("tiny-text")
    graded = next(e for e in read(BOARD).entries if e.accuracy is not None)
    mine = replace(graded, system=replace(graded.system, weights=weights))
    others = [replace(mine, split="test[:8]"), graded, replace(mine, accuracy=None)]
    board = Board("gpqa-diamond", "rule", "graded", (*others, mine))
    found = results(weights, [board, replace(board, task="market"), replace(board, task="of another machine")])
    ((name, text),) = found.items()
    (told,) = parse_eval_result_entries(yaml.safe_load(text))
    assert graded.accuracy is not None
    assert (name, told.dataset_id, told.task_id) == ("gpqa-diamond.yaml", "Idavidrein/gpqa", "gpqa_diamond")
    assert told.value == round(100 * graded.accuracy.value, 2)


def test_a_student_tells_where_it_comes_from() -> None:
    origin = contender("base", "tiny-text").origin
    assert (origin.parameters, origin.licence, origin.hub) == (920_192, "apache-2.0", None)
    assert licence_of("org/never-fetched") is None
    assert licence_of("no such folder") is None
