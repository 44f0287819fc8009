"""What a config is told before anything large is imported: where its files lie, what is wrong, what will happen, and
what comes next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmpu import plugins
from mmpu.config import Values
from mmpu.core import UserError
from mmpu.recipes import changes, outlook, places, run_config, runs, trackers

ROOT = Path(__file__).parent.parent
CONFIG: Values = {
    "run": "runs/a b",
    "student": {"model": "tiny-text"},
    "task": "market",
    "teacher": {"name": "replay", "path": "market.anchors.jsonl"},
    "stages": [
        {"name": "sft", "method": "sft", "split": "train[:32]"},
        {"name": "ldl", "method": "sft", "split": "train[32:64]"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shell's folder, with a config in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    return tmp_path


def written(folder: Path, **keys: object) -> Path:
    path = folder / "project/my.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **keys}))
    return path


def test_a_file_in_a_config_lies_beside_it_or_in_the_shell_s_folder_and_the_nearer_one_is_meant(folder: Path) -> None:
    beside, here = folder / "project/own.yaml", folder / "own.yaml"
    found: Values = {"task": "own.yaml", "teacher": {"name": "replay", "path": "own.yaml"}, "run": "own.yaml"}

    def placed(beside_first: bool = True) -> Values:
        return places.found(found, folder / "project", beside_first=beside_first)

    assert placed() == found, "neither is there"
    here.touch()
    assert placed() == found
    beside.touch()
    assert placed() == {**found, "task": str(beside), "teacher": {"name": "replay", "path": str(beside)}}
    assert placed(beside_first=False) == found, "what is said at the prompt is the shell's"
    here.unlink()
    assert placed(beside_first=False)["task"] == str(beside)
    assert places.found(found, folder, beside_first=True) == found, "no file is there"
    beside.rename(here)
    assert places.found(found, folder, beside_first=True) == found, "the same folder: as it was written"


def test_names_are_no_files(folder: Path) -> None:
    (folder / "project/market").mkdir()
    (folder / "project/sft").touch()
    assert run_config.load(str(written(folder))).task.name == "market", "a folder is no task"
    assert run_config.load(str(written(folder))).stages[0].method.name == "sft"


def test_one_file_under_two_names_is_no_other_setting(folder: Path) -> None:
    (folder / "own.yaml").touch()
    old: Values = {**CONFIG, "task": "own.yaml", "stages": [{"name": "sft"}]}
    run = run_config.load(str(written(folder)))
    assert changes.harmful(run, old, {**old, "task": str(folder / "own.yaml")}, 1) == []
    assert changes.harmful(run, old, {**old, "task": "other.yaml"}, 1) == ["task: own.yaml → other.yaml"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my.yml", "did you mean 'my.yaml'"),
        ("project/mye.yaml", "did you mean 'project/my.yaml'"),
        ("project/else.yaml", r"project holds project/my\.yaml$"),
        ("quickstart-txt", "did you mean 'quickstart-text'"),
    ],
)
def test_a_config_that_is_not_there_is_looked_for_among_the_folder_s_own_files(
    folder: Path, name: str, message: str
) -> None:
    written(folder)
    (folder / "my.yaml").touch()
    with pytest.raises(UserError, match=message):
        plugins.find_data("configs", name)
    (folder / "short.yml").touch()
    assert plugins.find_data("configs", "short.yml") == folder / "short.yml"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trackers": ["wandbb"]}, "accelerate knows no 'wandbb'; did you mean 'wandb'"),
        ({"task": "markt"}, "no task 'markt'"),
        ({"stages": [{**CONFIG["stages"][0], "split": "tain"}]}, "has no split 'tain'; it has train, "),
    ],
)
def test_what_is_not_there_is_told_before_torch_is(folder: Path, keys: Values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        outlook.checked(run_config.load(str(written(folder, **keys))))


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard is not installed, and nothing would be tracked; `pip install "):
        trackers.check(["tensorboard"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboardX" or None)
    trackers.check(["tensorboard"])


def test_a_mistake_is_refused_before_torch_is_imported(folder: Path) -> None:
    written(folder, stages=[{**CONFIG["stages"][0], "epoch": 1}])
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mmpu.cli", "train", "project/my.yaml"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "project/my.yaml.stages.sft: unknown key 'epoch'; did you mean 'epochs'?" in done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mmpu.recipes.run_config" in loaded, "importtime was not read"
    assert not loaded & {"torch", "transformers", "peft", "accelerate"}


def test_the_next_command_can_be_pasted(folder: Path) -> None:
    run = run_config.load(str(written(folder)))
    assert outlook.afterwards(run) == "mmpu eval 'ldl=runs/a b' --baseline 'sft=runs/a b/0-sft' --judge rule"
    one = run_config.load(str(written(folder, stages=CONFIG["stages"][:1])))
    assert outlook.afterwards(one) == "mmpu eval 'sft=runs/a b' --baseline base=tiny-text --judge rule"
    first = outlook.checked(run)[0]
    assert first == "runs/a b: tiny-text on market, sft (sft on train[:32]) → ldl (sft on train[32:64])"


def test_a_run_knows_its_task(folder: Path) -> None:
    for name, task in (("a", "market"), ("b", "mine/own.yaml"), ("c", {"name": "market", "data": "there"})):
        (folder / f"runs/{name}/0-sft").mkdir(parents=True)
        (folder / f"runs/{name}/config.yaml").write_text(yaml.safe_dump({"task": task}))
    (folder / "mine").mkdir()
    (folder / "mine/own.yaml").touch()
    found = runs.task_of(["runs/a", "runs/a/0-sft", "gone", "reference"])
    assert found is not None
    assert (found.name, found.values) == ("market", {})
    assert runs.task_of(["tiny-text"]) is None
    os.chdir(folder / "project")
    elsewhere = runs.task_of([str(folder / "runs/b")])
    assert elsewhere is not None
    assert elsewhere.name == str(folder / "mine/own.yaml"), "as it was from the folder that it was trained in"
    with pytest.raises(UserError, match=r"different tasks \(market, .*own\.yaml\); choose one with --task"):
        runs.task_of([str(folder / "runs/a"), str(folder / "runs/b")])
