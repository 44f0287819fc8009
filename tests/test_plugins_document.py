"""docs/plugins.md, followed to the letter by a newcomer: what it shows is written down, plugged in and used, as a
folder and as an installed package."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

import apart
from conftest import ROOT
from endpoint import Endpoint, weighed
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from tiny import VIEW, image_model, text_shape

TEXT = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
KINDS = {"tasks", "judges", "configs", "graders", "engines", "scorers", "methods", "families", "formats"}


def written() -> Iterator[tuple[str, str]]:
    """The files of `mine/` that the document shows."""
    for _, block in BLOCKS:
        first, _, rest = block.partition("\n")
        if found := re.fullmatch(r"# mine/(\S+?)(, without this line)?", first):
            yield found[1], rest if found[2] else block


FILES = dict(written())
ANCHORS = next(block for _, block in BLOCKS if "anchors.jsonl" in block)
PROJECT = tomllib.loads(next(block for kind, block in BLOCKS if kind == "toml"))


def lay_out(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_every_block_is_used_and_every_kind_is_shown() -> None:
    assert len(FILES) + len((ANCHORS, PROJECT)) == len(BLOCKS)
    assert {name.partition("/")[0] for name in FILES} == KINDS


@pytest.fixture(params=["folder", "package"])
def plugged(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has plugged in what the document shows."""
    if request.param == "folder":
        return {"MMPU_PATH": str(lay_out(tmp_path / "mine")), "PYTHONPATH": str(ROOT)}
    site, project = tmp_path / "site", PROJECT["project"]
    ((name, package),) = project["entry-points"]["mmpu.plugins"].items()
    (lay_out(site / package) / "__init__.py").touch()
    info = site / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[mmpu.plugins]\n{name} = {package}\n")
    return {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


COMMANDS = """
import json, sys, warnings
from mmpu.cli.main import main
warnings.simplefilter("error")
for arguments in json.loads(sys.argv[1]):
    print("$", *arguments, flush=True)
    main(arguments, standalone_mode=False)
"""


def mmpu(folder: Path, environment: dict[str, str], *commands: list[str]) -> str:
    """What the commands say, one after the other in one process; each must succeed."""
    with contextlib.chdir(folder):
        status = apart.run(COMMANDS, [json.dumps(commands)], folder / "said", **environment)
    said = (folder / "said").read_text()
    assert status == 0, said
    return said


def board(path: Path) -> dict[str, Any]:
    return {entry["system"]["name"]: entry for entry in json.loads(path.read_text())["entries"]}


def test_tasks_graders_and_judges(plugged: dict[str, str], tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _, body: weighed({"T": 0.9, "A": 0.05, "B": 0.05})
    answers = {"test-3": "Nairobi", "test-4": "It may be the city of Lima, I think."}
    lines = [json.dumps({"id": name, "output": text}) + "\n" for name, text in answers.items()]
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    loud = {**yaml.safe_load(FILES["tasks/capitals.yaml"]), "grader": "shout", "reference": "{{ capital | upper }}"}
    (tmp_path / "loud.yaml").write_text(yaml.safe_dump(loud))
    (tmp_path / "capitals.jsonl").write_text(FILES["tasks/capitals.jsonl"])
    riddles = [{"riddle": f"What has {n} legs?", "fact": f"Number {n}."} for n in range(40)]
    (tmp_path / "riddles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in riddles))
    (documented,) = re.findall(r"^    mmpu (eval .*)$", TEXT, re.MULTILINE)
    local = ["eval", "ours=answers.jsonl", "--baseline", "reference", "--task", "capitals", "--judge", "local"]
    graded = ["eval", "gold=reference", "--baseline", "ours=answers.jsonl", "--task", "loud.yaml", "--judge", "rule"]
    text = mmpu(
        tmp_path,
        plugged,
        ["tasks"],
        ["tasks", "check", "capitals"],
        ["tasks", "check", "riddles.jsonl"],
        ["judges"],
        [*documented.split()],
        [*local, "--judge-url", endpoint.url],
        [*local, "--judge-url", endpoint.url, "--dry-run"],
        graded,
    )
    assert re.search(r"^capitals +Capitals of the world\.$", text, re.MULTILINE)
    assert re.search(r"^local +My local judge\.$", text, re.MULTILINE)
    assert sum(map(int, re.findall(r"(\d+) samples, \d+ rows left out by `share`", text))) == len(riddles)
    assert "ok    4 right answers get the best grade there is" in text
    brief = board(tmp_path / "leaderboards/capitals.brief.json")["ours"]["win_rate"]
    assert (brief["wins"], brief["losses"], brief["ties"]) == (1, 1, 0)
    ours = board(tmp_path / "leaderboards/capitals.local.json")["ours"]["win_rate"]
    assert (ours["ties"], ours["unread"], len(endpoint.bodies)) == (2, 0, 4 + 16), "both orders, with four probes each"
    loud_board = board(tmp_path / "leaderboards/loud.rule.json")
    assert (loud_board["gold"]["accuracy"]["value"], loud_board["ours"]["accuracy"]["value"]) == (1.0, 0.0)


def test_configs_methods_scorers_engines_and_anchors(plugged: dict[str, str], tmp_path: Path) -> None:
    rows = [{"id": f"train-{n}", "output": "The capital is far."} for n in (1, 2)]
    (tmp_path / "anchors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, other = (command.split() for command in re.findall(r"`mmpu (train capitals[^`]*)`", TEXT))
    replay, remote, reference = (line[9:].partition(" #")[0].strip() for line in ANCHORS.strip().split("\n"))
    (tmp_path / "remote.yaml").write_text(remote)
    preview = ["generate", "capitals", "--engine", "remote.yaml", "--out", "x.jsonl", "--dry-run"]
    said = mmpu(
        tmp_path,
        plugged,
        preview,
        plain,
        [*other, f"teacher={replay}"],
        [*plain, "run=runs/third", f"teacher={reference}"],
    )
    assert "openai:Qwen/Qwen3-32B" in said
    asked = b"".join(path.read_bytes() for path in (tmp_path / "runs").glob("store.sqlite*"))
    for anchor in (b"WHAT IS THE CAPITAL OF FRANCE?!", b"The capital is far.", b"The capital of France is Paris."):
        assert anchor in asked
    groups = [json.loads(line) for line in (tmp_path / "runs/capitals/groups.jsonl").read_text().splitlines()]
    assert len(groups) == 2
    for response in (response for group in groups for response in group["responses"]):
        assert response["score"] == pytest.approx(min(1.0, 10 / max(1, len(response["text"].split()))))
    config = yaml.safe_load((tmp_path / "runs/other/config.yaml").read_text())
    assert config["stages"][1]["scorer"]["words"] == 5


def test_families(plugged: dict[str, str], tmp_path: Path) -> None:
    """A tiny random VipLLaVA passes every check of the doctor with the document's file."""
    _, tok, processor, rules = image_model("llava")
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**VIEW),
        text_config=LlamaConfig(**text_shape(len(tok), tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layers=[-2, -1],
    )
    torch.manual_seed(0)
    model = VipLlavaForConditionalGeneration(config).eval()
    Student(model, tok, StudentConfig("tiny"), processor, rules).save(tmp_path / "model")
    text = mmpu(tmp_path, plugged, ["doctor", "model", "device=cpu"])
    assert "✗" not in text
    assert "✓" in text
