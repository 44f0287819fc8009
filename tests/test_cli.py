"""The command line: a mistake costs one clear line and exit code 2, never a traceback, unless one is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmpu import __version__
from mmpu.boards import read
from mmpu.boards.tables import markdown
from mmpu.cli.main import main
from mmpu.cli.show import table
from mmpu.config import load_yaml
from mmpu.core import UserError

ROOT = Path(__file__).parent.parent


def mmpu(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task of two prompts, and two files of answers."""
    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text('[{"q": "1+1?", "a": "2"}, {"q": "1+2?", "a": "3"}]')
    Path("sums.yaml").write_text(
        'about: Sums.\nprompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nsource: rows.json\ngrader: number\n'
    )
    for name, answers in (("ours", ("2", "3")), ("theirs", ("2", "4"))):
        rows = [json.dumps({"id": f"test-{i}", "output": a}) for i, a in enumerate(answers, 1)]
        Path(f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


EVAL = {"--task": "sums.yaml", "--judge": "rule", "--baseline": "base=theirs.jsonl"}


def evaluation(*systems: str, **options: str) -> list[str]:
    named = {**EVAL, **{f"--{key.replace('_', '-')}": value for key, value in options.items()}}
    return ["eval", *(systems or ["ours=ours.jsonl"]), *(word for pair in named.items() for word in pair)]


def test_listings_name_what_there_is() -> None:
    listed = dict(line.split(maxsplit=1) for line in mmpu("tasks").output.splitlines())
    expected = {path.stem: load_yaml(path) for path in (ROOT / "tasks").glob("*.yaml")}
    assert listed.keys() == expected.keys()
    for name, values in expected.items():
        assert listed[name].startswith(values["about"])
        assert all(alias in listed[name] for alias in values.get("aliases", ()))
    assert {"rule", "qwen3", "qwen3-vl"} <= {line.split()[0] for line in mmpu("judges").output.splitlines()}
    assert __version__ in mmpu("--version").output


def test_an_evaluation_from_answers_to_a_page(folder: Path) -> None:
    done = mmpu(*evaluation())
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2:] == [
        "written to leaderboards/sums.rule.json",
        "page: leaderboards/sums.rule.html",
    ]
    assert "75.0 [19.8, 97.3]" in done.output, "Wilson's for one and a half of two"
    shown = mmpu("leaderboard", "leaderboards/sums.rule.json", "--markdown")
    assert shown.output == markdown(read(folder / "leaderboards/sums.rule.json")) + "\n"
    assert "baseline" in mmpu("leaderboard", "leaderboards/sums.rule.json").output


def test_a_dry_run_asks_no_model(folder: Path) -> None:
    """Neither loads one: there is none of the name. What an earlier evaluation kept stands for what it would say."""
    done = mmpu(*evaluation("gone"), "--limit", "1", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "readings to make   1 (0 more are stored)" in done.output
    assert not Path("leaderboards").exists()
    assert mmpu(*evaluation("gone=ours.jsonl"), "--limit", "1").exit_code == 0
    assert {path.name for path in Path("leaderboards").iterdir() if path.is_dir()} == {"sums.test.0-1", "sums.rule"}
    assert "readings to make   0" in mmpu(*evaluation("gone"), "--limit", "1", "--dry-run").output


def test_folders_of_boards_and_stores_of_verdicts_are_told_apart(folder: Path) -> None:
    assert mmpu(*evaluation()).exit_code == 0
    (folder / "leaderboards/x.lm_eval.json").write_text("{}")
    assert "baseline" in mmpu("leaderboard", "leaderboards").output
    wrong = mmpu("leaderboard", "leaderboards/sums.test")
    assert (wrong.exit_code, wrong.stderr.count("holds no board")) == (2, 1)
    kept = mmpu("cache", "leaderboards/verdicts.sqlite")
    assert (kept.exit_code, kept.stderr.count("holds a judge's verdicts")) == (2, 1)


def test_a_task_without_a_test_split_is_shown(folder: Path) -> None:
    Path("own.yaml").write_text(Path("sums.yaml").read_text() + "splits: {train: {}}\n")
    done = mmpu("tasks", "show", "own.yaml")
    assert done.exit_code == 0, done.output
    assert "1+1?" in done.output


def test_the_baseline_may_be_one_of_the_systems_by_its_label(folder: Path) -> None:
    done = mmpu(*evaluation("a=ours.jsonl", "b=theirs.jsonl", baseline="b"))
    assert done.exit_code == 0, done.output
    board = read(folder / "leaderboards/sums.rule.json")
    assert [(e.system.name, e.baseline.name) for e in board.entries] == [("a", "b"), ("b", "b")]


def test_answers_are_judged_without_torch(folder: Path) -> None:
    code = "import sys; from mmpu.cli.main import main; main(standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *evaluation()]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


MISTAKES = {
    "task": (
        evaluation(task="shpaes"),
        "no task 'shpaes' on the search path and no such file; did you mean 'shapes'?",
    ),
    "task file": (evaluation(task="sumz.yaml"), "no task 'sumz.yaml' on the search path and no such file"),
    "judge": (evaluation(judge="rul"), "no judge 'rul' on the search path and no such file; did you mean 'rule'?"),
    "split": (evaluation(split="tets"), "task sums has no split 'tets'; did you mean 'test'?"),
    "data": (evaluation(data="nowhere"), "rows.json: no such file; correct `source`, or point `data` at its folder"),
    "answers": (evaluation("none.jsonl"), "no answers file none.jsonl"),
    "baseline": (evaluation(baseline="none.jsonl"), "no answers file none.jsonl"),
    "label": (evaluation("base=ours.jsonl"), "two systems are labelled 'base': ours.jsonl and theirs.jsonl"),
    "model": (evaluation("./nosuch"), "no model './nosuch': no such folder"),
    "sampling": (evaluation(temperature="-1"), "sampling.temperature: -1.0 is out of range"),
    "place": (evaluation(out="rows.json"), "cannot write rows.json/"),
    "board": (["leaderboard", "rows.json"], "rows.json is not a leaderboard of schema 3"),
    "no board": (["leaderboard", "gone.json"], "cannot read the leaderboard gone.json"),
    "config": (
        ["train", "quickstart-txt"],
        "no config 'quickstart-txt' on the search path and no such file; did you mean",
    ),
    "key": (["train", "quickstart-text", "sed=3"], "quickstart-text.yaml: unknown key 'sed'; did you mean 'seed'?"),
    "deep key": (["train", "quickstart-text", "stages.sft.optim.lrr=1"], "unknown key 'lrr'; did you mean 'lr'?"),
    "value": (["train", "quickstart-text", "seed=many"], "quickstart-text.yaml.seed: 'many' will not do"),
    "override": (["train", "quickstart-text", "stages.stf.k=1"], "did you mean 'sft'?"),
    "export": (["export", "x", "."], ". exists; choose another folder"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_costs_one_line(folder: Path, arguments: list[str], message: str) -> None:
    before = sorted(folder.iterdir())
    done = mmpu(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("mmpu: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(folder.iterdir()) == before, "a mistake leaves nothing behind"
    with pytest.raises(UserError):
        CliRunner().invoke(main, ["--debug", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["tain"], ["eval", "x"], ["train"], evaluation(limit="0"), ["train", "--no"]])
def test_a_wrong_call_shows_the_usage(folder: Path, arguments: list[str]) -> None:
    done = mmpu(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: ")


def test_the_program_itself_exits_with_2_and_no_traceback(folder: Path) -> None:
    command = [sys.executable, "-m", "mmpu.cli", *evaluation(task="shpaes")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mmpu: no task 'shpaes'")
    assert "Traceback" not in done.stderr
    command.insert(3, "--debug")
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_a_table_that_is_too_wide_is_a_block_per_row(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    header, rows = (
        ("system", "win rate %", "note"),
        [("a[/b] model[v2]", "61.3 [58.9, 63.8]", "x" * 60), ("b", "–", "")],
    )
    monkeypatch.setattr("mmpu.cli.show.PIPED", 80)
    table("boards [of] one", header, rows)
    narrow = capsys.readouterr().out
    assert "system      a[/b] model[v2]\nwin rate %  61.3 [58.9, 63.8]" in narrow
    assert "x" * 60 in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    monkeypatch.setattr("mmpu.cli.show.PIPED", 120)
    table("boards [of] one", header, rows)
    wide = capsys.readouterr().out
    assert "│ a[/b] model[v2] │ 61.3 [58.9, 63.8] │" in wide
    assert "boards [of] one" in wide


def test_results_are_printed_for_programs(folder: Path) -> None:
    done = mmpu(*evaluation(), "--json")
    assert done.exit_code == 0, done.output
    board = json.loads(done.stdout)
    assert board["task"] == "sums"
    assert "page: " in done.stderr
    (read_again,) = json.loads(mmpu("leaderboard", "leaderboards/sums.rule.json", "--json").stdout)
    assert sorted(read_again["entries"], key=str) == sorted(board["entries"], key=str)


@pytest.mark.parametrize(
    ("command", "key"),
    [(["tasks"], "market"), (["tasks", "search", "shapes"], "shapes"), (["judges"], "rule"), (["methods"], "ldl_grpo")],
)
def test_listings_are_json_for_programs(command: list[str], key: str) -> None:
    group, *rest = command
    done = CliRunner().invoke(main, [group, *rest, "--json"])
    assert done.exit_code == 0, done.output
    assert isinstance(json.loads(done.stdout)[key], str)
