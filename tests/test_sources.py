"""Columnar files, folders and archives of pictures, and data sets of the hub, as local copies of them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from hub import COMMIT, Hub
from mmpu.core import UserError, user
from mmpu.media.images import load_image
from mmpu.task.check import check
from mmpu.task.hub import HubSource
from mmpu.task.yaml_task import YamlTask, load_task
from sums import ROWS, jsonl, png


def task(folder: Path, **keys: Any) -> YamlTask:
    values: dict[str, Any] = {"prompt": [{"user": "{{ q }}"}], "answer": "{{ a }}", "splits": {"test": {}}, **keys}
    (folder / "sums.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_task(str(folder / "sums.yaml"), **({"data": keys["data"]} if "data" in keys else {}))


@pytest.fixture(scope="module")
def _pyarrow() -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmpu[datasets]'")


@pytest.fixture(scope="module")
def _datasets() -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: pip install 'mmpu[datasets]'")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


# -----------------------------------------------------------------------------------------------------------------
# columnar files


@pytest.mark.usefixtures("_pyarrow")
@pytest.mark.parametrize("kind", ["parquet", "stream.arrow", "file.arrow"])
def test_columnar_files(tmp_path: Path, kind: str) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    if kind == "parquet":
        write_parquet(tmp_path / kind, ROWS)
        (tmp_path / kind).rename(tmp_path / "rows.parquet")
    else:
        make = pyarrow.ipc.new_stream if kind.startswith("stream") else pyarrow.ipc.new_file
        with make(str(tmp_path / "rows.arrow"), table.schema) as writer:
            writer.write_table(table)
    samples = task(tmp_path, source=f"rows.{kind.split('.')[-1]}").samples("test")
    assert [(s.prompt, s.answer) for s in samples] == [(user(row["q"]), row["a"]) for row in ROWS]


@pytest.mark.usefixtures("_pyarrow")
def test_a_pattern_names_several_files_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/test-00000-of-00002.parquet", ROWS[:4])
    write_parquet(tmp_path / "data/test-00001-of-00002.parquet", ROWS[4:])
    samples = task(tmp_path, source="data/test-*.parquet").samples("test")
    assert [s.answer for s in samples] == [row["a"] for row in ROWS]
    with pytest.raises(UserError, match=r"none-\*\.parquet: no such file"):
        task(tmp_path, source="data/none-*.parquet").samples("test")


@pytest.mark.usefixtures("_pyarrow")
@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
def test_a_broken_columnar_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: no such file"):
        task(tmp_path, source=name).samples("test")
    (tmp_path / name).write_bytes(b"not at all")
    with pytest.raises(UserError, match=rf"cannot read .*{name}: "):
        task(tmp_path, source=name).samples("test")


@pytest.mark.usefixtures("_pyarrow")
def test_pictures_in_columns_keep_their_bytes(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "rows.parquet", [{"q": "Colour?", "a": "red", "image": {"bytes": png("red"), "path": "x"}}]
    )
    prompt = [{"user": [{"image": "{{ image }}"}, "{{ q }}"]}]
    (sample,) = task(tmp_path, source="rows.parquet", prompt=prompt).samples("test")
    assert base64.b64decode(sample.images[0].partition(",")[2]) == png("red")
    assert load_image(sample.images[0]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.usefixtures("_pyarrow")
@pytest.mark.parametrize("column", ["images", "deep", "raw"])
def test_pictures_inside_lists_and_structs_and_as_bytes(tmp_path: Path, column: str) -> None:
    picture = {"bytes": png("red"), "path": None}
    row = {"q": "?", "a": "red", "images": [picture, picture], "deep": {"list": [picture]}, "raw": png("red")}
    write_parquet(tmp_path / "rows.parquet", [row])
    source = {"images": "images[0]", "deep": "deep.list[0]", "raw": "raw"}[column]
    prompt = [{"user": [{"image": f"{{{{ {source} }}}}"}, "{{ q }}"]}]
    (sample,) = task(tmp_path, source="rows.parquet", prompt=prompt).samples("test")
    assert base64.b64decode(sample.images[0].partition(",")[2]) == png("red")


@pytest.mark.parametrize("wrap", [str.encode, lambda text: base64.encodebytes(base64.b64decode(text))])
def test_pictures_in_json_are_base64(tmp_path: Path, wrap: Callable[[str], bytes]) -> None:
    picture = {"bytes": wrap(base64.b64encode(png("red")).decode()).decode(), "path": "7.png"}
    (tmp_path / "rows.jsonl").write_text(jsonl([{"q": "?", "a": "red", "images": [picture]}]))
    prompt = [{"user": [{"image": "{{ images }}"}, "{{ q }}"]}]
    (sample,) = task(tmp_path, source="rows.jsonl", prompt=prompt).samples("test")
    assert load_image(sample.images[0]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("image", ["{{ pictures }}", "{{ [first, second] }}", "{{ [first, second] | select }}"])
def test_a_row_has_no_picture_or_one_or_several(tmp_path: Path, image: str) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png("red"))
    shown: list[list[str]] = [[], ["1.png"], ["1.png", "2.png"]]
    rows = [{"q": "?", "a": str(n), "pictures": names} for n, names in enumerate(shown)]
    for row, names in zip(rows, shown, strict=True):
        row["first"], row["second"] = [*names, None, None][:2]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    sums = task(tmp_path, source="rows.jsonl", prompt=[{"user": [{"image": image}, "{{ q }}"]}])
    assert [[Path(i).name for i in s.images] for s in sums.samples("test")] == shown
    facts = check(sums).facts
    assert "test: of pictures, 1 samples have none, 1 samples have 1, 1 samples have 2" in facts


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("{{ first }}", "line 1: `prompt` of sums.yaml: a field is null .* write {{ field or '' }}"),
        ("{{ odd }}", "line 1: `prompt` of sums.yaml: an image is a path, a URL, a data URI or a picture .*got 3"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, image: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(jsonl([{"q": "?", "a": "1", "first": None, "odd": [3]}]))
    with pytest.raises(UserError, match=message):
        task(tmp_path, source="rows.jsonl", prompt=[{"user": [{"image": image}, "{{ q }}"]}]).samples("test")


# -----------------------------------------------------------------------------------------------------------------
# files as they are published


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(jsonl(ROWS))
    assert [s.answer for s in task(tmp_path, source="rows.json").samples("test")] == [row["a"] for row in ROWS]
    (tmp_path / "rows.json").write_text('{"q": "x", "a": "1"}\n{broken\n')
    with pytest.raises(UserError, match=r"rows\.json, line 2: not JSON"):
        task(tmp_path, source="rows.json").samples("test")


def test_a_file_inside_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("deep/rows.jsonl", jsonl(ROWS))
    assert len(task(tmp_path, source="all.zip/deep/rows.jsonl").samples("test")) == 10
    with pytest.raises(UserError, match=r"all\.zip/rows\.jsonl: no such file"):
        task(tmp_path, source="all.zip/rows.jsonl").samples("test")


PICTURES = {"prompt": [{"user": [{"image": "{{ path }}"}, "What is it?"]}], "answer": "{{ label }}", "id": "{{ name }}"}


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for name, colour in (("apples/1.png", "red"), ("limes/2.PNG", "lime")):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        (tmp_path / "pictures" / name).write_bytes(png(colour))
    (tmp_path / "pictures/readme.txt").write_text("no picture")
    one, two = task(tmp_path, source="pictures", **PICTURES).samples("test")
    assert (one.id, one.answer, two.id, two.answer) == ("1", "apples", "2", "limes")
    assert load_image(two.images[0]).getpixel((0, 0)) == (0, 255, 0)
    with pytest.raises(UserError, match="gone: no such folder"):
        task(tmp_path, source="gone", **PICTURES).samples("test")


def test_a_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png("red"))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "apple"}\n{"label": "x"}\n')
    folder = task(tmp_path.parent, source=tmp_path.name, **PICTURES)
    assert [s.answer for s in folder.samples("test[:1]")] == ["apple"]
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 2: field `file_name` must be a picture's path"):
        folder.samples("test")


def test_an_archive_of_pictures(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("apples/1.png", png("red"))
        archive.writestr("2.png", png("lime"))
    two, one = task(tmp_path, source="pictures.zip", **PICTURES).samples("test")
    assert (one.answer, two.answer) == ("apples", None)
    assert load_image(one.images[0]).getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"cannot read .*broken\.zip"):
        task(tmp_path, source="broken.zip", **PICTURES).samples("test")


# -----------------------------------------------------------------------------------------------------------------
# the hub


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:openai/gsm8k", HubSource("openai/gsm8k", None, None, None)),
        ("hf:openai/gsm8k:main", HubSource("openai/gsm8k", "main", None, None)),
        ("hf:a/b@e53f048#train", HubSource("a/b", None, "e53f048", "train")),
        ("hf:a/b-c.d:x_y@refs/pr/3#train+test", HubSource("a/b-c.d", "x_y", "refs/pr/3", "train+test")),
    ],
)
def test_the_parts_of_a_hub_source(source: str, expected: HubSource) -> None:
    assert HubSource.parse(source, "here") == expected


@pytest.mark.parametrize("source", ["hf:", "hf:gsm8k", "hf:a/b/c", "hf:a/b:"])
def test_a_hub_source_that_cannot_be_read(source: str) -> None:
    with pytest.raises(UserError, match=r"here: cannot read 'hf:.*; write hf:org/name"):
        HubSource.parse(source, "here")


def local_copy(folder: Path, size: int | None = None) -> Path:
    """A data set's repository as a clone of the hub has it: a card that names configurations and their files."""
    for split, rows in (("train", ROWS[:6]), ("test", ROWS[6:])):
        write_parquet(folder / f"main/{split}-00000-of-00001.parquet", rows)
    card: dict[str, Any] = {
        "configs": [
            {
                "config_name": "main",
                "data_files": [{"split": s, "path": f"main/{s}-*.parquet"} for s in ("train", "test")],
            }
        ]
    }
    if size is not None:
        features = [{"name": n, "dtype": t} for n, t in (("n", "int64"), ("q", "string"), ("a", "string"))]
        splits = [{"name": s, "num_bytes": size, "num_examples": 5} for s in ("train", "test")]
        card["dataset_info"] = {"config_name": "main", "features": features, "splits": splits}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_datasets")
@pytest.mark.parametrize("size", [None, 2**40])
def test_a_local_copy_takes_the_hub_s_place(tmp_path: Path, size: int | None) -> None:
    """Small splits are loaded, those that the card says are large are streamed; the samples are the same."""
    copy = local_copy(tmp_path / "copy", size)
    ours = task(tmp_path, source="hf:some/sums:main@abc", splits={"train": {}, "test": {}}, data=str(copy))
    assert [s.answer for s in ours.samples("train")] == [row["a"] for row in ROWS[:6]]
    assert [s.answer for s in ours.samples("test[1:3]")] == ["8", "9"]
    named = task(tmp_path, source="hf:some/sums:main#train", data=str(copy))
    assert len(named.samples("test")) == 6


def test_local_files_take_the_hub_s_place(tmp_path: Path) -> None:
    data = tmp_path / "files"
    data.mkdir()
    splits = {"test": {"local": ["first.jsonl", "test.jsonl"]}}
    ours = task(tmp_path, source="hf:some/sums", splits=splits, data=str(data), obtain="ask them for test.jsonl")
    with pytest.raises(UserError) as error:
        ours.samples("test")
    assert "holds none of first.jsonl, test.jsonl for the split 'test'" in str(error.value)
    assert str(error.value).endswith("; ask them for test.jsonl")
    (data / "test.jsonl").write_text(jsonl(ROWS))
    assert len(ours.samples("test")) == 10


@pytest.mark.usefixtures("_datasets")
def test_a_machine_without_network_is_told_the_way_out(tmp_path: Path) -> None:
    task(tmp_path, source="hf:some/sums")
    code = f"from mmpu.task.yaml_task import load_task; load_task({str(tmp_path / 'sums.yaml')!r}).samples('test')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "cannot load some/sums (configuration default, split test)" in done.stderr
    assert "point the task at local files with `--data NAME=PATH`" in done.stderr


def from_the_hub(hub: Hub, arguments: Sequence[str], home: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, whose hub is the one on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "mmpu.cli", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.usefixtures("_datasets")
@pytest.mark.parametrize("size", [None, 2**40])
def test_the_hub_is_asked_for_the_revision_that_is_meant(tmp_path: Path, size: int | None) -> None:
    """A large split is streamed: no byte of another split is asked for."""
    copy = local_copy(tmp_path / "copy", size)
    path = task(tmp_path, source="hf:some/sums:main@v1", splits={"train": {}, "test": {}}).path
    with Hub("some/sums", copy).serving() as hub:
        done = from_the_hub(hub, ["tasks", "show", str(path), "--n", "9"], tmp_path / "home")
    assert "  revision: v1\n" in done.stdout, done.stderr
    assert [line for line in done.stdout.split("\n") if line.startswith("answer")] == [
        f"answer: {n}" for n in range(7, 11)
    ]
    assert "/datasets/some/sums/resolve/v1/README.md" in hub.asked
    assert any("train-00000" in path for path in hub.asked) == (size is None)


@pytest.mark.usefixtures("_datasets")
def test_who_runs_a_task_pins_its_revision_with_one_word(tmp_path: Path) -> None:
    copy = local_copy(tmp_path / "copy")
    path = task(tmp_path, source="hf:some/sums:main").path
    with Hub("some/sums", copy).serving() as hub:
        done = from_the_hub(hub, ["tasks", "show", str(path)], tmp_path / "home")
        assert "revision: not pinned, so the hub's rows may change; pin it with --data sums=@COMMIT" in done.stdout
        assert "/datasets/some/sums/resolve/main/README.md" in hub.asked
        hub.asked.clear()
        done = from_the_hub(hub, ["tasks", "show", str(path), "--data", f"sums=@{COMMIT}"], tmp_path / "home")
        assert f"  revision: {COMMIT}\n" in done.stdout, done.stderr
        assert not any("/resolve/main/" in path for path in hub.asked)


@pytest.mark.usefixtures("_datasets")
def test_a_script_of_a_data_set_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/sums.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = task(tmp_path, source="hf:some/sums").path
    with Hub("some/sums", tmp_path / "copy").serving() as hub:
        done = from_the_hub(hub, ["tasks", "show", str(path)], tmp_path / "home")
    assert done.returncode == 2
    assert "mmpu: cannot load some/sums (configuration default, split test): " in done.stderr
    assert not (tmp_path / "ran").exists()
