"""The store and the ledger keep what was paid for: through kill -9, two processes at once, and a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmpu.core import UserError
from mmpu.store import Ledger, Store, write_atomically

ROOT = Path(__file__).parent.parent
WRITER = """
import sys
from pathlib import Path
from mmpu.store import Store

path, who = sys.argv[1:]
sys.stdin.readline()  # all start together
store = Store(Path(path))
for i in range(100):
    store.put({f"{who}{i}": [who, i], "contested": who, f"shared{i}": who})
print("done", flush=True)
"""
ENDLESS = """
import itertools, sys
from pathlib import Path
from mmpu.store import Ledger, Store

folder = Path(sys.argv[1])
store, ledger = Store(folder / "s.sqlite"), Ledger(folder / "ledger.json")
for i in itertools.count():
    store.put({f"a{i}": i, f"b{i}": "x" * 1000})
    ledger.add(calls=2)
    ledger.save()
    print(i, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_answers_come_back_as_they_were_put(tmp_path: Path) -> None:
    values = {"a": {"text": "größer\u2028😀", "logp": [-0.1, 1e-300]}, "b": None, "c": [], "d": "\0"}
    store = Store(tmp_path / "deep/er/s.sqlite")
    store.put(values)
    assert store.get([*values, "missing", "a"]) == values
    assert Store(tmp_path / "deep/er/s.sqlite").get(values) == values


def test_the_first_answer_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put({"a": 1})
    store.put({"a": 2, "b": 2})
    assert store.get("ab") == {"a": 1, "b": 2}


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    writers = [start(WRITER, path, who) for who in "xyz"]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate()[0] for writer in writers] == ["done\n"] * 3
    found = Store(path).get([f"{who}{i}" for who in "xyz" for i in range(100)] + ["contested"])
    assert found.pop("contested") in "xyz"
    assert found == {f"{who}{i}": [who, i] for who in "xyz" for i in range(100)}


def test_kill_9_loses_nothing_that_was_put(tmp_path: Path) -> None:
    for _ in range(3):
        with start(ENDLESS, tmp_path) as writer:
            assert writer.stdout
            next(line for line in writer.stdout if int(line) >= 5)
            writer.send_signal(signal.SIGKILL)
            last = max([5, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        store = Store(tmp_path / "s.sqlite")
        found = store.get(f"{kind}{i}" for kind in "ab" for i in range(last + 2))
        assert {f"{kind}{i}" for kind in "ab" for i in range(last + 1)} <= set(found)
        assert (f"a{last + 1}" in found) == (f"b{last + 1}" in found), "a put is whole or not at all"
        assert Ledger(tmp_path / "ledger.json").counts["calls"] >= 2 * (last + 1)
        assert sum(p.suffix == ".tmp" for p in tmp_path.iterdir()) <= 3


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(UserError, match=r"cannot open the store .*s\.sqlite: file is not a database"):
        Store(tmp_path / "s.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot open the store"):
        Store(tmp_path / "file/s.sqlite")


def test_a_full_disk_stores_all_or_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put({"before": 1})
    store._db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(UserError, match="database or disk is full; what was stored before is intact"):
        store.put({"small": 1, "large": "x" * 100_000})
    assert store.get(["before", "small", "large"]) == {"before": 1}
    store.put({"small": 1})


def test_a_ledger_counts_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "run/ledger.json"
    for _ in range(3):
        ledger = Ledger(path)
        ledger.add(teacher_calls=2, steps=1)
        ledger.add(teacher_calls=1)
        ledger.save()
    assert json.loads(path.read_text()) == {"steps": 3, "teacher_calls": 9}
    assert [p.name for p in path.parent.iterdir()] == ["ledger.json"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*x\.json: .*No space left.*what was there before is intact"):
        write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/x.json", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot write"):
            write_atomically(path, "new")
