"""An endpoint that replies whatever it likes: each reply is an answer, a reading or a named failure, soon, and the
command goes on. Then a judge that is killed again and again while a fifth of its calls fail."""

from __future__ import annotations

import copy
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mmpu.core import Failed, Sample, Sampling, UserError, user
from mmpu.engines.openai import OpenAI
from scripts.campaign.fuzz import NASTY
from scripts.campaign.outcome import LONGEST, ROOT, Outcome, start

sys.path.insert(0, str(ROOT / "tests"))
from endpoint import DROP, Endpoint, Reply, error, said, weighed

TRIALS = 200
PROMPTS, KILLS, AT_ONCE = 300, 10, 4
BODIES: tuple[Any, ...] = (
    *(
        b"",
        b"{",
        b"<html>busy</html>",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"choices": ' + b"[" * 100_000,
        b"0" * 5_000,
        b'"a"',
    ),
    *(
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": {}},
        {"error": "x"},
        {"error": {"message": None}},
    ),
)
HEADERS: tuple[dict[str, str], ...] = (
    *({}, {"Retry-After": "inf"}, {"Retry-After": "-1"}, {"Retry-After": "31536000"}, {"Retry-After": "nan"}),
    *({"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"}, {"Content-Type": "text/html"}, {"Content-Encoding": "gzip"}),
    {"Location": "http://127.0.0.1:1/"},
)


def run(folder: Path, seed: int, scale: float) -> list[Outcome]:
    rng = random.Random(seed)
    return [hostile(rng, max(4, round(TRIALS * scale))), _killed(folder, rng, scale)]


def hostile(rng: random.Random, trials: int) -> Outcome:
    endpoint, failures, ends = Endpoint(), list[str](), Counter[str]()
    with endpoint.serving():
        for trial in range(trials):
            reply = _reply(rng)
            endpoint.answer = lambda _n, _body, reply=reply: reply
            engine = endpoint.engine(retries=1, deadline=5.0)
            ask = rng.choice((_generate, _choose))
            begun = time.monotonic()
            try:
                found = ask(engine)
            except UserError:
                ends["a user's error"] += 1
            except BaseException as problem:
                failures.append(f"trial {trial}: {type(problem).__name__}: {problem} on {str(reply)[:300]}")
                continue
            else:
                ends["failed, named" if isinstance(found, Failed) else "an answer"] += 1
                if isinstance(found, Failed) and not found.reason:
                    failures.append(f"trial {trial}: failed without a reason on {str(reply)[:300]}")
            if (seconds := time.monotonic() - begun) > LONGEST:
                failures.append(f"trial {trial}: {seconds:.1f} s on {str(reply)[:300]}")
    return Outcome("hostile replies", trials, failures, ", ".join(f"{name} {n}" for name, n in sorted(ends.items())))


def _generate(engine: OpenAI) -> Any:
    return engine.generate([Sample("s", user("Q?"))], 1, Sampling(max_tokens=8))[0]


def _choose(engine: OpenAI) -> Any:
    return engine.choose([Sample("s", user("Q?"))], ("A", "B"))[0]


def _reply(rng: random.Random) -> Reply:
    """A reply that a server might give: a valid one with a value changed, or none at all."""
    if rng.random() < 0.3:
        return rng.choice((200, 200, 302, 400, 429, 500, 503)), rng.choice(HEADERS), rng.choice(BODIES)
    if rng.random() < 0.05:
        return DROP
    status, headers, body = rng.choice((said("hello"), weighed({"A": 0.7, "B": 0.2}), error(429), said("a", "b")))
    body = copy.deepcopy(body)
    places = [(parent, key) for parent, key in _places(body)]
    parent, key = rng.choice(places)
    parent[key] = copy.deepcopy(rng.choice(NASTY))
    return status, {**headers, **rng.choice(HEADERS)}, json.dumps(body).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in items for place in ((value, key), *_places(each))]


def _killed(folder: Path, rng: random.Random, scale: float) -> Outcome:
    """A judge under faults and kills: nothing lost, little paid for twice."""
    kills = max(1, round(KILLS * scale))
    endpoint, failures, paid = Endpoint(), list[str](), Counter[str]()

    def answer(number: int, body: dict[str, Any]) -> Reply:
        if random.Random(f"{number}").random() < 0.2:
            return rng.choice((error(500), error(503), DROP, (200, {}, b"{")))
        paid[json.dumps(body["messages"])] += 1
        time.sleep(0.01)
        return weighed({"A": 0.7, "B": 0.2, "T": 0.1})

    endpoint.answer = answer
    with endpoint.serving():
        command = _evaluation(folder, endpoint.url)
        done = 0
        for _ in range(kills):
            process, goal = (
                start(command, folder, MMPU_PATH=str(folder)),
                len(endpoint.bodies) + 2 * PROMPTS // (kills + 2),
            )
            while process.poll() is None and len(endpoint.bodies) < goal:
                time.sleep(0.005)
            done += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for _ in range(5):  # what failed is asked for again
            process = start(command, folder, MMPU_PATH=str(folder))
            output = "".join(process.communicate())
            if process.returncode == 0:
                break
        else:
            failures.append(f"it never ended: {output[-300:]}")
    twice = sum(n - 1 for n in paid.values())
    if twice > 2 * AT_ONCE * max(1, done):
        failures.append(
            f"{twice} replies were paid for again in {done} kills of {AT_ONCE} at once, more than twice that each"
        )
    board = folder / "leaderboards/many.far.json"
    record = (
        next(e["win_rate"] for e in json.loads(board.read_text())["entries"] if e["system"]["name"] == "ours")
        if board.exists()
        else {}
    )
    if sum(record.get(key, 0) for key in ("wins", "losses", "ties", "unread")) != PROMPTS:
        failures.append(f"duels are lost: {record}")
    return Outcome(
        "a judge with 20% faults, killed", done, failures, f"{twice} of {sum(paid.values())} replies paid for twice"
    )


def _evaluation(folder: Path, url: str) -> list[str]:
    (folder / "judges").mkdir()
    engine = {"name": "openai", "model": "m", "url": url, "concurrency": AT_ONCE, "retries": 1}
    judge = {"about": "far", "kind": "pairwise", "prompt": str(ROOT / "judges/pairwise.txt"), "engine": engine}
    (folder / "judges/far.yaml").write_text(yaml.safe_dump(judge))
    (folder / "tasks").mkdir()
    rows = [{"q": f"Question {1000 + i}?"} for i in range(PROMPTS)]
    (folder / "tasks/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks/many.yaml").write_text('source: rows.jsonl\nprompt: [{user: "{{ q }}"}]\nsplits: {test: {}}\n')
    for name in ("ours", "theirs"):
        rows = [{"id": f"test-{i + 1}", "output": f"{name} {i}"} for i in range(PROMPTS)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "eval",
        "ours=ours.jsonl",
        "--baseline",
        "theirs=theirs.jsonl",
        "--task",
        "many",
        "--judge",
        "far",
        "--probes",
        "0",
        "--max-unread",
        "1",
    ]
