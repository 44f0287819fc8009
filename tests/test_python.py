"""The Python API: instant, the same runs and boards as the command line's, rows and functions as Python has them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mmpu
from mmpu import lent
from mmpu.api import training
from mmpu.boards import read
from mmpu.cli.main import main
from mmpu.core import Sample, user
from mmpu.doors import door

ROOT = Path(__file__).parent.parent
KEYS: dict[str, Any] = {"prompt": [{"user": "{{ q }}"}], "answer": "{{ a }}", "name": "sums"}
ROWS = [{"q": f"{n}+1?", "a": str(n + 1)} for n in range(20)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_importing_mmpu_imports_nothing_else() -> None:
    code = "import mmpu, sys; print(*sys.modules, sep='\\n'); print(mmpu.Task, mmpu.train)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    loaded = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert {name for name in loaded if name.startswith("mmpu")} == {"mmpu", "mmpu.doors"}
    assert not {"torch", "numpy", "pydantic", "yaml", "click", "ast", "inspect"} & set(loaded)


def test_the_public_names_are_there_documented_and_typed() -> None:
    assert dir(mmpu) == mmpu.__all__
    for name in (each for each in mmpu.__all__ if not each.startswith("__")):
        found = getattr(mmpu, name)
        assert found.__doc__, name
        for each in [getattr(training, name)] if name == "train" else [found] if inspect.isfunction(found) else []:
            signature = inspect.signature(each)
            kinds = [p.annotation for p in signature.parameters.values()]
            assert signature.empty not in {*kinds, signature.return_annotation}, name
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = mmpu.trian  # type: ignore[attr-defined]


def test_a_name_stands_for_a_wing_and_for_what_it_does() -> None:
    import mmpu.train.stage_config

    assert mmpu.train.stage_config.StageConfig
    with pytest.raises(mmpu.UserError, match=r"mmpu\.train: the key 'run' is missing"):
        mmpu.train(student="tiny-text", task="market", method="sft", split="train")
    with pytest.raises(AttributeError, match="module 'x' has no attribute 'y'"):
        door("x", __file__)("y")


def test_rows_come_as_lists_data_sets_and_frames(tmp_path: Path) -> None:
    import datasets
    import pandas

    listed = mmpu.Task(ROWS, **KEYS)
    for rows in (datasets.Dataset.from_list(ROWS), pandas.DataFrame(ROWS), iter(ROWS)):
        assert mmpu.Task(rows, **KEYS).source == listed.source, "the same content, the same file"
    assert mmpu.Task(ROWS, **{**KEYS, "answer": "{{ q }}"}).source != listed.source
    train, test = listed.samples("train"), listed.samples("test")
    assert (len(train) + len(test), listed.evaluated) == (20, "test")
    assert list(listed.to_pandas("train").columns) == ["id", "prompt", "images", "reference", "answer"]
    assert "1?" in listed._repr_html_()
    with pytest.raises(mmpu.UserError, match="row 2 is str, no mapping"):
        mmpu.Task([{"q": "1"}, "2"], **KEYS)
    with pytest.raises(mmpu.UserError, match="there are no rows"):
        mmpu.Task([], **KEYS)


def test_rows_in_a_known_shape_need_no_keys_and_pictures_are_kept(tmp_path: Path) -> None:
    from PIL import Image

    chats = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in (1, 2)
    ]
    task = mmpu.Task(chats, splits={"test": {}})
    assert [sample.reference for sample in task.samples()] == ["!", "!"]
    seen = [{"i": Image.new("RGB", (4, 4), color), "q": "Which colour?"} for color in ("red", "blue")]
    task = mmpu.Task(
        seen, prompt=[{"user": [{"image": "{{ i }}"}, "{{ q }}"]}], splits={"test": {}}, folder=tmp_path / "x"
    )
    red, blue = (sample.images[0] for sample in task.samples())
    assert Image.open(red).getpixel((0, 0)) == (255, 0, 0)
    assert red != blue


def test_a_function_grades_and_scores_under_a_name_of_its_own() -> None:
    def half(sample: Sample, text: str) -> float | None:
        return None if text == "?" else 0.5

    task = mmpu.Task(ROWS, **KEYS, grader=half)
    sample = task.samples("test")[0]
    assert (task.grade(sample, "x"), task.grade(sample, "?")) == (0.5, None)
    beyond = mmpu.Task(ROWS, **KEYS, grader=lambda sample, text: 2)
    with pytest.raises(mmpu.UserError, match="grades are 0 to 1"):
        beyond.grade(sample, "x")
    asked = Sample("s", user("?"))
    with pytest.raises(mmpu.UserError, match=r"fails on sample 's': ZeroDivisionError"):
        lent.value(lent.lend(lambda sample, text: 1 / 0), asked, "x")
    with pytest.raises(mmpu.UserError, match=r"returned 'good' for sample 's'; a number or None is wanted"):
        lent.value(lent.lend(lambda sample, text: "good"), asked, "x")  # type: ignore[arg-type,return-value]
    assert lent.lend(half) == lent.lend(half) != lent.lend(lambda sample, text: 1)
    with pytest.raises(mmpu.UserError, match=r"gone-0 is not known here: it was given to mmpu\.train or"):
        lent.value("gone-0", asked, "x")


def test_a_board_is_the_command_s(tmp_path: Path) -> None:
    from click.testing import CliRunner

    task = mmpu.Task(ROWS, **KEYS, grader="number", splits={"test": {}}, folder=tmp_path / "t")
    ours = mmpu.answers(task, [row["a"] for row in ROWS])
    theirs = mmpu.answers(task, [row["a"] if n % 2 else "0" for n, row in enumerate(ROWS)])
    board = mmpu.evaluate({"ours": ours, "theirs": theirs}, task, baseline="theirs")
    assert isinstance(board, mmpu.Board)
    for name, each in (("ours", ours), ("theirs", theirs)):
        each.save(f"{name}.jsonl")
    words = ["ours=ours.jsonl", "theirs=theirs.jsonl", "--baseline", "theirs", "--judge", "rule", "--out", "cli"]
    done = CliRunner().invoke(main, ["eval", *words, "--task", task.source])
    assert done.exit_code == 0, done.output
    said = [
        [(e.system.name, e.win_rate, e.accuracy) for e in b.entries] for b in (board, read(Path("cli/sums.rule.json")))
    ]
    assert said[0] == said[1]
    frame = board.to_pandas().set_index("system")
    assert (frame.loc["ours", "win_rate"], frame.loc["theirs", "accuracy"]) == (0.75, 0.5)
    assert "ours" in board._repr_html_()
    assert board.page().exists()
    verdicts = mmpu.judge(task, ours, theirs)
    assert (verdicts.rate, list(verdicts)[:2]) == (0.75, [1.0, 0.5])
    with pytest.raises(mmpu.UserError, match="1 texts for 20 samples"):
        mmpu.judge(task, ["1"], theirs)


def test_what_is_shown_in_a_notebook_is_inert() -> None:
    task = mmpu.Task([{"q": "<script>alert(1)</script>" * 40, "a": "1"}], **KEYS, splits={"test": {}})
    assert "<script>" not in task._repr_html_()
    assert "…" in task._repr_html_()


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its code cells in order, the last expression of each shown as a notebook shows it."""
    import ast

    cells = json.loads((ROOT / "examples/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown: list[object] = []
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names))
    assert all(each._repr_html_() for each in shown if hasattr(each, "_repr_html_"))
    board, verdicts = names["board"], shown[-1]
    assert {entry.system.name for entry in board.entries} == {"base", "SFT", "GRPO"}
    assert verdicts.rate == 1.0  # type: ignore[attr-defined]
    assert "has no split 'tain'; it has train, test" in capsys.readouterr().out
    assert [row["step"] for row in names["run"].metrics] == [0, 1, 2, 3]
    assert names["run"].stages == ("sft",)
