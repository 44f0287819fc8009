"""The wheel: built from the source distribution, installed and used from elsewhere, it holds the data under the package
and nothing beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ("tasks", "judges", "configs", "leaderboards")


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "hatchling", reason="hatchling, which builds the wheel, is not installed: pip install hatchling"
    )
    pytest.importorskip("build.__main__", reason="build is not installed: pip install build")
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The folder that the wheel is installed in."""
    folder = wheel.parent / "site"
    quiet = ("--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--root-user-action=ignore")
    run("-m", "pip", "install", *quiet, "--target", folder, wheel, cwd=wheel.parent)
    return folder


def installed(site: Path, *arguments: str) -> str:
    """What Python prints in an empty folder, with only the installed package on its path."""
    elsewhere = site.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return run(*arguments, cwd=elsewhere, PYTHONPATH=str(site))


def test_every_file_of_the_checkout_s_data_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    listed = subprocess.run(["git", "ls-files", *DATA, "mmpu"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.skip("not a git checkout: no list of files to compare with")
    ours = [name for name in listed if (ROOT / name).exists()]
    expected = {name if name.startswith("mmpu/") else f"mmpu/_assets/{name}" for name in ours}
    assert expected <= inside
    assert not [name for name in inside if "__pycache__" in name or name.endswith(".pyc")]


def test_an_index_takes_both(wheel: Path) -> None:
    pytest.importorskip("twine", reason="twine is not installed: pip install twine")
    (source,) = wheel.parent.glob("*.tar.gz")
    assert run("-m", "twine", "check", "--strict", wheel, source, cwd=wheel.parent).count("PASSED") == 2


def test_nothing_but_mmpu_is_installed(site: Path) -> None:
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names <= {"mmpu", "bin"}
    assert (site / "mmpu/py.typed").exists()


@pytest.mark.parametrize("kind", ["tasks", "judges"])
def test_listings_are_those_of_the_checkout(site: Path, kind: str) -> None:
    listed = {line.split()[0] for line in installed(site, "-m", "mmpu.cli", kind).splitlines()}
    assert listed == {path.stem for path in (ROOT / kind).rglob("*.yaml")}


def test_the_data_are_found_and_used_in_the_package(site: Path) -> None:
    code = """
from mmpu import plugins
from mmpu.recipes.judges import read_judge
from mmpu.scorers.self_eval import PROMPT
from mmpu.task.yaml_task import load_task

task = load_task("shapes")
print(task.path)
print(len(task.samples("test[:3]")))
print(read_judge("qwen3").make(task, "http://localhost:1/v1").identity[:8])
print(PROMPT.is_file())
print(*plugins.data("configs").values(), sep="\\n")
"""
    task, count, judge, prompt, *configs = installed(site, "-c", code).splitlines()
    assert Path(task) == site / "mmpu/_assets/tasks/shapes.yaml"
    assert (count, judge, prompt) == ("3", "pairwise", "True")
    assets = site / "mmpu/_assets/configs"
    assert {Path(config).parent for config in configs} == {assets, assets / "methods"}


def test_the_program_is_installed(site: Path) -> None:
    from mmpu import __version__

    assert __version__ in installed(site, str(site / "bin/mmpu"), "--version")
