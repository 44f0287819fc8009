"""What others wrote, on a terminal and on a page; and files that are damaged, at every command that reads them."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmpu import boards
from mmpu.boards import tables
from mmpu.cli.main import main
from mmpu.core import UserError
from mmpu.judging import Verdicts
from mmpu.store import Ledger, Store

BOARD = Path(__file__).parent.parent / "leaderboards" / "market.rule.json"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["model[v2]", "a[/b]", "x[bold]y", "\x1b[2Jz\u202e", "a|b\n| c |", "<img onerror=1>"])
def test_a_name_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    board = boards.read(BOARD)
    entries = tuple(replace(e, system=replace(e.system, name=name)) for e in board.entries[:1])
    boards.write(tmp_path / "b.json", replace(board, entries=entries, comparisons=()))
    code, output = run("leaderboard", tmp_path / "b.json")
    assert code == 0
    assert (name if name.isprintable() else name.encode("unicode_escape").decode()[:4]) in output
    assert "\x1b" not in output
    page = tables.markdown(boards.read(tmp_path / "b.json"))
    assert "<img" not in page
    assert "\x1b" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"wins": ', '"wins": -'),
        ('"n": ', '"n": 0'),
        ('"mean_words": ', '"mean_words": NaN, "x": '),
        ('"mean_words": ', '"mean_words": Infinity, "extra": '),
        ('"split"', '"spilt"'),
        ("{", "["),
        ("{", '{"a":' * 5000 + "{"),
    ],
)
def test_a_board_that_no_evaluation_writes_is_refused(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "b.json").write_text(BOARD.read_text().replace(old, new, 1))
    code, output = run("leaderboard", tmp_path / "b.json")
    assert code == 2
    assert "b.json" in output
    plain = json.loads(BOARD.read_text())
    for change in ({"mean_words": float("nan")}, {"n": 0}):
        plain["entries"][0] |= change
        (tmp_path / "b.json").write_text(json.dumps(plain))
        with pytest.raises(UserError, match="no evaluation writes"):
            boards.read(tmp_path / "b.json")


def test_one_broken_task_keeps_no_other_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    for name, text in {
        "five": "aliases: 5",
        "ints": "aliases: [1]",
        "twice": "a: 1\na: 2",
        "date": "about: 2026-99-99",
    }.items():
        (tmp_path / f"tasks/{name}.yaml").write_text(text)
    (tmp_path / "tasks/latin.yaml").write_bytes(b"about: \xff")
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    code, output = run("tasks")
    assert code == 0
    assert "gsm8k" in output
    assert "5 of " in output
    assert all(f"{name}.yaml" in output for name in ("five", "ints", "twice", "date", "latin"))
    assert run("tasks", "search", "gsm8k")[0] == 0
    code, output = run("tasks", "show", "gsm9k")
    assert code == 2
    assert "did you mean 'gsm8k'" in output


def _text(path: Path) -> None:
    path.write_text("not a store, but a text that is long enough to be one " * 100)


def _folder(path: Path) -> None:
    path.mkdir()


def _cut(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE x (y)")
    path.write_bytes(path.read_bytes()[:1000] + b"\xff" * 3000)


@pytest.mark.parametrize("damage", [_text, _folder, _cut])
def test_a_damaged_store_is_named_at_once(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "s.sqlite"
    damage(path)  # pyright: ignore[reportCallIssue]
    began = time.monotonic()
    for make in (Store, Verdicts):
        with pytest.raises(UserError, match=r"s\.sqlite"):
            make(path)
    assert time.monotonic() - began < 30, "sqlite would wait a minute for a lock"


def test_what_a_store_holds_is_read_or_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put({"a": 1})
    for value in ("{", "[" * 100_000, b"\xff"):
        with sqlite3.connect(tmp_path / "s.sqlite") as db:
            db.execute("UPDATE answers SET value = ?", (value,))
        with pytest.raises(UserError, match="damaged"):
            store.get(["a"])
    for text in ("{", "[]", '{"a": -1}', '{"a": NaN}', '{"a": "x"}', "[" * 100_000):
        (tmp_path / "ledger.json").write_text(text)
        with pytest.raises(UserError, match=r"ledger\.json"):
            Ledger(tmp_path / "ledger.json")


def test_what_should_not_happen_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a\nb")

    monkeypatch.setattr("mmpu.cli.tasks._list", broken)
    code, output = run("tasks")
    assert code == 1
    assert output.startswith("mmpu: this should not have happened (RuntimeError: a b)")
