"""Rows as people have them: the shapes that docs/tasks.md shows, and what is wrong with others."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import ROOT
from mmpu.core import Sample, UserError
from mmpu.task import load_task
from mmpu.task.check import check

TEXT = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
SHOWN = {
    name: [json.loads(row) for row in rows.splitlines()]
    for name, rows in re.findall(r"^```jsonl\n# (\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
}
"""The rows that the document shows, by format."""


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


ASKED, SAID = turn("user", "2 + 2?"), turn("assistant", "4")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def read(folder: Path, *rows: Any, name: str = "test.jsonl", **keys: Any) -> list[Sample]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(load_task(str(folder / name), **keys).samples("test"))


def texts(sample: Sample) -> list[tuple[str, list[str]]]:
    return [(m.role, [Path(p.data).name if p.kind == "image" else p.data for p in m.parts]) for m in sample.prompt]


def refused(folder: Path, *rows: Any, **keys: Any) -> str:
    with pytest.raises(UserError) as error:
        read(folder, *rows, **keys)
    return str(error.value)


WANTED = {
    "messages": [
        ([("system", ["Be brief."]), ("user", ["cat.png", "What is it?"])], "A cat.", None),
        ([("user", ["cat.png", "What is it?"])], "A cat.", None),
        (
            [("user", ["Weather in Rome?"])],
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            None,
        ),
    ],
    "sharegpt": [([("user", ["cat.png", "What is it?"])], "A cat.", None)],
    "alpaca": [([("user", ["Hello"]), ("assistant", ["Bonjour"]), ("user", ["Translate.\nchat"])], "cat", None)],
    "prompt_completion": [
        ([("user", ["What is 2 + 2?"])], "4", None),
        ([("user", ["cat.png", "What is it?"])], "A cat.", None),
        ([("user", ["What is 2 + 2?"])], "4", None),
    ],
    "prompt_only": [([("user", ["Tell me a story."])], None, None)],
    "preference": [
        ([("user", ["What is 2 + 2?"])], "4", ("4", "5")),
        ([("user", ["2 + 2?"])], "4", ("4", "5")),
        ([("user", ["2 + 2?"])], "4", ("4", "5")),
    ],
    "labelled": [([("user", ["What is 2 + 2?"])], "4", None), None],
}
"""Of each row that the document shows, turns of the prompt, reference and pair; None if it is left out."""


@pytest.mark.parametrize("name", WANTED)
def test_the_formats_that_the_document_shows(tmp_path: Path, name: str) -> None:
    assert WANTED.keys() == SHOWN.keys()
    for row, wanted in zip(SHOWN[name], WANTED[name], strict=True):
        (tmp_path / "test.jsonl").write_text(json.dumps(row))
        task = load_task(str(tmp_path / "test.jsonl"))
        assert task.config.format == ("labelled" if wanted is None else name)
        if wanted is None:
            with pytest.raises(UserError, match="holds no sample"):
                task.samples("test")
            assert dict(task.dropped["test"]) == {"label": 1}
            continue
        (sample,) = task.samples("test")
        assert (texts(sample), sample.reference, sample.pair) == wanted


def test_a_file_is_the_task_whose_yaml_it_writes(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "prompt": f"{n}?", "completion": str(n)} for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(str(tmp_path / "mine.jsonl"))
    (tmp_path / "same.yaml").write_text(task.written)
    same = load_task(str(tmp_path / "same.yaml"))
    assert [s.id for s in task.samples("train")] == [s.id for s in same.samples("train")]
    assert {s.id for split in ("train", "test") for s in task.samples(split)} == {f"r{n}" for n in range(40)}
    assert not check(task).problems
    with pytest.raises(UserError, match=r"no such file.*did you mean 'mine.jsonl'"):
        load_task(str(tmp_path / "mime.jsonl"))


def test_tables_and_lists_hold_the_same_rows(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    picture = {"bytes": png(), "path": None}
    chat = [turn("user", [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}])]
    chat.append(turn("assistant", [{"type": "text", "text": "A cat."}]))
    rows = [{"messages": chat, "images": pictures, "tools": None} for pictures in ([picture], [picture, None])]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    one, other = load_task(str(tmp_path / "test.parquet")).samples("test")
    inline = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert one.images == other.images == (inline,)
    assert one.prompt[0].text == "What is it?"
    parquet.write_table(
        arrow.Table.from_pylist([{"q": png(), "question": "?", "answer": "!"}]), tmp_path / "test.parquet"
    )
    assert load_task(str(tmp_path / "test.parquet")).samples("test")[0].images == (inline,)
    (tmp_path / "test.csv").write_text('messages\n"' + json.dumps([ASKED, SAID]).replace('"', '""') + '"\n')
    (tmp_path / "test.json").write_text(json.dumps([{"messages": [ASKED, SAID]}]))
    for name in ("test.csv", "test.json"):
        (sample,) = load_task(str(tmp_path / name)).samples("test")
        assert (texts(sample), sample.reference) == ([("user", ["2 + 2?"])], "4")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([ASKED, ASKED, SAID], "turns are out of order: turn 2, the user's, follows the user's"),
        ([SAID, ASKED], "turn 1, the assistant's, begins the conversation"),
        ([ASKED, SAID, turn("system", "Be brief.")], "turn 3, the system's, follows the assistant's"),
        ([turn("system", "Be brief.")], "has no turn of a user"),
        ([], "has no turn of a user"),
        ([ASKED, turn("assistant", "")], "turn 2, the assistant's, is empty"),
        ([ASKED, turn("assistant", "<think>\nhm\n</think>\n\n")], "turn 2, the assistant's, is empty"),
        ([ASKED, turn("assistant", "<think>\nhm")], "ends within its thoughts"),
        ([turn("user", None), SAID], "turn 1, the user's, has no content (null)"),
        (
            [turn("narrator", "Once"), SAID],
            "turn 1 says 'narrator'; a message has a role (system, user, assistant, tool",
        ),
        (["2 + 2?"], "turn 1 is no mapping with a role and a content"),
        ("2 + 2?", "`messages` must be a list of {role, content}"),
        ([turn("user", [{"type": "video", "video": "a.mp4"}]), SAID], "turn 1 holds video, which no format reads"),
        (
            [ASKED, turn("assistant", [{"type": "image", "image": "a.png"}])],
            "the assistant's, holds a picture; only the",
        ),
        ([turn("user", [{"text": 4}]), SAID], "a part that is neither a text nor a picture"),
        ([turn("user", "<image>?"), SAID], "its turns mark 1 pictures, the row has none"),
        ([turn("user", [{"type": "image"}, {"type": "image"}]), SAID], "its turns mark 2 pictures, the row has none"),
        ([ASKED, turn("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}])], "no tool call"),
        ([turn("user", "2 + 2?", loss=True), SAID], "only the assistant's are"),
        ([ASKED, turn("assistant", "4", weight=0.5)], "turn 2 weighs 0.5"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_or_counted(tmp_path: Path, row: object, message: str) -> None:
    good = {"messages": [ASKED, SAID]}
    found = refused(tmp_path, good, {"messages": row})
    assert found.startswith(f"{tmp_path}/test.jsonl, line 2: ")
    assert message in found
    assert "unusable: leave_out" in found
    task = load_task(str(tmp_path / "test.jsonl"), unusable="leave_out")
    assert [s.reference for s in task.samples("test")] == ["4"]
    assert dict(task.dropped["test"]) == {"unusable": 1}
    assert task.examples["test"]["unusable"].startswith(f"{tmp_path}/test.jsonl, line 2: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"conversations": []},
            "it lacks `messages` of Messages's rows, and looks like `sharegpt`: one file, one format",
        ),
        ({"text": "x"}, "it lacks `messages` of Messages's rows, and has `text`"),
        ({"messages": [ASKED, SAID], "images": ["a.png"] * 2, "tools": 3}, "its tools are no list of schemas"),
        ({"messages": [turn("user", "<image>"), SAID], "images": ["a.png"] * 2}, "mark 1 pictures, the row has 2"),
        ({"messages": [ASKED, SAID], "images": ["../a.png"]}, "leaves the data folder"),
        ({"messages": [ASKED, SAID], "images": ["/etc/a.png"]}, "leaves the data folder"),
        ({"messages": [ASKED, SAID], "images": [4]}, "a picture is a path, a URL, a data URI or the bytes of a file"),
    ],
)
def test_rows_that_mix_formats_or_leave_the_folder(tmp_path: Path, row: Any, message: str) -> None:
    assert message in refused(tmp_path, {"messages": [ASKED, SAID]}, row)


def test_a_history_is_a_list_of_pairs(tmp_path: Path) -> None:
    row = {"instruction": "?", "output": "!", "history": True}
    assert "`history` is no list of pairs" in refused(tmp_path, row)


def test_the_nearest_format_is_named(tmp_path: Path) -> None:
    found = refused(tmp_path, {"promt": "?", "choosen": "a", "reject": "b"})
    assert "test.jsonl, line 1: no format is recognised in a row of `promt`, `choosen`, `reject`" in found
    assert "nearest is `preference`" in found
    assert "derive: {chosen: choosen, rejected: reject}" in found
    assert "nearest is `sharegpt`" in refused(tmp_path, {"conversation": []})
    assert "has the same id 'a'" not in refused(tmp_path, {"id": "a", "prompt": "?"}, {"id": "a", "prompt": "!"})
    assert "line 1 and line 2 have the same id 'a'" in refused(
        tmp_path, {"id": "a", "prompt": "?"}, {"id": "a", "prompt": "!"}
    )


def test_pairs(tmp_path: Path) -> None:
    whole = {"prompt": "2 + 2?", "chosen": [ASKED, SAID], "rejected": [ASKED, turn("assistant", "5")], "messages": []}
    flat = {"chosen": "What is 2 + 2? It is 4", "rejected": "What is 2 + 2? It is 5"}
    same = {"prompt": "?", "chosen": "4", "rejected": "4"}
    found = read(tmp_path, whole, flat, same)
    assert [(s.prompt[0].text, s.pair) for s in found] == [("2 + 2?", ("4", "5")), ("What is 2 + 2? It is", ("4", "5"))]
    task = load_task(str(tmp_path / "test.jsonl"))
    task.samples("test")
    assert dict(task.dropped["test"]) == {"same_answers": 1}
    assert task.examples["test"] == {
        "same_answers": f"{tmp_path}/test.jsonl, line 3: `chosen` and `rejected` are the same"
    }
    for row, message in (
        ({"prompt": "?", "chosen": None, "rejected": "4"}, "`chosen` is null"),
        ({"prompt": "?", "chosen": "", "rejected": "4"}, "is empty"),
        ({"chosen": "yes", "rejected": "no"}, "begin with no prompt"),
        (
            {"chosen": [ASKED, SAID, ASKED], "rejected": [ASKED, SAID]},
            "`chosen` holds no single turn of the assistant's",
        ),
        ({**whole, "prompt": "3 + 3?"}, "begin with other turns than those of `prompt`"),
    ):
        assert message in refused(tmp_path, row)


def test_turns_that_are_not_trained_on(tmp_path: Path) -> None:
    chat = [ASKED, turn("assistant", "4", loss=False), ASKED, SAID, ASKED, turn("assistant", "no", weight=0)]
    (sample,) = read(tmp_path, {"messages": chat})
    assert [m.trained for m in sample.prompt] == [True, False, True]
    assert sample.reference == "4"
    assert "holds no sample" in refused(tmp_path, {"messages": chat[:2]})


def test_a_conversation_with_tools(tmp_path: Path) -> None:
    tools = [{"name": "add", "parameters": {}}]
    call = {"name": "add", "arguments": {"a": 2, "b": 2}}
    chat = [
        {"from": "human", "value": "2 + 2?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "It is 4."},
    ]
    (sample,) = read(tmp_path, {"conversations": chat, "tools": json.dumps(tools)})
    asked, called, told = sample.prompt
    assert json.loads(asked.more) == {"tools": [{"type": "function", "function": tools[0]}]}
    assert json.loads(called.more) == {"tool_calls": [{"type": "function", "function": call}]}
    assert (told.role, told.text, sample.reference) == ("tool", "4", "It is 4.")
    (ends,) = read(tmp_path, {"conversations": chat[:2], "tools": tools})
    assert json.loads(ends.answer or "") == [call]


def test_thoughts_stand_before_the_words(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, {"messages": [ASKED, turn("assistant", "4", reasoning_content="2 and 2")]})
    assert sample.reference == "<think>\n2 and 2\n</think>\n\n4"
