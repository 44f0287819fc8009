"""The endpoint engine against a real HTTP server: what is sent, what is read, and every way it can go wrong."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from mmpu.cli import main
from mmpu.core import Choice, Failed, Message, Part, Response, Sample, Sampling, UserError, user
from mmpu.engines.openai import OpenAI
from mmpu.judge.pairwise import OPTIONS
from mmpu.media import load_image

Reply = tuple[int, dict[str, str], object]


class Endpoint:
    """An OpenAI-compatible server on this machine that answers as a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict[str, Any]], Reply] = lambda _n, _body: said("hello")
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.bodies.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    number = len(endpoint.bodies)
                    endpoint.busy += 1
                    endpoint.most_busy = max(endpoint.most_busy, endpoint.busy)
                status, headers, content = endpoint.answer(number, body)
                with lock:
                    endpoint.busy -= 1
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who waits for an answer may give up
                    self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # closing waits for them
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def engine(self, **keys: Any) -> OpenAI:
        return OpenAI("tiny", self.url, **{"retries": 2, **keys})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    # The client waits half a second and more before it asks again.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02, raising=False)
    found = Endpoint()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def said(*texts: str, reason: str = "stop", logprobs: object = None) -> Reply:
    choices = [
        {"index": i, "finish_reason": reason, "message": {"role": "assistant", "content": t}, "logprobs": logprobs}
        for i, t in enumerate(texts)
    ]
    return 200, {}, {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices}


def weighed(probs: dict[str, float]) -> Reply:
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in probs.items()]
    return said("A", logprobs={"content": [{**top[0], "top_logprobs": top}]})


def error(status: int, **headers: str) -> Reply:
    return status, headers, {"error": {"message": f"trouble {status}", "type": "x", "code": None}}


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{i}", user(f"Q{i}?")) for i in range(count)]


# -----------------------------------------------------------------------------------------------------------------
# what is sent and read


def test_answers_come_back_in_order(endpoint: Endpoint) -> None:
    together = threading.Barrier(3)

    def echo(_: int, body: dict[str, Any]) -> Reply:
        together.wait(10)
        time.sleep(0.05)  # whoever else is let in shows
        return said(*[body["messages"][0]["content"].lower()] * body["n"])

    endpoint.answer = echo
    found = endpoint.engine(concurrency=3).generate(samples(9), 2, Sampling())
    assert found == [(Response(f"q{i}?"), Response(f"q{i}?")) for i in range(9)]
    assert endpoint.most_busy == 3


def test_the_request_carries_the_sampling_and_the_extra_fields(endpoint: Endpoint) -> None:
    prompt = (Message("system", (Part("text", "Be brief."),)), *user("Why?", "Now."))
    sampling = Sampling(0.3, 0.9, top_k=5, min_p=0.1, max_tokens=7, stop=("\n",), seed=4)
    engine = endpoint.engine(extra={"chat_template_kwargs": {"enable_thinking": False}})
    engine.generate([Sample("a", prompt)], 1, sampling)
    assert endpoint.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?\nNow."}],
            "n": 1,
            "temperature": 0.3,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "max_tokens": 7,
            "stop": ["\n"],
            "seed": 4,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    endpoint.engine().generate(samples(1), 1, Sampling())
    assert not {"top_k", "min_p"} & set(endpoint.bodies[1]), "other endpoints refuse what they do not know"


def test_an_answer_that_the_limit_cut_is_marked(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: said("half an ans", reason="length")
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(Response("half an ans", finished=False),)]


def test_options_are_read_from_the_log_probabilities(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: weighed({"A": 0.5, " A": 0.125, "B": 0.25, "Apple": 0.0625})
    (choice,) = endpoint.engine().choose(samples(1), OPTIONS)
    assert isinstance(choice, Choice)
    assert choice.probs == pytest.approx({"A": 0.625, "B": 0.25, "T": 0.0})
    assert choice.outside == pytest.approx(0.125)
    body = endpoint.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_an_image_travels_as_a_data_uri(endpoint: Endpoint, tmp_path: Path, kind: str) -> None:
    image, buffer = Image.new("RGB", (6, 4), "red"), io.BytesIO()
    image.save(buffer, kind)
    (tmp_path / "picture").write_bytes(buffer.getvalue())
    endpoint.engine().generate([Sample("a", user(Part("image", str(tmp_path / "picture")), "Colour?"))], 1, Sampling())
    picture, text = endpoint.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Colour?"}
    uri = picture["image_url"]["url"]
    sent = "png" if kind == "BMP" else kind.lower()  # not every endpoint reads bitmaps
    assert uri.startswith(f"data:image/{sent};base64,")
    assert load_image(uri).size == (6, 4)
    assert kind == "BMP" or base64.b64decode(uri.partition(",")[2]) == buffer.getvalue(), "not encoded anew"


def test_a_missing_image_is_a_mistake_of_the_user_s(endpoint: Endpoint) -> None:
    with pytest.raises(UserError, match=r"image nowhere\.png: no such file"):
        endpoint.engine().generate([Sample("a", user(Part("image", "nowhere.png")))], 1, Sampling())


def test_the_key_comes_from_the_environment_and_may_be_empty(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.engine().generate(samples(1), 1, Sampling())
    for key in ("", "secret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(Response("hello"),)]
    assert endpoint.keys == ["Bearer EMPTY", "Bearer EMPTY", "Bearer secret"]
    assert "secret" not in endpoint.engine().identity + repr(endpoint.engine())


def test_the_identity_names_the_model_not_the_machine(endpoint: Endpoint) -> None:
    assert endpoint.engine().identity == OpenAI("tiny", "http://elsewhere/v1").identity
    assert endpoint.engine().identity != endpoint.engine(extra={"x": 1}).identity


# -----------------------------------------------------------------------------------------------------------------
# what goes wrong


def test_a_busy_endpoint_is_asked_again_when_it_says(endpoint: Endpoint) -> None:
    endpoint.answer = lambda n, _: error(429, **{"Retry-After": "0.01"}) if n <= 2 else said("at last")
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(Response("at last"),)]
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (503, 3), (429, 3), (400, 1), (401, 1), (404, 1)])
def test_an_endpoint_that_keeps_refusing_fails_that_item_with_its_reason(
    endpoint: Endpoint, status: int, attempts: int
) -> None:
    endpoint.answer = lambda *_: error(status)
    (found,) = endpoint.engine().generate(samples(1), 1, Sampling())
    assert isinstance(found, Failed)
    assert str(status) in found.reason
    assert f"trouble {status}" in found.reason
    assert len(endpoint.bodies) == attempts


def test_an_item_fails_alone(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _, body: error(400) if "Q3" in body["messages"][0]["content"] else said("fine")
    found = endpoint.engine().generate(samples(6), 1, Sampling())
    assert [isinstance(f, Failed) for f in found] == [False, False, False, True, False, False]


def test_no_server_is_a_reason(endpoint: Endpoint) -> None:
    engine = OpenAI("tiny", "http://127.0.0.1:9/v1", retries=1)
    (found,) = engine.choose(samples(1), OPTIONS)
    assert isinstance(found, Failed)
    assert found.reason.startswith("APIConnectionError")


def test_an_endpoint_that_never_answers_runs_into_the_timeout(endpoint: Endpoint) -> None:
    release = threading.Event()

    def wait(*_: object) -> Reply:
        release.wait(10)
        return said("late")

    endpoint.answer = wait
    try:
        (found,) = endpoint.engine(timeout=0.2, retries=0).generate(samples(1), 1, Sampling())
    finally:
        release.set()
    assert isinstance(found, Failed)
    assert found.reason.startswith("APITimeoutError")


GARBAGE: list[Reply] = [
    (200, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>"),
    (200, {}, b"{not json"),
    (200, {}, b""),
    (200, {}, []),
    (200, {}, "a word"),
    (200, {}, None),
    (200, {}, {}),
    (200, {}, {"choices": []}),
    (200, {}, {"choices": [{}]}),
    (200, {}, {"choices": "many"}),
    (200, {}, {"choices": [{"message": None, "logprobs": 3}]}),
    (200, {}, {"choices": [{"message": {"content": None}, "logprobs": None}]}),
    (200, {}, {"choices": [{"message": {}, "logprobs": {"content": []}}]}),
    (200, {}, {"choices": [{"message": {}, "logprobs": {"content": [{"top_logprobs": [{"token": "A"}]}]}}]}),
    (200, {}, {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": 1e9}]}]}}]}),
    (200, {}, {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": None, "logprob": -1}]}]}}]}),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=[str(reply[2])[:60] for reply in GARBAGE])
def test_garbage_is_a_failure_with_a_reason(endpoint: Endpoint, garbage: Reply) -> None:
    endpoint.answer = lambda *_: garbage
    for found in (
        endpoint.engine(retries=0).generate(samples(2), 1, Sampling()),
        endpoint.engine(retries=0).choose(samples(2), OPTIONS),
    ):
        assert len(found) == 2
        for item in found:
            assert isinstance(item, Failed)
            assert item.reason


def test_an_endpoint_without_log_probabilities_says_so(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: said("A")
    (found,) = endpoint.engine().choose(samples(1), OPTIONS)
    assert isinstance(found, Failed)
    assert "the endpoint returned no log-probabilities" in found.reason


def test_fewer_answers_than_asked_for_are_no_answer(endpoint: Endpoint) -> None:
    (found,) = endpoint.engine().generate(samples(1), 2, Sampling())
    assert isinstance(found, Failed)
    assert "asked for 2 answers, got 1" in found.reason


# -----------------------------------------------------------------------------------------------------------------
# from the command line


def evaluation(folder: Path, *arguments: str) -> list[str]:
    """`mmpu eval` of two files of answers to two questions, with qwen3-vl for a judge."""
    (folder / "rows.json").write_text('[{"q": "1+1?"}, {"q": "1+2?"}]')
    (folder / "sums.yaml").write_text('prompt: [{user: "{{ q }}"}]\nsource: rows.json\n')
    for name, answers in (("ours", ("2", "3")), ("theirs", ("3", "It is 3."))):
        rows = [json.dumps({"id": f"test-{i}", "output": a}) for i, a in enumerate(answers, 1)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    named = [
        f"ours={folder}/ours.jsonl",
        "--baseline",
        f"theirs={folder}/theirs.jsonl",
        "--task",
        f"{folder}/sums.yaml",
    ]
    return ["eval", *named, "--judge", "qwen3-vl", "--out", str(folder / "boards"), *arguments]


def test_a_judge_without_an_endpoint_explains_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, evaluation(tmp_path))
    assert done.exit_code == 2
    assert done.stderr.startswith("mmpu: no endpoint for Qwen/Qwen3-VL-235B-A22B-Instruct. Start one, for example\n")
    assert "    vllm serve Qwen/Qwen3-VL-235B-A22B-Instruct --port 8000\n" in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "boards").exists()


@pytest.mark.parametrize("logprobs", [True, False])
def test_an_endpoint_judges_an_evaluation(endpoint: Endpoint, tmp_path: Path, logprobs: bool) -> None:
    def prefer_ours(_: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][0]["content"]
        letter = "A" if "<response_a>\n2\n" in text or "<response_b>\nIt is" in text else "B"
        return weighed({letter: 0.9, "T": 0.05}) if logprobs and "logprobs" in body else said(letter)

    endpoint.answer = prefer_ours
    done = CliRunner().invoke(main, evaluation(tmp_path, "--judge-url", endpoint.url))
    assert done.exit_code == 0, done.output
    assert {body["model"] for body in endpoint.bodies} == {"Qwen/Qwen3-VL-235B-A22B-Instruct"}
    board = json.loads((tmp_path / "boards/sums.qwen3-vl.json").read_text())
    record = next(e["win_rate"] for e in board["entries"] if e["system"]["name"] == "ours")
    assert (record["rate"]["value"], record["wins"], record["unread"]) == (1, 2, 0)
    assert "127.0.0.1" not in json.dumps(board), "where it was judged is nobody's business"


def test_a_judge_that_talks_nonsense_publishes_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda *_: said("As a language model")
    done = CliRunner().invoke(main, evaluation(tmp_path, "--judge-url", endpoint.url))
    assert done.exit_code == 2
    assert done.stderr.startswith("mmpu: 2 of 2 duels could not be read, more than 2%; nothing was published.")
    assert "replied 'As a language model'" in done.stderr
    assert not list((tmp_path / "boards").glob("*.json"))
