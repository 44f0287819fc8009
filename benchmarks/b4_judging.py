"""B4: what judging costs besides the judge: intervals by refitting, the client, `mmpu tasks check`.

    python -m benchmarks.b4_judging

Client and server run in a process each, so the last rows need two cores.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from mmpu.core import Choice, Sample, user
from mmpu.engines.openai import OpenAI
from mmpu.judging.glm import RESAMPLES, Calibration, Outcome, Variant, length_controlled

ITEMS = 805
"""AlpacaEval's instructions; also the size at which FuseChat published."""
ROWS = 10_000
LATENCY = 0.02
"""Seconds that the server takes for a call."""
CALLS = {1: 200, 8: 1000, 32: 3000, 64: 6000}
"""By how many are in flight."""
_TOP = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.5}, {"token": "T", "logprob": -6.0}]
_CHOICE = {"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "top_logprobs": _TOP}]}}
_BODY = json.dumps({"choices": [_CHOICE], "usage": {"prompt_tokens": 210, "completion_tokens": 1}}).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


def main() -> None:
    print("| what | seconds | |\n| --- | ---: | --- |")
    for variant in ("minimal", "noreg", "v1"):
        row(
            f"`lc_glm.{variant}`, {ITEMS} items, {RESAMPLES} refits, C by cross-validation",
            timed(lambda v=variant: refit(v)),
        )
    with tempfile.TemporaryDirectory() as folder:
        path = sums(Path(folder))
        row("`mmpu tasks`", timed(lambda: mmpu("tasks")))
        row(f"`mmpu tasks check`, {ROWS:,} rows of JSON lines", timed(lambda: mmpu("tasks", "check", str(path))))
    for concurrency, count in CALLS.items():
        seconds = calls(concurrency, count)
        note = f"{count * LATENCY / concurrency / seconds:.0%} of in flight / latency"
        row(f"{count:,} calls, {concurrency} in flight, {1000 * LATENCY:.0f} ms each", seconds, note)


def row(what: str, seconds: float, note: str = "") -> None:
    print(f"| {what} | {seconds:.2f} | {note} |", flush=True)


def timed(work: Callable[[], object], rounds: int = 3) -> float:
    """The median of some rounds, in seconds."""
    found: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def refit(variant: Variant) -> None:
    """Judgements that depend on length, difficulty and chance as AlpacaEval's do, with two gamed baselines."""
    rng = np.random.default_rng(0)
    ours, theirs = (rng.lognormal(7, 0.7, ITEMS).astype(int) for _ in range(2))
    difficulty = rng.normal(0, 1, ITEMS)
    gap = np.tanh((theirs - ours) / (theirs - ours).std())
    wins = 1 / (1 + np.exp(-(rng.normal(0, 2, ITEMS) - gap + difficulty)))
    names = [str(i) for i in range(ITEMS)]
    gamed = rng.normal(0, 1, 2 * ITEMS)
    calibration = Calibration(
        dict(zip(names, difficulty.tolist(), strict=True)),
        tuple(names * 2),
        tuple(gamed.tolist()),
        tuple((1 / (1 + np.exp(2 * gamed))).tolist()),
    )
    rows = zip(names, wins.tolist(), ours.tolist(), theirs.tolist(), strict=True)
    length_controlled([Outcome(name, win, a, b, name) for name, win, a, b in rows], variant, calibration)


def sums(folder: Path) -> Path:
    rows = [{"n": i, "q": f"What is {i}+1?", "a": str(i + 1)} for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = f"{{train: {{where: n < {ROWS // 2}}}, test: {{where: n >= {ROWS // 2}}}}}"
    (folder / "sums.yaml").write_text(
        'source: rows.jsonl\nprompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\norigin: "{{ q }}"\n'
        f'reference: "The answer is {{{{ a }}}}."\ngrader: number\nsplits: {splits}\n'
    )
    return folder / "sums.yaml"


def mmpu(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "mmpu.cli", *arguments], check=True, capture_output=True)


# ------------------------------------------------------------------------------------------------------------------
# the client


def calls(concurrency: int, count: int) -> float:
    """Seconds for readings by letter, the client in this process and the server in another; warmed up."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    engine = OpenAI("tiny", f"http://127.0.0.1:{ours.recv()}/v1", concurrency=concurrency)
    samples = [Sample(str(i), user(f"Which is better, {i}?" + " word" * 200)) for i in range(count)]
    engine.choose(samples[:100], ("A", "B", "T"))
    start = time.perf_counter()
    found = engine.choose(samples, ("A", "B", "T"))
    seconds = time.perf_counter() - start
    server.terminate()
    server.join()
    assert all(isinstance(answer, Choice) for answer in found)
    return seconds


class Letters(asyncio.Protocol):
    """Answers every request after LATENCY with the same reply."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.read = b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, blank, rest = self.read.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0) if blank else 0
        if blank and len(rest) >= length:
            self.read = b""  # one request at a time on a connection, as HTTP clients do
            asyncio.get_running_loop().call_later(LATENCY, self.answer)

    def answer(self) -> None:
        if isinstance(self.transport, asyncio.WriteTransport) and not self.transport.is_closing():
            self.transport.write(REPLY)


def serve(pipe: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Letters, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
