"""README's snippets do what they say when they are pasted: Python runs, configs are read, commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from mmpu.cli.main import main
from mmpu.recipes import run_config
from mmpu.task.task_config import TaskConfig

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "mmpu"]


def test_it_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) <= 200
    assert len(commands()) >= 9


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert any(isinstance(value, type) and value.__module__ == "builtins" for value in names.values())


def test_the_configs_are_read() -> None:
    config, task = (yaml.safe_load(block) for block in blocks("yaml"))
    assert [stage.name for stage in run_config.read(config, "README.md").stages] == ["sft", "ldl_grpo"]
    assert set(task) - {"splits"} <= set(TaskConfig.__dataclass_fields__)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    command: click.Command = main.commands[words[1]]
    with CliRunner().isolation(input="\n" * 9):  # for those that ask
        command.make_context(words[1], words[2:], parent=click.Context(main))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
