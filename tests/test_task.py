"""Tasks: every kind of source gives the same samples, and whatever is wrong with one is named where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mmpu.cli.main import main
from mmpu.core import Message, Part, UserError, user
from mmpu.media.images import load_image
from mmpu.task.check import check
from mmpu.task.yaml_task import YamlTask, load_task
from sums import ROWS, SUMS, jsonl, png

NUMBERS: dict[str, Any] = {**SUMS, "splits": {**SUMS["splits"], "all": {}}}


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def task(folder: Path, rows: str | bytes | None = None, name: str = "rows.jsonl", **keys: Any) -> YamlTask:
    """The task in `folder` with NUMBERS' keys but for `keys`; one that is None is left out."""
    folder.mkdir(exist_ok=True)
    if rows is not None:
        (folder / name).write_bytes(rows.encode() if isinstance(rows, str) else rows)
    values = {k: v for k, v in {**NUMBERS, "source": name, **keys}.items() if v is not None}
    (folder / "sums.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_task(str(folder / "sums.yaml"), trust=True)


# -----------------------------------------------------------------------------------------------------------------
# sources

PYTHON = f"ROWS = {ROWS!r}\ndef rows(split):\n    yield from ROWS\n"


@pytest.mark.parametrize(
    ("name", "content", "keys"),
    [
        ("rows.jsonl", jsonl(ROWS), {}),
        ("rows.jsonl", "\ufeff" + jsonl(ROWS).replace("\n", "\r\n\r\n"), {}),
        ("rows.jsonl.gz", gzip.compress(jsonl(ROWS).encode()), {}),
        ("rows.json", json.dumps(ROWS, indent=1), {}),
        ("rows.json.gz", gzip.compress(json.dumps(ROWS).encode()), {}),
        ("rows.csv", as_csv(ROWS), {}),
        ("rows.csv", "\ufeff" + as_csv(ROWS), {}),
        ("rows.csv.gz", gzip.compress(as_csv(ROWS).encode()), {}),
        ("rows.tsv", as_csv(ROWS, "\t"), {}),
        ("rows.tsv.gz", gzip.compress(as_csv(ROWS, "\t").encode()), {}),
        ("rows.tsv", as_csv(ROWS, "\t").encode("utf-16"), {}),
        ("rows.jsonl", jsonl(ROWS[:4]) + "\ufeff" + jsonl(ROWS[4:]), {}),
        ("rows.py", PYTHON, {}),
        ("rows.jsonl", jsonl([list(row.values()) for row in ROWS]), {"fields": ["n", "q", "a"]}),
        ("rows.json", json.dumps([list(row.values()) for row in ROWS]), {"fields": ["n", "q", "a"]}),
    ],
)
def test_every_source_gives_the_same_samples(tmp_path: Path, name: str, content: str, keys: dict[str, Any]) -> None:
    samples = task(tmp_path, content, name, **keys).samples("all")
    assert [(s.prompt, s.answer) for s in samples] == [(user(row["q"]), row["a"]) for row in ROWS]
    assert [s.id for s in samples] == [f"all-{i}" for i in range(1, 11)]


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    (sample,) = task(tmp_path, jsonl([{"q": "a\u2028b\x0cc\x85d", "a": "1"}])).samples("all")
    assert sample.prompt[0].text == "a\u2028b\x0cc\x85d"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.csv.gz"])
def test_a_cell_may_hold_a_picture(tmp_path: Path, name: str) -> None:
    """140,000 characters, more than Python's csv reads unless it is told."""
    long = "A" * 140_000
    text = as_csv([{"q": long, "a": "1"}], "\t" if "tsv" in name else ",")
    (sample,) = task(tmp_path, gzip.compress(text.encode()) if name.endswith("gz") else text, name).samples("all")
    assert sample.prompt[0].text == long


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ('q\ta\n"one\ttwo ""three"""\t1\n', ['one\ttwo "three"']),
        ('q\ta\n"two\nlines"\t1\n', ["two\nlines"]),
        ('q\ta\n"Yes" he said\t1\nNo\t2\n', ['"Yes" he said', "No"]),
        ('q\ta\n"unclosed\t1\nNo\t2\n', ['"unclosed', "No"]),
        ('q\ta\n5" by 6"\t1\n', ['5" by 6"']),
    ],
)
def test_tabs_with_quotes_that_mean_something_and_without(tmp_path: Path, text: str, questions: list[str]) -> None:
    assert [s.prompt[0].text for s in task(tmp_path, text, "rows.tsv").samples("all")] == questions


def test_a_split_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "extra.jsonl").write_text(jsonl([{"q": "own?", "a": "1"}]))
    own = task(tmp_path, jsonl(ROWS), splits={"all": {}, "extra": {"source": "extra.jsonl"}})
    assert [s.prompt[0].text for s in own.samples("extra")] == ["own?"]
    assert len(own.samples("all")) == 10


def test_data_moves_the_files_but_not_the_code(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "rows.jsonl").write_text(jsonl(ROWS[:2]))
    task(tmp_path / "here", jsonl(ROWS))
    assert len(load_task(str(tmp_path / "here/sums.yaml"), data=str(moved)).samples("all")) == 2
    task(tmp_path / "code", PYTHON, "rows.py")
    assert len(load_task(str(tmp_path / "code/sums.yaml"), trust=True, data=str(moved)).samples("all")) == 10


# -----------------------------------------------------------------------------------------------------------------
# splits


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [0, 1, 2, 3, 4, 5]),
        ("test", [6, 7, 8, 9]),
        ("test[1:3]", [7, 8]),
        ("train[4:]", [4, 5]),
        ("train[:2]", [0, 1]),
        ("train[:]", [0, 1, 2, 3, 4, 5]),
        ("test[3:400]", [9]),
    ],
)
def test_splits_and_slices(tmp_path: Path, split: str, expected: list[int]) -> None:
    samples = task(tmp_path, jsonl(ROWS)).samples(split)
    assert [s.answer for s in samples] == [str(n + 1) for n in expected]
    name = split.split("[")[0]
    assert [s.id for s in samples] == [f"{name}-{n + 1}" for n in expected], "a slice does not rename samples"


def test_a_slice_reads_no_further_than_it_has_to(tmp_path: Path) -> None:
    code = """
def rows(split):
    for n in range(1000):
        assert n < 8, "a source may be endless"
        yield {"q": str(n), "a": str(n)}
"""
    assert len(task(tmp_path, code, "rows.py").samples("all[5:8]")) == 3


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("tset", "task sums has no split 'tset'; did you mean 'test'?"),
        ("train[90:]", "task sums: 'train[90:]' holds no sample"),
        ("train[4:2]", "the slice 'train[4:2]' holds nothing; write [start:stop] with a stop after the start"),
        ("train[:0]", "the slice 'train[:0]' holds nothing; write [start:stop] with a stop after the start"),
        ("train[-3:]", "cannot read the split 'train[-3:]'"),
        ("train[3]", "cannot read the split 'train[3]'"),
        ("", "cannot read the split ''"),
    ],
)
def test_a_split_that_is_not_there(tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        task(tmp_path, jsonl(ROWS)).samples(split)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [("m < 3", "fails on line 1: 'm' is undefined"), ("q < 3", "fails on line 1"), ("n <", "cannot read `where: n <`")],
)
def test_a_condition_that_cannot_be_evaluated(tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        task(tmp_path, jsonl(ROWS), splits={"all": {"where": where}}).samples("all")
    assert message in str(error.value)
    assert "sums.yaml" in str(error.value)


# -----------------------------------------------------------------------------------------------------------------
# shares

MANY = [{"n": i, "q": f"What is {i}+1?", "a": str(i + 1), "story": f"S{i // 10}"} for i in range(1000)]
SHARES = {"train": "90%", "test": {"share": "10 %"}}


def test_shares_part_the_rows(tmp_path: Path) -> None:
    """Every row is in one split; which one depends on the row alone, not on its neighbours or its place."""
    whole = task(tmp_path, jsonl(MANY), splits=SHARES)
    train, test = ([s.answer for s in whole.samples(name)] for name in ("train", "test"))
    assert sorted([*train, *test], key=str) == sorted((row["a"] for row in MANY), key=str)
    assert 70 < len(test) < 130, "of a binomial with mean 100 and a standard deviation below 10"
    assert whole.dropped["test"] == {"share": 1000 - len(test)}
    part = task(tmp_path / "part", jsonl(MANY[:400:-1]), splits=SHARES)  # answers 402 to 1000, backwards
    assert {s.answer for s in part.samples("test")} == {a for a in test if int(a) > 401}
    assert check(whole).problems == []


@pytest.mark.parametrize(
    ("keys", "apart"),
    [
        ({"origin": "{{ story }}"}, "story"),
        ({"id": "{{ n }}"}, "n"),
        ({"id": "{{ split }}-{{ n }}"}, "n"),
        ({"prompt": [{"user": "{{ split }}: {{ story }}"}]}, "story"),
    ],
)
def test_what_belongs_together_stays_together(tmp_path: Path, keys: dict[str, Any], apart: str) -> None:
    """By origin, id or prompt; a template that names the split makes no row fall in both."""
    halves = task(tmp_path, jsonl(MANY), splits={"train": "50%", "test": "50%"}, **keys)
    answers = {row["a"]: row[apart] for row in MANY}
    train, test = ([answers[str(s.answer)] for s in halves.samples(name)] for name in ("train", "test"))
    assert len(train) + len(test) == len(MANY)
    assert not set(train) & set(test)
    assert train
    assert test


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "90%", "test": "20%"}, "sums.yaml: the shares of its splits are 110% together; they can be 100%"),
        ({"train": "most", "test": "10%"}, "sums.yaml: the share of the split 'train' is 'most'; write it like 90%"),
        ({"train": "0%"}, "the share of the split 'train' is '0%'"),
    ],
)
def test_shares_that_cannot_be(tmp_path: Path, splits: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        task(tmp_path, jsonl(ROWS), splits=splits).samples("train")


def test_a_source_that_knows_the_split_has_no_shares(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes a share of 'rows.py', which gives each split rows of its own"):
        task(tmp_path, PYTHON, "rows.py", splits=SHARES).samples("train")


@pytest.mark.parametrize(
    ("splits", "same"),
    [
        (None, ["test"]),
        ({"train": {}, "test": {}, "other": {}}, ["test"]),
        ({"train": {"where": "n > 3"}, "test": {"where": "n > 3"}}, ["test"]),
        ({"train": {}, "test": "10%"}, ["test"]),
        ({"train": "90%", "test": {}}, ["test"]),
        ({"train": "90%", "test": "10%"}, []),
        ({"train": {}, "test": {"part_of": "train"}}, []),
        ({"train": {"where": "n > 3"}, "test": {"where": "n <= 3"}}, []),
        ({"train": {"where": "n > 3 and split"}, "test": {"where": "n > 3 and split"}}, []),
        ({"train": {}, "test": {"source": "other.jsonl"}}, []),
        ({"train": {}}, []),
    ],
)
def test_splits_of_the_same_rows_are_known(tmp_path: Path, splits: dict[str, Any] | None, same: list[str]) -> None:
    sums = task(tmp_path, jsonl(ROWS), splits=splits)
    assert sums.same_rows("train") == same
    hub = task(tmp_path, source="hf:some/sums", splits=splits)
    assert hub.same_rows("train") == []


def test_nothing_is_trained_on_the_rows_that_it_is_evaluated_on(tmp_path: Path) -> None:
    sums = task(tmp_path, jsonl(ROWS), splits=None)
    stage = {"name": "sft", "method": "sft", "split": "train[:5]"}
    values = {"run": str(tmp_path / "run"), "student": {"model": "tiny-text", "device": "cpu"}, "stages": [stage]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**values, "task": str(sums.path), "teacher": "reference"}))
    done = CliRunner().invoke(main, ["train", str(tmp_path / "config.yaml")])
    assert done.exit_code == 2
    assert "stage 'sft': sums would be trained and evaluated on the same rows, those of 'train' and 'test'; write " in (
        done.stderr
    )
    assert "`splits: {train: 90%, test: 10%}` in sums.yaml to part them by a hash of the prompt" in done.stderr
    assert not (tmp_path / "run/config.yaml").exists()
    assert "train and test hold the same rows" in check(sums).problems[0]


# -----------------------------------------------------------------------------------------------------------------
# what can be wrong with rows


def refusal(folder: Path, rows: str | bytes | None, name: str = "rows.jsonl", **keys: Any) -> str:
    with pytest.raises(UserError) as error:
        task(folder, rows, name, **keys).samples("all")
    return str(error.value).replace(str(folder) + "/", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", jsonl(ROWS[:2]) + "{oops\n", "rows.jsonl, line 3: not JSON ("),
        ("rows.jsonl", "3\n", "rows.jsonl, line 1: not a mapping; name its columns with `fields`"),
        ("rows.json", "[{]", "rows.json: not JSON ("),
        ("rows.json", '{"q": 1}', "rows.json: must hold a list of rows"),
        ("rows.csv", "q,a\nx,1\ny\n", "rows.csv, row 2: has not as many columns as the header"),
        ("rows.csv", "q,a\nx,1,2\n", "rows.csv, row 1: has not as many columns as the header"),
        ("rows.tsv", "q\ta\nx\t1\ny\n", "rows.tsv, row 2: has not as many columns as the header"),
        ("rows.jsonl", b"\xff\xfd{", "cannot read rows.jsonl: it is no UTF-8 text"),
        ("rows.jsonl", b"\xff\xfe{", "cannot read rows.jsonl: it is no UTF-16 text"),
        ("rows.jsonl.gz", b"not gzip", "cannot read rows.jsonl.gz: Not a gzipped file"),
        ("rows.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-6], "cannot read rows.jsonl.gz: "),
        ("rows.jsonl.gz", gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20, "cannot read rows.jsonl.gz: "),
        ("rows.jsonl", None, "rows.jsonl: no such file; correct `source`, or point `data` at its folder"),
        ("rows.py", None, "rows.py: no such file, or it does not define rows(split)"),
        ("rows.py", "row = 3\n", "rows.py: no such file, or it does not define rows(split)"),
        ("rows.py", "def rows(split):\n    yield 3\n", "rows.py, row 1: not a mapping"),
        ("rows.txt", "", "rows.txt: a source is .jsonl, .json, .csv, .tsv (or these with .gz), .parquet, "),
        ("rows.jsonl", "", "task sums: 'all' holds no sample (from rows.jsonl)"),
    ],
)
def test_a_broken_source_is_named(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    assert message in refusal(tmp_path, content, name)


def test_what_is_meant_in_place_of_nan_is_written(tmp_path: Path) -> None:
    (sample,) = task(tmp_path, jsonl([{"q": "x", "a": math.nan}]), answer="{{ a or 'none' }}").samples("all")
    assert sample.answer == "none"


@pytest.mark.parametrize("row", [{"q": "cut \ud83d", "a": "1"}, {"q": "x", "a": ["ok", {"deep": "\ude00 cut"}]}])
def test_half_a_character_is_named_with_its_field(tmp_path: Path, row: dict[str, Any]) -> None:
    whole = {"q": "whole \U0001f600", "a": "1"}
    text = "".join(json.dumps(each) + "\n" for each in (whole, row))
    field = "field 'q'" if row["a"] == "1" else "field 'a'.1.deep"
    assert refusal(tmp_path, text).startswith(f"rows.jsonl, line 2, {field}: half a surrogate pair ('\\ud")


def test_list_rows_need_as_many_names_as_columns(tmp_path: Path) -> None:
    message = refusal(tmp_path, jsonl([[1, "q", "a"], [1, "q"]]), fields=["n", "q", "a"])
    assert message.startswith("rows.jsonl, line 2: not a mapping; `fields` names 3 columns")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"prompt": [{"user": "{{ qq }}"}]},
            "rows.jsonl, line 2: `prompt` of sums.yaml: 'qq' is undefined; the row has: q",
        ),
        ({"answer": "{{ b }}"}, "`answer` of sums.yaml: 'b' is undefined"),
        ({"reference": "{{ q.deep }}"}, "`reference` of sums.yaml: "),
        ({"id": "{{ i }}"}, "`id` of sums.yaml: 'i' is undefined"),
        ({"meta": {"letter": "{{ l }}"}}, "`meta.letter` of sums.yaml: 'l' is undefined"),
        ({"answer": "{{ a"}, "`answer` of sums.yaml: unexpected end of template"),
        ({"prompt": [{"user": "{{ maybe }}"}]}, "rows.jsonl, line 2: `prompt` of sums.yaml: a field is null"),
        ({"prompt": [{"user": " {{ blank }}"}]}, "rows.jsonl, line 2: the prompt is empty"),
        ({"answer": "{{ nan }}"}, "rows.jsonl, line 2: `answer` of sums.yaml: a field is null (or NaN)"),
        ({"answer": "{{ deep.nan[0] }}"}, "`answer` of sums.yaml: a field is null (or NaN)"),
        ({"meta": {"n": "{{ nan }}"}}, "`meta.n` of sums.yaml: a field is null (or NaN)"),
        ({"answer": "{{ inf }}"}, "`answer` of sums.yaml: a field is -inf, which is no number to write"),
        ({"answer": "{{ 0 * inf }}"}, "`answer` of sums.yaml: a field is nan, which is no number to write"),
    ],
)
def test_a_field_is_missing(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    full = {"q": "x", "qq": "x", "a": "1", "b": "1", "i": "i", "l": "A", "maybe": "x", "blank": "x"}
    full |= {"nan": 1.0, "deep": {"nan": [1.0]}, "inf": 1.0}
    bare = {"q": "x", "a": "1", "maybe": None, "blank": "", "nan": math.nan, "deep": {"nan": [math.nan]}}
    bare |= {"inf": -math.inf}
    assert message in refusal(tmp_path, jsonl([full, bare]), **keys)


def test_an_answer_that_a_row_leaves_empty_is_no_answer(tmp_path: Path) -> None:
    rows = [{"q": "x", "a": None}, {"q": "y", "a": "2"}]
    kept = task(tmp_path, jsonl(rows), answer="{{ a or '' }}").samples("all")
    assert [s.answer for s in kept] == [None, "2"]


def test_ids(tmp_path: Path) -> None:
    named = task(tmp_path, jsonl(ROWS), id="sum/{{ n }}")
    assert [s.id for s in named.samples("test")] == ["sum/6", "sum/7", "sum/8", "sum/9"]
    message = refusal(tmp_path, jsonl([*ROWS, ROWS[3]]), id="{{ n }}")
    assert message == "rows.jsonl: line 4 and line 11 have the same id '3'"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": []}, "`prompt` has no turn"),
        ({"prompt": [{"human": "x"}]}, "a turn of `prompt` is `user:`, `system:` or `assistant:`"),
        ({"prompt": [{"user": "x", "system": "y"}]}, "a turn of `prompt` is `user:`, `system:` or `assistant:`"),
        ({"prompt": [{"user": [{"video": "x"}]}]}, "a part of a turn is a text or {image: …}"),
        ({"prompt": "x"}, "sums.yaml.prompt: 'x' will not do"),
        ({"prompt": None}, "the key 'prompt' is missing"),
        ({"grader": "nmber"}, "no grader 'nmber' on the search path; did you mean 'number'?"),
        ({"grader": {"name": "number", "tolerence": 1}}, "sums.yaml.grader: unknown key 'tolerence'"),
        ({"splits": {"all": {"wher": "n < 3"}}}, "sums.yaml.splits.all: unknown key 'wher'; did you mean 'where'?"),
        ({"source": None}, "neither the task nor its split 'all' names a `source`"),
    ],
)
def test_a_broken_yaml_is_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert message in refusal(tmp_path, jsonl(ROWS), **keys)


# -----------------------------------------------------------------------------------------------------------------
# prompts


def test_several_turns_keep_their_roles_and_parts(tmp_path: Path) -> None:
    prompt = [
        {"system": "Be brief."},
        {"user": ["{{ q }}", "One number."]},
        {"assistant": "Hm."},
        {"user": "Well?"},
    ]
    (sample,) = task(tmp_path, jsonl(ROWS[:1]), prompt=prompt, reference="So {{ a }}", meta={"n": "{{ n }}"}).samples(
        "all"
    )
    assert sample.prompt == (
        Message("system", (Part("text", "Be brief."),)),
        Message("user", (Part("text", "What is 0+1?"), Part("text", "One number."))),
        Message("assistant", (Part("text", "Hm."),)),
        Message("user", (Part("text", "Well?"),)),
    )
    assert (sample.reference, sample.answer, sample.meta) == ("So 1", "1", {"n": 0})


def test_a_row_s_text_is_no_template_and_no_markup(tmp_path: Path) -> None:
    text = "{{ a }} <b> {% if %} & \"quoted\" 'too'\n"
    (sample,) = task(tmp_path, jsonl([{"q": text, "a": "1"}])).samples("all")
    assert sample.prompt[0].text == text


IMAGE = [{"user": [{"image": "pictures/{{ n }}.png"}, "{{ q }}"]}]


def test_image_paths_start_at_the_task_or_at_data(tmp_path: Path) -> None:
    for folder, colour in (("here", "red"), ("there", "blue")):
        (tmp_path / folder / "pictures").mkdir(parents=True)
        (tmp_path / folder / "pictures/0.png").write_bytes(png(colour))
        (tmp_path / folder / "rows.jsonl").write_text(jsonl(ROWS[:1]))
    here = task(tmp_path / "here", prompt=IMAGE)
    there = load_task(str(here.path), data=str(tmp_path / "there"))
    colours = [load_image(t.samples("all")[0].images[0]).getpixel((0, 0)) for t in (here, there)]
    assert colours == [(255, 0, 0), (0, 0, 255)]


def test_images_inside_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("deep/0.png", png("lime"))
    prompt = [{"user": [{"image": "pictures.zip/deep/{{ n }}.png"}, "{{ q }}"]}]
    (sample,) = task(tmp_path, jsonl(ROWS[:1]), prompt=prompt).samples("all")
    assert sample.images == (str(tmp_path / "pictures.zip/deep/0.png"),)
    assert load_image(sample.images[0]).getpixel((3, 3)) == (0, 255, 0)


def test_pictures_that_code_yields_travel_inline(tmp_path: Path) -> None:
    code = "from PIL import Image\ndef rows(split):\n    yield {'image': Image.new('RGB', (3, 2), 'red'), 'a': '1'}\n"
    drawn = task(tmp_path, code, "draw.py", prompt=[{"user": [{"image": "{{ image }}"}, "Colour?"]}])
    (sample,) = drawn.samples("all")
    assert sample.images[0].startswith("data:image/png;base64,")
    assert load_image(sample.images[0]).size == (3, 2)


def test_addresses_stay_as_they_are(tmp_path: Path) -> None:
    prompt = [{"user": [{"image": "https://example.org/{{ n }}.png"}, "{{ q }}"]}]
    (sample,) = task(tmp_path, jsonl(ROWS[:1]), prompt=prompt).samples("all")
    assert sample.images == ("https://example.org/0.png",)


@pytest.mark.parametrize("name", ["market", "shapes"])
def test_the_generated_tasks_hold_together(name: str) -> None:
    ours = load_task(name)
    for split in ours.config.splits:
        samples = ours.samples(f"{split}[:40]")
        assert len(samples) == 40
        for sample in samples:
            assert ours.grade(sample, sample.reference or "") == 1, sample
            assert ours.grade(sample, "I do not know.") == 0
