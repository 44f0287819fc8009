"""Files as they should not be: valid ones whose values, bytes and lines were changed, through every command that reads
them. Nothing but a clear end is allowed: exit 0, 1 or 2, no traceback, no hang."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from click.testing import CliRunner

from mmpu.cli.main import main
from scripts.campaign.outcome import ENDS, LONGEST, ROOT, Outcome, complaint

TRIALS = 2_000
NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        10**400,
        "",
        " ",
        "\0",
        "\ud800",
        "a" * 100_000,
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        "[b]x[/b]",
        "\x1b[31mred",
        "../../etc/passwd",
        "/dev/zero",
        "/etc/hostname",
        "{{ x }}",
    ),
    *("{% for i in range(10**9) %}{% endfor %}", "{{ 'a' * 10**11 }}", "{{ q.__class__ }}", "{{", "file:///etc/passwd"),
    *("http://127.0.0.1:1/x", "2026-99-99", "\u202eabc", "$HOME", "~", "-", "train[5:2]", "train[:-1]", "train[:200%]"),
)


@dataclass(frozen=True)
class Target:
    """A file that is changed, and the commands that read it."""

    what: str
    file: str
    commands: tuple[tuple[str, ...], ...]


TARGETS = (
    Target("task YAML", "sums.yaml", (("tasks", "check", "sums.yaml"), ("tasks", "show", "sums.yaml"))),
    Target("rows", "rows.jsonl", (("tasks", "check", "sums.yaml"), ("tasks", "show", "sums.yaml"))),
    Target(
        "answers",
        "a.jsonl",
        (("eval", "a=a.jsonl", "--baseline", "reference", "--task", "sums.yaml", "--judge", "rule"),),
    ),
    Target("board", "board.json", (("leaderboard", "board.json"), ("leaderboard", "board.json", "--html", "b.html"))),
    Target(
        "config of a run", "run/config.yaml", (("watch", "run", "--once"), ("report", "run"), ("export", "run", "out"))
    ),
    Target("metrics of a run", "run/metrics.jsonl", (("watch", "run", "--once"), ("report", "run"))),
    Target("groups of a run", "run/groups.jsonl", (("report", "run"),)),
    Target("ledger of a run", "run/ledger.json", (("report", "run"),)),
    Target("student.json", "run/0-sft/student.json", (("export", "run", "out"),)),
    Target("config of a training", "train.yaml", (("train", "train.yaml"),)),
    Target(
        "judge YAML",
        "judge.yaml",
        (("eval", "a=a.jsonl", "--baseline", "reference", "--task", "sums.yaml", "--judge", "judge.yaml"),),
    ),
    Target(
        "verdict store", "boards/verdicts.sqlite", (("judge", "metrics", "boards/verdicts.sqlite", "--out", "again"),)
    ),
)


def run(folder: Path, seed: int, scale: float) -> list[Outcome]:
    """One outcome per kind of file."""
    pristine = folder / "pristine"
    _corpus(pristine)
    os.environ.update(HF_HUB_OFFLINE="1", HOME=str(folder))
    each = max(1, round(TRIALS * scale / len(TARGETS)))
    return [
        _fuzzed(target, pristine, folder / "work", random.Random(f"{seed} {target.what}"), each) for target in TARGETS
    ]


def _fuzzed(target: Target, pristine: Path, work: Path, rng: random.Random, trials: int) -> Outcome:
    failures: list[str] = []
    accepted = 0
    for trial in range(trials):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(pristine, work)
        path = work / target.file
        path.write_bytes(_changed(path, rng))
        command = rng.choice(target.commands)
        code, said = _ended(command, work)
        accepted += code == 0
        if said is not None:
            failures.append(f"trial {trial}, {' '.join(command)}: {said}; the file begins {path.read_bytes()[:300]!r}")
    return Outcome(f"changed: {target.what}", trials, failures, f"{accepted} accepted")


def _ended(command: tuple[str, ...], work: Path) -> tuple[int, str | None]:
    """The exit code, and what was wrong with the end."""
    before, start = Path.cwd(), time.monotonic()
    os.chdir(work)
    try:
        with _bounded(3 * LONGEST):
            done = CliRunner().invoke(main, list(command))
    except _Hung:
        return -1, f"no end after {3 * LONGEST:.0f} s"
    finally:
        os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return -1, "".join(traceback.format_exception(done.exception))[-400:]
    if said := complaint(done.exit_code, done.output, ENDS):
        return done.exit_code, said
    if (seconds := time.monotonic() - start) > LONGEST and command[0] != "train":
        return done.exit_code, f"took {seconds:.1f} s"
    return done.exit_code, None


class _Hung(BaseException):
    pass


@contextlib.contextmanager
def _bounded(seconds: float) -> Generator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _changed(path: Path, rng: random.Random) -> bytes:
    """A file's bytes with one thing changed: a value, or some bytes."""
    raw = path.read_bytes()
    ways: list[Callable[[], bytes]] = [lambda: _bytes(raw, rng)]
    if path.suffix in (".yaml", ".json", ".jsonl"):
        ways += [lambda: _values(path.suffix, raw.decode(), rng)] * 4
    return rng.choice(ways)()


def _bytes(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return rng.choice(
        (
            raw[:at],
            b"",
            raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
            raw[:at] + rng.randbytes(rng.randrange(1, 40)) + raw[at:],
            raw + raw,
            b"\xef\xbb\xbf" + raw,
            raw[:at] + b"[" * 100_000 + raw[at:],
        )
    )


def _values(suffix: str, text: str, rng: random.Random) -> bytes:
    lines = text.splitlines() if suffix == ".jsonl" else [text]
    at = rng.randrange(len(lines))
    value = _mutated(yaml.safe_load(lines[at]) if suffix == ".yaml" else json.loads(lines[at]), rng)
    lines[at] = yaml.dump(value) if suffix == ".yaml" else json.dumps(value)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _mutated(value: Any, rng: random.Random) -> Any:
    """The value with one place in it replaced, removed, added or doubled."""
    places = list(_places(value))
    parent, key = rng.choice(places) if places else (None, None)
    if parent is None:
        return rng.choice(NASTY)
    match rng.randrange(4):
        case 0 if isinstance(parent, dict):
            parent[rng.choice(("extra", "", "judge", "trust", "1", "source"))] = copy.deepcopy(rng.choice(NASTY))
        case 1:
            del parent[key]
        case 2 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case _:
            parent[key] = copy.deepcopy(rng.choice(NASTY))
    return value


def _places(value: Any) -> Generator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(items):
        yield value, key
        yield from _places(each)


def _corpus(folder: Path) -> None:
    """A valid file of each kind."""
    (folder / "run/0-sft").mkdir(parents=True)
    task = {
        "about": "Sums",
        "source": "rows.jsonl",
        "prompt": [{"system": "Be short."}, {"user": "What is {{ q }}?"}],
        "answer": "{{ a }}",
        "reference": "It is {{ a }}.",
        "grader": "number",
        "meta": {"kind": "{{ kind }}"},
        "sampling": {"max_tokens": 16},
        "splits": {"test": {}},
    }
    rows = [{"q": f"{i} + 1", "a": i + 1, "kind": "sum", "n": [1, {"x": None}]} for i in range(6)]
    judge = {"about": "x", "kind": "rule"}
    stage = {
        "name": "sft",
        "method": "sft",
        "split": "train[:8]",
        "prompts_per_step": 2,
        "steps": 1,
        "optim": {"lr": 1e-3},
    }
    train = {
        "run": "trained",
        "student": {"model": "tiny-text"},
        "task": "market",
        "teacher": "reference",
        "seed": 0,
        "stages": [stage],
    }
    group = {
        "stage": "sft",
        "step": 0,
        "id": "a",
        "prompt": "p",
        "anchor": "x",
        "anchor_score": 1.0,
        "responses": [{"text": "t", "tokens": 3, "finished": True, "score": 0.5, "weight": 0.1, "grade": 1.0}],
    }
    _write(folder / "sums.yaml", yaml.safe_dump(task))
    _write(folder / "judge.yaml", yaml.safe_dump(judge))
    _write(folder / "rows.jsonl", _jsonl(rows))
    _write(folder / "a.jsonl", _jsonl([{"id": f"test-{i + 1}", "output": f"It is {i}."} for i in range(6)]))
    shutil.copy(ROOT / "leaderboards/market.rule.json", folder / "board.json")
    _write(folder / "train.yaml", yaml.safe_dump(train))
    _write(folder / "run/config.yaml", yaml.safe_dump(train | {"run": "run"}))
    _write(folder / "run/metrics.jsonl", _jsonl([{"stage": "sft", "step": s, "loss": 1.0 / (s + 1)} for s in range(4)]))
    _write(folder / "run/groups.jsonl", _jsonl([group]))
    _write(folder / "run/ledger.json", json.dumps({"teacher_calls": 3}))
    _write(folder / "run/0-sft/student.json", json.dumps({"base": "tiny-text", "adapters": []}))
    evaluation = ("eval", "a=a.jsonl", "--baseline", "reference", "--task", "sums.yaml", "--judge", "rule")
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, [*evaluation, "--out", "boards"])
    if done.exit_code:
        raise RuntimeError(f"the corpus is not valid: {done.output}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
