"""`mmpu tasks`: what check finds, what show shows, what new writes, whose Python runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.cells import cell_len

from conftest import ROOT
from mmpu.cli.main import main
from mmpu.core import Response, UserError
from mmpu.recipes import training as recipe
from mmpu.student import StudentConfig, load_student
from mmpu.task.check import Report, check
from mmpu.task.yaml_task import load_local, load_task
from sums import ROWS, SUMS, jsonl, png


def mmpu(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def write(folder: Path, rows: Sequence[object] = ROWS, name: str = "sums", **keys: Any) -> Path:
    """A task's YAML and rows; keys that are None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in {**SUMS, **keys}.items() if v is not None}
    (folder / values["source"]).write_text(jsonl(rows))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return folder / f"{name}.yaml"


def report(folder: Path, rows: Sequence[object] = ROWS, **keys: Any) -> Report:
    return check(load_task(str(write(folder, rows, **keys))))


def problem(folder: Path, rows: Sequence[object] = ROWS, **keys: Any) -> str:
    (found,) = report(folder, rows, **keys).problems
    return found.replace(f"{folder}/", "")


# -----------------------------------------------------------------------------------------------------------------
# check


def test_a_sound_task_has_no_problem(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert found.problems == found.notes == []
    assert found.facts == [
        "train: 6 samples, 4 rows left out by `where`",
        "test: 4 samples, 6 rows left out by `where`",
        "10 right answers get the best grade there is",
        "train and test share no prompt",
    ]


def test_check_finds_a_shared_prompt_whatever_its_spacing(tmp_path: Path) -> None:
    rows = [*ROWS, {"n": 11, "q": " what is  2+1?\n", "a": "3"}]
    assert problem(tmp_path, rows) == "train and test share 1 prompts: train-3"


def test_signs_are_no_spacing(tmp_path: Path) -> None:
    rows = [{"n": 1, "q": "cos(150)?", "a": "1"}, {"n": 9, "q": "cos(-150)?", "a": "1"}]
    assert report(tmp_path, rows).problems == []


def test_check_finds_a_shared_origin(tmp_path: Path) -> None:
    rows = [{**row, "seed": row["n"] % 5} for row in ROWS]
    message = problem(tmp_path, rows, origin="seed {{ seed }}")
    assert message.startswith("train and test share 4 origins: train-2, train-3, train-4, … (4 in all)")


def test_a_part_of_a_split_shares_its_samples(tmp_path: Path) -> None:
    splits = {**SUMS["splits"], "hard": {"where": "n >= 8", "part_of": "test"}}
    assert report(tmp_path, splits=splits).problems == []
    assert load_task(str(tmp_path / "sums.yaml")).config.for_evaluation("hard")


def picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))


SHOWN = {"prompt": [{"user": [{"image": "pictures/{{ n }}.png"}, "{{ q }}"]}]}


def test_check_finds_a_shared_picture_under_another_name(tmp_path: Path) -> None:
    for n in range(10):
        picture(tmp_path / f"pictures/{n}.png", "red" if n in (3, 7) else f"rgb({n * 20},0,9)")
    assert problem(tmp_path, **SHOWN) == "train and test share 1 pictures: train-4"


def test_check_finds_missing_and_broken_pictures(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"pictures/{n}.png", f"rgb({n * 20},0,9)")
    (tmp_path / "pictures/2.png").write_bytes(b"no picture")
    broken, missing = report(tmp_path, **SHOWN, obtain="draw them").problems
    assert "split train: image" in broken
    assert "2.png: not readable as a picture" in broken
    assert missing.startswith(f"task sums: 4 of 4 pictures of 'test' are missing: {tmp_path}/pictures/6.png, ")
    assert missing.endswith("; draw them")


def test_check_finds_ids_that_two_splits_share(tmp_path: Path) -> None:
    message = problem(tmp_path, id="{{ n % 6 }}")
    assert message == "train and test share the ids 0, 1, 2, … (4 in all); put the split into `id`"


def test_check_finds_answers_that_the_grader_refuses(tmp_path: Path) -> None:
    rows = [{"n": n, "q": f"{n}?", "a": "A", "letter": "B" if n == 9 else "A"} for n in range(10)]
    message = problem(tmp_path, rows, grader="final_answer", meta={"letter": "{{ letter }}"})
    assert message == "split test: the grader refuses 1 right answers: test-10 ('A')"


def test_check_finds_a_field_that_only_an_untaken_branch_reads(tmp_path: Path) -> None:
    prompt = [{"user": "{% if n > 100 %}{{ hint }}{% endif %}{{ q }}"}]
    message = problem(tmp_path, prompt=prompt)
    assert message.startswith("`prompt.0` reads hint, which no row has; rows have a, n, q, split")
    guarded = [{"user": "{{ hint | default('') }}{% if tip is defined %}{{ tip }}{% endif %}{{ q }}"}]
    assert report(tmp_path, prompt=guarded).problems == []


def test_check_goes_on_after_a_split_that_cannot_be_read(tmp_path: Path) -> None:
    splits = {"train": {"where": "n < 6"}, "test": {"source": "gone.jsonl"}}
    found = report(tmp_path, splits=splits)
    assert [p.replace(str(tmp_path), "") for p in found.problems] == [
        "split test: /gone.jsonl: no such file; correct `source`, or point `data` at its folder"
    ]
    assert found.facts[0].startswith("train: 6 samples")


def test_check_notes_files_that_are_a_part_only(tmp_path: Path) -> None:
    splits = {"test": {"published": 12}}
    assert report(tmp_path, splits=splits).notes == ["test: the published one has 12 samples, these files have 10"]


def test_check_compares_training_pools_with_evaluation_splits_of_other_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    derived = [{"n": 1, "q": "Perturbed!", "a": "1", "seed": "What is 4+1?"}]
    write(tmp_path / "tasks", derived, "plus", source="plus.jsonl", origin="{{ seed }}", splits={"test": {}})
    path = write(tmp_path / "tasks", origin="{{ q }}", held_out=["plus/test", "gone/test"])
    found = check(load_task(str(path)))
    assert found.problems == ["train and plus/test share 1 origins: train-5"]
    assert found.notes[0].startswith("not compared with gone/test: no task 'gone' on the search path")


def test_a_bare_path_is_not_taken_for_the_files_of_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both data sets have a `rows.jsonl`; the folder that is given holds the first one's."""
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    write(tmp_path / "moved", ROWS[:7])
    path = write(tmp_path / "tasks", held_out=["near/test", "far/test"], dataset="arithmetic")
    write(tmp_path / "tasks", ROWS[:1], "near", dataset="arithmetic", source="near.jsonl", splits={"test": {}})
    write(tmp_path / "tasks", [{"q": "Far?", "a": "1"}], "far", dataset="other", splits={"test": {}})
    given = [str(tmp_path / "moved")]
    found = check(load_local(str(path), given), given)
    assert [note.partition(":")[0] for note in found.notes] == ["not compared with near/test"]
    assert "train and far/test share no prompt" in found.facts


def test_ten_thousand_rows_are_checked_in_seconds(tmp_path: Path) -> None:
    rows = [{"n": i % 10, "q": f"What is {i}+1?", "a": str(i + 1)} for i in range(10_000)]
    begin = time.process_time()
    assert report(tmp_path, rows, reference="The answer is {{ a }}.", origin="{{ q }}").problems == []
    assert time.process_time() - begin < 30


def test_the_command_prints_facts_and_fails_with_all_problems(tmp_path: Path) -> None:
    path = write(tmp_path)
    done = mmpu("tasks", "check", str(path))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "ok    train and test share no prompt"
    write(tmp_path, [*ROWS, {"n": 11, "q": "What is 2+1?", "a": "3"}], id="{{ a }}")
    done = mmpu("tasks", "check", str(path))
    assert done.exit_code == 2
    assert "2 problems in " in done.stderr
    assert "- train and test share the ids 3" in done.stderr
    assert mmpu("tasks", "check", str(path), "--split", "test").exit_code == 0


# -----------------------------------------------------------------------------------------------------------------
# show, new, search


def test_show_prints_samples_as_a_model_gets_them(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/6.png", "red")
    path = write(tmp_path, **SHOWN, reference="It is {{ a }}.", meta={"n": "{{ n }}"}, licence="MIT")
    done = mmpu("tasks", "show", str(path), "--n", "1")
    assert done.stdout.splitlines() == [
        "sums: Sums.",
        "  licence: MIT",
        "",
        "── test-7",
        f"user: [image {tmp_path}/pictures/6.png]",
        "user: What is 6+1?",
        "reference: It is 7.",
        "answer: 7",
        "n: 6",
    ]
    assert "── train-1" in mmpu("tasks", "show", str(path), "--split", "train").stdout


def test_show_prints_what_a_student_is_trained_on(tmp_path: Path) -> None:
    """Text, tokens, ids and mask of the encoder that trains; a picture is as many placeholders as it has features."""
    picture(tmp_path / "pictures/6.png", "red")
    path = write(tmp_path, **SHOWN, reference="It is {{ a }}.")
    done = mmpu("tasks", "show", str(path), "--n", "1", "--student", "tiny-vl")
    assert done.exit_code == 0, done.output
    found = done.stdout.splitlines()
    assert all(cell_len(line) <= 80 for line in found)
    assert found[:2] == [
        "sums, as tiny-vl reads it and is trained on it",
        "a response ends with <|im_end|> (2), as the chat template ends a turn",
    ]
    model = load_student(StudentConfig("tiny-vl", device="cpu"))
    sample = load_local(str(path)).samples("test")[0]
    prompt, answer = model.encode(sample).ids, model.response_ids(sample, Response("It is 7."))
    assert f"prompt: {len(prompt)} tokens, mask 0 (read)" in found
    assert f"reference: {len(answer)} tokens, mask 1 (trained on)" in found
    places = prompt.count(model.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    assert f"[{places} × <|image_pad|>]" in done.stdout
    at = found.index(f"reference: {len(answer)} tokens, mask 1 (trained on)")
    assert found[at + 1 : at + 4] == ["  │ It is 7.<|im_end|>", *found[at + 2 : at + 4]]
    assert tuple(map(int, found[at + 3].split())) == answer
    assert "thinking: the prompt opens no thought" in found


def test_show_names_what_a_student_cannot_read(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/6.png", "red")
    path = write(tmp_path, **SHOWN)
    done = mmpu("tasks", "show", str(path), "--n", "1", "--student", "tiny-text")
    assert "does not fit: sample 'test-7' has an image" in done.stdout
    assert mmpu("tasks", "show", str(path), "dtype=float32").exit_code == 2, "of which student?"


def test_a_terminal_that_draws_gets_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/6.png", "red")
    path = write(tmp_path, **SHOWN)
    code = "import sys; from mmpu.cli.main import main; sys.stdout.isatty = lambda: True; main()"
    for variables, start in (
        ({"KITTY_WINDOW_ID": "1"}, "\x1b_Gf=100,a=T,m=0;"),
        ({"TERM_PROGRAM": "WezTerm"}, "\x1b]1337;"),
    ):
        clean = {k: v for k, v in os.environ.items() if k not in ("KITTY_WINDOW_ID", "TERM_PROGRAM")}
        done = subprocess.run(
            [sys.executable, "-c", code, "tasks", "show", str(path), "--n", "1"],
            env={**clean, **variables, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert start in done.stdout, done.stderr


def test_new_writes_a_task_that_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = mmpu("tasks", "new", "capitals")
    assert done.exit_code == 0, done.output
    checked = mmpu("tasks", "check", "capitals.yaml")
    assert checked.exit_code == 0, checked.output
    assert "note" not in checked.stdout
    assert "What is the capital of" in mmpu("tasks", "show", "capitals.yaml").stdout
    again = mmpu("tasks", "new", "capitals")
    assert again.exit_code == 2
    assert "capitals.yaml exists" in again.stderr
    assert mmpu("tasks", "new", "lakes", "--folder", "mine/tasks").exit_code == 0
    assert (tmp_path / "mine/tasks/lakes.jsonl").is_file()


def test_search_and_aliases() -> None:
    names = [line.split()[0] for line in mmpu("tasks", "search", "gsm8k").stdout.splitlines()]
    assert {"gsm8k", "gsm-plus"} <= set(names)
    assert "shapes" not in names
    assert mmpu("tasks", "search", "no such words").exit_code == 2
    assert load_task("CFCW").name == "writingprompts-cw"
    assert load_task("countprob").name == "compmath-count"
    with pytest.raises(
        UserError, match="no task 'CountPrb' on the search path and no such file; did you mean 'CountProb'"
    ):
        load_task("CountPrb")


# -----------------------------------------------------------------------------------------------------------------
# files elsewhere, and code


def test_data_is_given_by_task_alias_or_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    write(tmp_path / "tasks", aliases=["SUM"], dataset="arithmetic")
    write(tmp_path / "moved", ROWS[6:8])
    for name in ("sums", "SUM", "arithmetic"):
        done = mmpu("tasks", "show", "sums", "--n", "9", "--data", f"{name}={tmp_path}/moved", "--data", "shapes=x")
        assert done.stdout.count("──") == 2
    done = mmpu("tasks", "show", "sums", "--data", f"arithmetik={tmp_path}/moved")
    assert done.exit_code == 2
    assert "no task or data set is named 'arithmetik'; did you mean 'arithmetic'?" in done.stderr


def test_an_evaluation_takes_data_by_name_and_defaults_from_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    keys = {"judge": "rule", "baseline": "reference", "evaluate": "validation", "reference": "{{ a }}"}
    write(tmp_path / "tasks", dataset="arithmetic", splits={"validation": {}}, **keys)
    write(tmp_path / "moved", ROWS[6:8])
    rows = [{"id": f"validation-{i}", "output": "7"} for i in (1, 2)]
    Path("ours.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = mmpu("eval", "ours=ours.jsonl", "--task", "sums", "--data", "arithmetic=moved")
    assert done.exit_code == 0, done.output
    (ours,) = [e for e in recipe_board("sums").entries if e.system.name == "ours"]
    assert (ours.split, ours.baseline.name, ours.accuracy.value if ours.accuracy else None) == (
        "validation",
        "reference",
        0.5,
    )
    bare = write(tmp_path / "bare", name="bare")
    done = mmpu("eval", "ours=ours.jsonl", "--task", str(bare))
    assert (done.exit_code, done.stderr) == (2, "mmpu: task bare names no judge; choose one with --judge\n")


def recipe_board(task: str) -> Any:
    from mmpu.boards import read

    return read(Path(f"leaderboards/{task}.rule.json"))


CODE = "def rows(split):\n    yield {'q': '1+1?', 'a': '2', 'n': 1}\n    yield {'q': '1+8?', 'a': '9', 'n': 8}\n"


def test_python_beside_a_yaml_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "tasks", source="rows.py")
    path.with_name("rows.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{CODE}")
    for arguments in (["show", str(path)], ["check", str(path)]):
        done = mmpu("tasks", *arguments)
        assert done.exit_code == 2
        assert "sums.yaml runs the code of " in done.stderr
        assert "rows.py; read it, and allow it with --trust" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert mmpu("tasks", "show", str(path), "--trust").exit_code == 0
    assert (tmp_path / "ran").exists()
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    assert mmpu("tasks", "show", "sums").exit_code == 0, "the search path is trusted"


def test_templates_run_no_code(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    attack = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch "
        + f"{ran}')"
        + " }}"
    )
    for keys in ({"prompt": [{"user": attack}]}, {"splits": {"test": {"where": "q.__class__.__mro__"}}}):
        with pytest.raises(UserError):
            load_task(str(write(tmp_path, **keys))).samples("test")
    assert not ran.exists()


def test_an_image_does_not_leave_the_data_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", "red")
    for escape in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png"):
        path = write(tmp_path / "in", prompt=[{"user": [{"image": escape}, "{{ q }}"]}])
        with pytest.raises(
            UserError, match=r"rows\.jsonl, line 1: .* leaves the data folder .*/in; point `data` higher"
        ):
            load_task(str(path)).samples("train")


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"q": ["x"], "a": "1"}, {}, "line 1: `prompt` of sums.yaml: a field is a list, not a text"),
        ({"q": {"x": 1}, "a": "1"}, {}, "line 1: `prompt` of sums.yaml: a field is a mapping, not a text"),
        ({"q": "x", "a": "1"}, {"derive": {"b": "a + 1"}}, "line 1: `derive.b` of sums.yaml: "),
        ({"q": "x", "a": "1"}, {"derive": {"b": "c"}, "answer": "{{ b }}"}, "'c' is undefined"),
        ({"q": "x", "a": "1"}, {"prompt": [{"messages": "{{ q }}"}]}, "`messages` must be a list of {role, content}"),
        ({"q": [{"role": "x"}], "a": "1"}, {"prompt": [{"messages": "{{ q }}"}]}, "a message has a role (system, user"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, row: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_task(str(write(tmp_path, [row], splits={"test": {}}, **keys))).samples("test")
    assert "rows.jsonl, line 1" in str(error.value)
    assert message in str(error.value)


def test_nothing_is_trained_on_an_evaluation_split(tmp_path: Path) -> None:
    path = write(tmp_path, reference="{{ a }}")
    values = {
        "run": str(tmp_path / "run"),
        "student": {"model": "tiny-text", "device": "cpu"},
        "task": str(path),
        "teacher": "reference",
        "stages": [{"name": "sft", "method": "sft", "split": "test[:2]"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        UserError, match=r"stage 'sft': the split 'test\[:2\]' of sums is for evaluation; train on another"
    ):
        recipe.train(str(tmp_path / "config.yaml"))
