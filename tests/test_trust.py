"""The border between what is trusted and what is data (docs/security.md)."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpu.core import UserError
from mmpu.media import image_size, load_image
from mmpu.recipes.evaluation import EvalOptions, estimate
from mmpu.recipes.runs import contender, export
from mmpu.task import load_local, load_task

ROW = '{"q": "one?", "a": "1", "picture": "p.png"}\n'


def task(folder: Path, **keys: Any) -> str:
    values = {
        "source": "rows.jsonl",
        "prompt": [{"user": "{{ q }}"}],
        "answer": "{{ a }}",
        "reference": "{{ a }}",
        "grader": "exact",
        "splits": {"test": {}},
        "judge": "rule",
        "baseline": "reference",
    }
    folder.mkdir(exist_ok=True)
    (folder / "t.yaml").write_text(yaml.safe_dump(values | keys))
    if not os.path.lexists(folder / "rows.jsonl"):
        (folder / "rows.jsonl").write_text(ROW)
    return str(folder / "t.yaml")


@pytest.mark.parametrize(
    "keys",
    [
        {"source": "../rows.jsonl"},
        {"source": "/etc/hostname"},
        {"source": "~/rows.jsonl"},
        {"source": "sub/../../rows.jsonl"},
        {"source": "a\0b.jsonl"},
        {"source": "link.jsonl"},
        {"source": "links/rows.jsonl"},
        {"source": "link*.jsonl"},
        {"source": "links"},
        {"source": "link.zip/rows.jsonl"},
        {"source": "rows.py"},
        {"source": "../x.py"},
        {"data": "/etc"},
        {"data": ".."},
        {"data": "links"},
        {"splits": {"test": {"source": "../rows.jsonl"}}},
        {"source": "hf:../x"},
        {"source": "hf:x/.."},
        {"prompt": [{"user": [{"image": "link.png"}, "x"]}]},
        {"prompt": [{"user": [{"image": "../p.png"}, "x"]}]},
        {"source": "loop.jsonl"},
    ],
)
def test_a_task_by_its_path_stays_in_its_folder(tmp_path: Path, keys: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/rows.jsonl").write_text(ROW)
    (tmp_path / "outside/metadata.jsonl").write_text('{"file_name": "x.png", "q": "x", "a": "1"}\n')
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.jsonl", ROW)
    path = task(tmp_path / "t", **keys)
    for link, target in {"link.jsonl": "rows.jsonl", "links": "outside", "link.zip": "rows.zip"}.items():
        (tmp_path / "t" / link).symlink_to(tmp_path / target)
    (tmp_path / "t/link.png").symlink_to("/etc/hostname")
    (tmp_path / "t/loop.jsonl").symlink_to(tmp_path / "t/loop.jsonl")
    (tmp_path / "t/rows.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=r"leaves|--trust|cannot read 'hf:|no such file"):
        load_task(path).samples("test")


def test_what_the_user_says_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    path = task(tmp_path / "t", source="../rows.jsonl")
    assert load_task(path, trust=True).samples("test")
    assert load_task(path, source=str(tmp_path / "rows.jsonl")).samples("test")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").symlink_to(tmp_path / "rows.jsonl")
    assert load_local(task(tmp_path / "u"), str(tmp_path / "data")).samples("test")
    (tmp_path / "mine").mkdir()
    task(tmp_path / "mine/tasks", source="../../rows.jsonl")
    monkeypatch.setenv("MMPU_PATH", str(tmp_path / "mine"))
    assert load_task("t").samples("test")


@pytest.mark.parametrize(
    "keys",
    [
        {"judge": "evil.yaml"},
        {"judge": "./evil.yaml"},
        {"baseline": "run"},
        {"baseline": "x=run"},
        {"baseline": "run/0-sft"},
        {"baseline": "../answers.jsonl"},
        {"baseline": "/etc/answers.jsonl"},
        {"baseline": "~/x"},
    ],
)
def test_a_task_by_its_path_names_no_judge_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = {"kind": "pairwise", "engine": {"name": "openai", "model": "m", "url": "http://evil/v1", "key_from": "AWS"}}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(evil))
    (tmp_path / "run/0-sft").mkdir(parents=True)
    path = task(tmp_path / "t", **keys)
    with pytest.raises(UserError, match=r"--trust"):
        estimate(EvalOptions(("reference",), path))
    (tmp_path / "t/answers.jsonl").write_text('{"id": "test-1", "output": "2"}\n')
    found = estimate(EvalOptions(("reference",), task(tmp_path / "t", baseline="answers.jsonl")))
    assert found.readings == 1


def test_a_run_s_config_lets_no_python_run(tmp_path: Path) -> None:
    stage = tmp_path / "run/0-sft"
    (stage / "model").mkdir(parents=True)
    (stage / "student.json").write_text('{"base": "model", "adapters": []}')
    values = {"student": {"model": "x", "trust_remote_code": True}, "seed": 0, "stages": [{"method": "sft"}]}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(values))
    remote = {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
    (stage / "model/config.json").write_text(json.dumps(remote))
    (stage / "model/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for target in (tmp_path / "run", stage):
        with pytest.raises(UserError, match=r"trust_remote_code.*--trust"):
            contender("x", str(target))
        with pytest.raises(UserError, match=r"trust_remote_code.*--trust"):
            export(str(target), tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_an_eps_is_no_picture_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (load_image, image_size):
        with pytest.raises(UserError, match="not readable as a picture"):
            read(str(tmp_path / "x.png"))
    assert not started


def _gzip(folder: Path) -> str:
    with gzip.open(folder / "rows.jsonl.gz", "wb") as file:
        for _ in range(70):
            file.write(b" " * 2**20)
    return "rows.jsonl.gz"


def _zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b" " * (70 * 2**20))
    return "a.zip/rows.jsonl"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "rows.csv")
    return "rows.csv"


def _pipe_of_columns(folder: Path) -> str:
    os.mkfifo(folder / "rows.parquet")
    return "rows.parquet"


def _deep(folder: Path) -> str:
    (folder / "rows.json").write_text("[" * 200_000)
    return "rows.json"


def _bytes_that_are_none(folder: Path) -> str:
    (folder / "rows.json").write_text('[{"q": {"bytes": 5, "path": "x"}, "a": "1"}]')
    return "rows.json"


@pytest.mark.parametrize("make", [_gzip, _zip, _pipe, _pipe_of_columns, _deep, _bytes_that_are_none])
def test_rows_that_would_take_for_ever(tmp_path: Path, make: Callable[[Path], str]) -> None:
    with pytest.raises(UserError, match=r"unpacks to|pipe|deep|base64"):
        load_task(task(tmp_path, source=make(tmp_path))).samples("test")
