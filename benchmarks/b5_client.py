"""B5: how much of a fast endpoint one process uses. A server in a process of its own answers each chat completion after
20 ms, whatever the number in flight; the engine `openai` asks for short answers. With n in flight at most n / latency
calls can be answered in a second; the share is what was reached of that, from the first call to the last answer.
Latency is what the server measures from a request's arrival to its reply; the share of n / 20 ms stands beside.

    python -m benchmarks.b5_client [--calls 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from ctypes import Array, c_double
from multiprocessing.connection import Connection

from benchmarks.timing import table
from mmpu.core import Failed, Sample, Sampling, user
from mmpu.engines.openai import OpenAI

LATENCY = 0.02
IN_FLIGHT = (1, 8, 16, 32, 64)
CONTENT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"}]}
BODY = json.dumps({**CONTENT, "usage": {"prompt_tokens": 40, "completion_tokens": 1}}).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Connected(asyncio.Protocol):
    """One connection; HTTP as far as this client speaks it: the head, Content-Length, the body."""

    def __init__(self, took: Array[c_double]) -> None:
        self.took = took

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.heard = transport, b""

    def data_received(self, data: bytes) -> None:
        self.heard += data
        head, end, body = self.heard.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            self.heard = b""
            asyncio.get_running_loop().call_later(LATENCY, self.reply, time.perf_counter())

    def reply(self, began: float) -> None:
        self.transport.write(REPLY)
        self.took[0] += time.perf_counter() - began


def serve(port: Connection, took: Array[c_double]) -> None:
    """Adds the seconds of every call to `took`."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Connected(took), "127.0.0.1", 0, backlog=256)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def ask(url: str, in_flight: int, calls: int) -> tuple[float, float]:
    """Seconds, and processor seconds of this process, for so many calls."""
    engine = OpenAI("tiny", url, concurrency=in_flight)
    samples = [Sample(f"s{i}", user(f"Which of the two answers is better, {i}?")) for i in range(calls)]
    began, busy = time.perf_counter(), time.process_time()
    answers = engine.generate(samples, 1, Sampling(max_tokens=1))
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    assert not any(isinstance(answer, Failed) for answer in answers)
    return seconds, busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="with 64 in flight; fewer with fewer")
    most = parser.parse_args().calls
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    took = context.Array(c_double, 1, lock=False)
    server = context.Process(target=serve, args=(there, took), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    ask(url, 1, 5)  # imports
    rows: list[tuple[object, ...]] = []
    for n in IN_FLIGHT:
        calls = max(1, most * n // max(IN_FLIGHT))
        took[0] = 0.0
        seconds, busy = ask(url, n, calls)
        rate, latency = calls / seconds, took[0] / calls
        shares = (f"{rate / (n / each):.1%}" for each in (latency, LATENCY))
        rows.append((n, f"{calls:,}", f"{rate:,.0f}", f"{latency * 1e3:.2f}", *shares, f"{busy / calls * 1e6:.0f}"))
    server.kill()
    print(f"{os.cpu_count()} cores, {LATENCY * 1e3:.0f} ms\n")
    header = ["in flight", "calls", "calls/s", "latency, ms", "share of n / latency", "of n / 20 ms", "CPU µs per call"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
