"""Commands at the same time: who publishes loses nothing, who trains is alone, and no lock outlives its process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpu.core import UserError
from mmpu.recipes.evaluation import EvalOptions, evaluate
from mmpu.store import locked

HOLD = """
import sys, time
from pathlib import Path
from mmpu.store import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def _add(path: Path, line: str) -> None:
    with locked(path.with_name(".lock"), "the file", 60.0):
        before = path.read_text() if path.exists() else ""
        time.sleep(0.001)
        path.write_text(f"{before}{line}\n")


def test_fifty_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path / "file", str(n))) for n in range(50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(map(int, (tmp_path / "file").read_text().split())) == list(range(50))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"it is in use by process {holder.pid} on .* since 20"),
            locked(path, "it"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    assert path.exists()
    with locked(path, "it"):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()
    with locked(tmp_path / "none" / ".lock", "it"):
        pass
    assert not (tmp_path / "none").exists()


def _publish(folder: Path, number: int) -> None:
    systems = (f"system-{number}={folder}/{number}.jsonl",)
    evaluate(EvalOptions(systems, f"{folder}/task.yaml", "rule", f"theirs={folder}/theirs.jsonl", folder=f"{folder}/b"))


@pytest.mark.slow
def test_twenty_evaluations_publish_to_one_board(tmp_path: Path) -> None:
    count = 20
    (tmp_path / "rows.json").write_text(json.dumps([{"q": f"{i}?", "a": str(i)} for i in range(4)]))
    (tmp_path / "task.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\ngrader: exact\nsource: rows.json\n'
    )
    for name in ("theirs", *range(count)):
        rows = [{"id": f"test-{i}", "output": f"{i if name == 'theirs' else name}"} for i in range(1, 5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _publish(tmp_path, 0)  # loads here what all need
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_publish, args=(tmp_path, n)) for n in range(1, count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * (count - 1)
    (board,) = (tmp_path / "b").glob("*.rule.json")
    names = {entry["system"]["name"] for entry in json.loads(board.read_text())["entries"]}
    assert names == {"theirs", *(f"system-{n}" for n in range(count))}
