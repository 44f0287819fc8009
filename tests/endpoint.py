"""A real HTTP server on this machine that speaks the chat completions protocol as a test says."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mmpu.core import Sample, user
from mmpu.engines.openai import OpenAI

Reply = tuple[int, dict[str, str], object]
DROP: Reply = (0, {}, b"")
"""Closes the connection instead of answering."""


class Endpoint:
    """Answers as `answer(number of the call, body)` says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict[str, Any]], Reply] = lambda _n, _body: said("hello")
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.bodies.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    number = len(endpoint.bodies)
                    endpoint.busy += 1
                    endpoint.most_busy = max(endpoint.most_busy, endpoint.busy)
                reply = endpoint.answer(number, body)
                with lock:
                    endpoint.busy -= 1
                if reply is DROP:
                    self.close_connection = True
                    return
                status, headers, content = reply
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                # Who waits for an answer may give up.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # closing waits for them
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def engine(self, **keys: Any) -> OpenAI:
        return OpenAI("tiny", self.url, **{"retries": 2, **keys})

    @contextlib.contextmanager
    def serving(self) -> Generator[Endpoint]:
        with running(self.server):
            yield self


@contextlib.contextmanager
def running(server: ThreadingHTTPServer) -> Generator[None]:
    """Answers in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def said(*texts: str, reason: str = "stop", logprobs: object = None, usage: object = None) -> Reply:
    choices = [
        {"index": i, "finish_reason": reason, "message": {"role": "assistant", "content": t}, "logprobs": logprobs}
        for i, t in enumerate(texts)
    ]
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices, "usage": usage}
    return 200, {}, body


def weighed(probs: dict[str, float]) -> Reply:
    """A reply of one token, the first, with its log-probability and the others'."""
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in probs.items()]
    return said(top[0]["token"], logprobs={"content": [{**top[0], "top_logprobs": top}]})


def error(status: int, message: str = "", **headers: str) -> Reply:
    content = {"error": {"message": message or f"trouble {status}", "type": "x", "code": None}}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, content


def question(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{i}", user(f"Q{i}?")) for i in range(count)]
