"""The store and the ledger keep what was paid for: through kill -9, two processes at once, and a full disk."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mmpu.core import UserError
from mmpu.store.store import Ledger, Store, new_owner, write_atomically

ROOT = Path(__file__).parent.parent
WRITER = """
import sys
from pathlib import Path
from mmpu.store.store import Store

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
from mmpu.store.store import Ledger, Store

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
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(UserError, match="database or disk is full; what was stored before is intact"):
        store.put({"small": 1, "large": "x" * 100_000})
    assert store.get(["before", "small", "large"]) == {"before": 1}
    store.put({"small": 1})


def test_a_claim_is_one_owner_s_until_it_is_released_or_lapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    one, two = Store(path), Store(path)
    now = 1000.0
    monkeypatch.setattr("mmpu.store.store.time.time", lambda: now)
    first, second = new_owner(), new_owner()
    assert one.claim("abc", first, 30) == set("abc")
    assert one.claim("abc", first, 30) == set("abc"), "its own"
    assert two.claim("cd", second, 30) == {"d"}
    one.release(first, "a")
    assert two.claim("abc", second, 30) == {"a"}
    now += 20
    one.renew(first, 30)
    now += 20
    assert two.claim("abc", second, 30) == {"a"}, "renewed"
    now += 31
    assert one.claim("abcd", first, 30) == set("abcd"), "both lapsed"
    one.release(first)
    assert two.claim("abcd", second, 30) == set("abcd")


def test_holdings_and_pruning_go_by_model_age_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    now = 0.0
    monkeypatch.setattr("mmpu.store.store.time.time", lambda: now)
    for day in range(10):
        now = day * 86400.0
        store.put({f"a{day}": "x" * 10_000}, "large")
        store.put({f"b{day}": "x"}, "small")
    large, small = store.holdings()
    assert (large.model, large.answers, large.oldest, large.newest) == ("large", 10, 0, 9 * 86400)
    assert large.bytes == 10 * (10_002 + 2)
    assert (small.model, small.answers, small.bytes) == ("small", 10, 10 * (3 + 2))
    before = store.bytes
    assert store.prune(before=3 * 86400, model="large") == 3
    assert store.prune(most_bytes=3 * 10_004, model="large") == 4
    assert set(store.get([f"a{i}" for i in range(10)])) == {"a7", "a8", "a9"}, "the newest stay"
    assert [h.answers for h in store.holdings()] == [3, 10]
    assert store.bytes < before / 2, "the disk gets its space back"
    assert store.prune(most_bytes=0) == 13
    assert store.holdings() == []


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        other.commit()
    with pytest.raises(UserError, match=r"s\.sqlite is of another version of mmpu; choose another file or move it"):
        Store(path)


def test_a_ledger_counts_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "run/ledger.json"
    for _ in range(3):
        ledger = Ledger(path)
        ledger.add(teacher_calls=2, steps=1)
        ledger.add(teacher_calls=1)
        ledger.save()
    assert json.loads(path.read_text()) == {"steps": 3, "teacher_calls": 9}
    assert [p.name for p in path.parent.iterdir()] == ["ledger.json"]


def test_a_ledger_that_writes_at_once_is_right_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    for count in range(1, 4):
        Ledger(path, at_once=True).add(teacher_calls=1)  # never saved
        assert Ledger(path).counts == {"teacher_calls": count}
    Ledger(path).add(teacher_calls=1)
    assert Ledger(path).counts == {"teacher_calls": 3}


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


def test_a_store_on_a_disk_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        written = Store(place / "store.sqlite")
        written.put({"a": 1}, "m")
        del written
        gc.collect()
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        store = Store(place / "store.sqlite")
        assert store.get(["a"]) == {"a": 1}
        with pytest.raises(UserError, match=r"cannot write to the store .*readonly"):
            store.put({"b": 2}, "m")
        with pytest.raises(UserError, match=r"cannot open the store .*other\.sqlite"):
            Store(place / "other.sqlite")
        del store
        gc.collect()
    finally:
        subprocess.run(["umount", "-l", place], check=True)
