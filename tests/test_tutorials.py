"""The tutorials do what they say: files are read, commands parse, and the first one runs from its page to the board."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT
from mmpu.cli.main import main
from mmpu.recipes import presets, run_config
from mmpu.task.task_config import TaskConfig

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files(page: Path) -> dict[str, str]:
    """What a page shows of files, by name: blocks whose first line is a comment with one."""
    blocks = (block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if language != "bash")
    return {found[1]: block for block in blocks if (found := re.match(r"# (\S+\.(?:py|yaml))\n", block))}


def commands(page: Path) -> list[list[str]]:
    blocks = (block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "bash")
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        command = command.commands[words[0]]
        context = command.make_context(words[0], words[1:], context)
        words = words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse_and_files_are_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaderboards").mkdir()
    Path("leaderboards/verdicts.sqlite").touch()  # what earlier commands leave
    ours = [words[1:] for words in commands(page) if words[0] == "mmpu"]
    assert ours
    for words in ours:
        parse(words)
    for name, text in files(page).items():
        if name.endswith(".py"):
            compile(text, name, "exec")
            continue
        values = yaml.safe_load(text)
        if "source" in values:
            assert set(values) <= set(TaskConfig.__dataclass_fields__)
        elif "stages" in values:
            whole = {"run": "r", "student": {"model": "tiny-text"}, "task": "market", **values}
            run_config.read(presets.settled(whole), name)


def test_from_a_jsonl_to_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/tutorials/jsonl_to_board.md"
    for name, text in files(page).items():
        Path(name).write_text(text, encoding="utf-8")
    said = ""
    for words in commands(page):
        if words[0] == "python":
            exec(compile(Path(words[1]).read_text(encoding="utf-8"), words[1], "exec"), {})
        else:
            result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
            assert result.exit_code == 0, result.output
            said += result.output
    assert "train: 34 samples" in said
    entries = json.loads(Path("leaderboards/sums.rule.json").read_text(encoding="utf-8"))["entries"]
    assert {entry["system"]["name"]: entry["n"] for entry in entries} == {"SFT": 16, "base": 16}
    assert Path("leaderboards/sums.rule.html").exists()
    assert Path("runs/sums/report/report.html").exists()
