"""The search path: folders, installed packages, ourselves; the first hit wins and nobody has a privilege."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpu import plugins
from mmpu.config import build
from mmpu.core import Group, Sample, Scorer, UserError, user
from mmpu.duel import Judge
from mmpu.recipes.judges import read_judge
from mmpu.task.yaml_task import load_task

ROOT = Path(__file__).parent.parent
TASK = """
about: {about}
source: rows.jsonl
prompt: [{{user: "{{{{ q }}}}"}}]
grader: {grader}
answer: "{{{{ a }}}}"
splits: {{test: {{}}}}
"""
SCORER = """
from __future__ import annotations
from dataclasses import dataclass
from mmpu.core import Scorer

@dataclass(frozen=True)
class Brief(Scorer):
    limit: int = 3

    def score(self, groups):
        return [tuple(float(len(r.text.split()) <= self.limit) for r in g.responses) for g in groups]
"""
GRADER = """
from dataclasses import dataclass
from mmpu.core import Grader

@dataclass(frozen=True)
class Shout(Grader):
    def grade(self, sample, text):
        return float(text.isupper())
"""


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plug-in that is a bare folder, first on the path."""
    plugin = lay_out(
        tmp_path / "plugin",
        {
            "tasks/capitals.yaml": TASK.format(about="Capitals.", grader="shout"),
            "tasks/rows.jsonl": '{"q": "France?", "a": "Paris"}\n',
            "scorers/brief.py": SCORER,
            "graders/shout.py": GRADER,
            "judges/coin.yaml": "about: A coin.\nkind: rule\ndescribe: a coin\n",
        },
    )
    monkeypatch.setenv("MMPU_PATH", str(plugin))
    return plugin


def test_a_folder_adds_a_task_with_its_grader(folder: Path) -> None:
    task = load_task("capitals")
    assert task.path == folder / "tasks/capitals.yaml"
    (sample,) = task.samples("test")
    assert sample.answer == "Paris"
    assert (task.grade(sample, "PARIS"), task.grade(sample, "Paris")) == (1, 0)
    assert {"capitals", "shapes"} <= set(plugins.data("tasks"))


def test_a_folder_adds_a_scorer_that_is_configured_like_ours(folder: Path) -> None:
    cls = plugins.find_class("scorers", "brief", Scorer)
    scorer = build(cls, {"limit": "2"}, "scorer", {"engine": None})
    assert scorer.score([Group(Sample("a", user("q")))]) == [()]
    assert plugins.find_class("scorers", "brief", Scorer) is cls
    with pytest.raises(UserError, match="unknown key 'limt'; did you mean 'limit'"):
        build(cls, {"limt": 2}, "scorer")


def test_a_folder_adds_a_judge(folder: Path) -> None:
    judge = read_judge("coin").make(load_task("capitals"))
    assert (judge.name, judge.describe) == ("coin", "a coin")
    assert isinstance(judge, plugins.find_class("judges", "rule", Judge))


def test_the_first_hit_wins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lay_out(
        tmp_path / "other",
        {
            "tasks/capitals.yaml": TASK.format(about="Others.", grader="number"),
            "tasks/shapes.yaml": TASK.format(about="Not ours.", grader="number"),
            "graders/number.py": (folder / "graders/shout.py").read_text(),
        },
    )
    monkeypatch.setenv("MMPU_PATH", f"{other}{os.pathsep}{folder}")
    assert load_task("capitals").config.about == "Others."
    assert load_task("shapes").config.about == "Not ours."
    assert plugins.code("graders")["number"].data == other
    monkeypatch.setenv("MMPU_PATH", f"{folder}{os.pathsep}{other}")
    assert load_task("capitals").config.about == "Capitals."
    assert load_task("shapes").config.about == "Not ours."


def test_a_folder_on_the_path_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_PATH", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"MMPU_PATH names .*missing', which is not a folder"):
        plugins.data("tasks")


def test_a_path_serves_where_a_name_does(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugins.find_data("tasks", str(folder / "tasks/capitals.yaml")) == folder / "tasks/capitals.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    assert plugins.find_data("tasks", "shapes") == ROOT / "tasks/shapes.yaml", "a folder is no task"
    (tmp_path / "weights").mkdir()
    assert plugins.find_data("models", "weights") == tmp_path / "weights"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("tasks", "shpaes", "no task 'shpaes' on the search path and no such file; did you mean 'shapes'?"),
        ("judges", "zzz", "no judge 'zzz' on the search path and no such file; there is: "),
        ("configs", "quickstart-txt", "did you mean 'quickstart-text'"),
    ],
)
def test_unknown_data_suggests(folder: Path, kind: str, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        plugins.find_data(kind, name)
    assert message in str(error.value)


def test_unknown_code_suggests(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no scorer 'self_evl' on the search path; did you mean 'self_eval'\?"):
        plugins.find_class("scorers", "self_evl", Scorer)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), (SCORER.replace("Brief", "_Brief"), 0), (SCORER + "\nclass Terse(Brief):\n    limit: int = 1\n", 2)],
)
def test_a_file_of_code_defines_exactly_one_class(folder: Path, text: str, count: int) -> None:
    lay_out(folder, {"scorers/odd.py": text})
    with pytest.raises(UserError, match=f"exactly one public subclass of Scorer, it defines {count}"):
        plugins.find_class("scorers", "odd", Scorer)


def test_a_class_that_lacks_what_its_kind_defines_is_named(folder: Path) -> None:
    (folder / "scorers/lazy.py").write_text(SCORER.replace("def score(", "def scores(").replace("Brief", "Lazy"))
    with pytest.raises(UserError, match=r"scorers/lazy\.py: Lazy lacks score, which every Scorer defines"):
        plugins.find_class("scorers", "lazy", Scorer)


def test_a_class_may_derive_from_one_of_another_file(folder: Path) -> None:
    child = "from mmpu.scorers.rule import Rule\nclass Half(Rule):\n    pass\n"
    lay_out(folder, {"scorers/half.py": child})
    assert plugins.find_class("scorers", "half", Scorer).__name__ == "Half"


# -----------------------------------------------------------------------------------------------------------------
# an installed package


def install(site: Path, value: str = "fruitful") -> None:
    """A package as pip leaves it, with an entry point."""
    lay_out(
        site,
        {
            "fruitful/__init__.py": "",
            "fruitful/scorers/__init__.py": "",
            "fruitful/scorers/brief.py": SCORER,
            "fruitful/tasks/fruit.yaml": TASK.format(about="Fruit.", grader="number"),
            "fruitful/tasks/rows.jsonl": '{"q": "1+1?", "a": "2"}\n',
            "fruitful-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: fruitful\nVersion: 1.0\n",
            "fruitful-1.0.dist-info/entry_points.txt": f"[mmpu.plugins]\nfruit = {value}\n",
        },
    )


def python(site: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{site}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )


def test_an_installed_package_plugs_in_by_its_entry_point(tmp_path: Path) -> None:
    install(tmp_path)
    done = python(
        tmp_path,
        "from mmpu import plugins\n"
        "from mmpu.core import Scorer\n"
        "from mmpu.task.yaml_task import load_task\n"
        "print([root.name for root in plugins.roots()])\n"
        "print(load_task('fruit').samples('test')[0].prompt[0].text)\n"
        "print(plugins.find_class('scorers', 'brief', Scorer).__module__)\n",
    )
    assert done.stdout.splitlines() == ["['fruit', 'mmpu']", "1+1?", "fruitful.scorers.brief"], done.stderr


def test_a_folder_comes_before_an_installed_package(tmp_path: Path, folder: Path) -> None:
    install(tmp_path / "site")
    lay_out(folder, {"tasks/fruit.yaml": TASK.format(about="Mine.", grader="number")})
    code = "from mmpu.task.yaml_task import load_task; print(load_task('fruit').config.about)"
    assert python(tmp_path / "site", code, MMPU_PATH=str(folder)).stdout == "Mine.\n"


@pytest.mark.parametrize("value", ["gone", "gone.altogether", "fruitful.scorers.brief"])
def test_an_entry_point_that_is_no_package_is_named(tmp_path: Path, value: str) -> None:
    install(tmp_path, value)
    done = python(tmp_path, "import mmpu.cli.main; mmpu.cli.main.main(['tasks'])")
    assert done.returncode == 2
    assert done.stderr == f"mmpu: plug-in 'fruit' names {value!r}, which is not an importable package; reinstall it\n"
