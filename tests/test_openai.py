"""The endpoint engine against a real HTTP server: what is sent, what is read, and every way it can go wrong."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from endpoint import DROP, Endpoint, Reply, error, question, said, samples, weighed
from mmpu.cli.main import main
from mmpu.client.crew import Crew
from mmpu.client.endpoint import PATIENCE
from mmpu.core import Choice, Failed, Message, Part, Response, Sample, Sampling, UserError, user
from mmpu.duel import Duel
from mmpu.engines.cached import Cached
from mmpu.engines.openai import ENOUGH, OpenAI
from mmpu.judges.pairwise import Pairwise
from mmpu.judges.scalar import Scalar
from mmpu.media.images import load_image
from mmpu.store import Ledger, Store

OPTIONS = ("A", "B", "T")

# -----------------------------------------------------------------------------------------------------------------
# what is sent and read


def test_answers_come_back_in_order(endpoint: Endpoint) -> None:
    together = threading.Barrier(3)

    def echo(_: int, body: dict[str, Any]) -> Reply:
        together.wait(60)
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
    assert choice.probs == pytest.approx({"A": 0.625, "B": 0.25, "T": 0.0625}), "T is at most as likely as the last"
    assert choice.bounded == {"T"}
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
    endpoint.answer = lambda n, _: error(429, Retry_After="0.01") if n <= 2 else said("at last")
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(Response("at last"),)]
    assert len(endpoint.bodies) == 3


def test_who_waits_to_ask_again_makes_room(endpoint: Endpoint) -> None:
    def first_is_busy(_: int, body: dict[str, Any]) -> Reply:
        again = sum(question(b) == "Q0?" for b in endpoint.bodies) > 1
        return error(500, Retry_After="0.3") if question(body) == "Q0?" and not again else said("yes")

    endpoint.answer = first_is_busy
    found = endpoint.engine(concurrency=1).generate(samples(9), 1, Sampling())
    assert found == [(Response("yes"),)] * 9
    assert [question(body) for body in endpoint.bodies] == [*(f"Q{i}?" for i in range(9)), "Q0?"]


def test_no_more_than_so_many_are_begun() -> None:
    begun: list[int] = []
    done: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        assert len(begun) - len(done) <= 5
        await crew.rest(0.001)
        done.append(item)

    crew = Crew(range(40), 2, 5)
    asyncio.run(crew.run(work))
    assert begun == list(range(40))
    assert sorted(done) == begun


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
    assert found.reason == "cannot connect (Connection refused) (attempt 2 of 2)"


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
    assert found.reason == "no answer within 0.2 s (attempt 1 of 1)"


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


def test_an_endpoint_that_ignores_logprobs_is_noticed_and_not_paid_further(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: said("A")
    found = endpoint.engine(concurrency=1).choose(samples(20), OPTIONS)
    assert [f.reason for f in found if isinstance(f, Failed)] == [
        *["the endpoint returned no log-probabilities"] * ENOUGH,
        *[f"the endpoint returned no log-probabilities to {ENOUGH} calls before; it seems to ignore `logprobs`"] * 12,
    ]
    assert len(endpoint.bodies) == ENOUGH


def test_log_probabilities_that_are_missing_once_are_asked_for_again(endpoint: Endpoint) -> None:
    endpoint.answer = lambda n, _: said("A") if n == 2 else weighed({"A": 0.75, "B": 0.25})
    found = endpoint.engine(concurrency=1).choose(samples(3), OPTIONS)
    assert all(isinstance(f, Choice) for f in found)
    assert len(endpoint.bodies) == 4


@pytest.mark.parametrize(
    ("shown", "probs", "bounded"),
    [
        ({"Yes": 0.9, "no": 0.05, "Maybe": 0.01}, {"Yes": 0.9, "No": 0.01}, {"No"}),
        ({"Yes": 0.95}, {"Yes": 0.95, "No": 0.05}, {"No"}),  # no likelier than what is left
        ({"Yes": 0.7, " No": 0.2, "No ": 0.05}, {"Yes": 0.7, "No": 0.25}, set()),
        ({"Maybe": 0.9}, {"Yes": 0.0, "No": 0.0}, set()),
    ],
)
def test_an_option_that_is_not_shown_gets_its_upper_bound_and_a_mark(
    endpoint: Endpoint, shown: dict[str, float], probs: dict[str, float], bounded: set[str]
) -> None:
    endpoint.answer = lambda *_: weighed(shown)
    (answer,) = endpoint.engine().choices(samples(1), ("Yes", "No"))
    assert isinstance(answer.value, Choice)
    assert answer.value.probs == pytest.approx(probs)
    assert answer.value.bounded == bounded
    assert answer.counts.get("bounded_choices", 0) == bool(bounded)


def test_an_endpoint_that_ignores_n_is_asked_for_the_rest_singly(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _, body: said(f"{question(body)} {body['seed']}", usage={"completion_tokens": 3})
    first, _ = sorted(endpoint.engine().answers(samples(2), 3, Sampling(seed=7)), key=lambda a: a.index)
    assert first.value == (Response("Q0? 7"), Response("Q0? 8"), Response("Q0? 9")), "the same seed would say the same"
    assert first.counts == {"requests": 3, "asked_singly": 2, "tokens_out": 9}
    assert sorted(body["n"] for body in endpoint.bodies) == [1, 1, 1, 1, 3, 3]


def choice(content: object, reason: str = "stop", more: dict[str, Any] | None = None, **message: object) -> Any:
    return {"index": 0, "finish_reason": reason, "message": {"content": content, **message}, **(more or {})}


def of(*choices: Any, **fields: object) -> Reply:
    return 200, {}, {"choices": list(choices), **fields}


FILTERED = {"content_filter_results": {"hate": {"filtered": True}, "violence": {"filtered": False}}}
CALLS = [{"function": {"name": "search", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (of(choice(None, "content_filter")), "no content (finish_reason 'content_filter')"),
        (of(choice("", "content_filter", FILTERED)), "no content (finish_reason 'content_filter': hate)"),
        (of(choice(None, refusal="I cannot help.")), "the model refused: I cannot help."),
        (of(choice("", "stop", refusal="No.")), "the model refused: No."),
        (of(choice(None, "tool_calls", tool_calls=CALLS)), "no content (finish_reason 'tool_calls': called search)"),
        (of(choice(None, "function_call")), "no content (finish_reason 'function_call')"),
        (
            (200, {}, {"error": {"message": "maximum context length is 32", "code": 400}}),
            "HTTP 200 with error 400: maximum context length is 32",
        ),
        (
            (200, {}, {"error": {"message": "Flagged", "code": "content_policy_violation"}}),
            "HTTP 200 with error: Flagged",
        ),
        ((404, {}, [{"error": {"message": "no such model"}}]), "HTTP 404: no such model"),
        ((422, {}, {"detail": "n is too large"}), "HTTP 422: n is too large"),
    ],
)
def test_what_asking_again_would_not_change_is_asked_once(endpoint: Endpoint, reply: Reply, reason: str) -> None:
    endpoint.answer = lambda *_: reply
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [Failed(reason)]
    assert len(endpoint.bodies) == 1
    (found,) = endpoint.engine().choose(samples(1), OPTIONS)
    assert (found, len(endpoint.bodies)) == (Failed(reason), 2)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((200, {}, {"choices": None, "error": {"message": "Provider error", "code": 429}}), "Provider error"),
        ((200, {}, {"error": {"message": "Provider error", "metadata": {"raw": "overheated"}}}), "(overheated)"),
        ((200, {}, {"error": "overloaded"}), "overloaded"),
        ((200, {}, {"object": "error", "message": "CUDA is out of memory", "code": 500}), "CUDA is out of memory"),
        (of(choice("", "error")), "the provider broke off: finish_reason 'error'"),
        (of(choice("half", "error", {"error": {"message": "upstream went away"}})), "upstream went away"),
        (of(choice(None)), "no content (finish_reason 'stop')"),
    ],
)  # fmt: skip
def test_what_asking_again_may_change_is_asked_again(endpoint: Endpoint, reply: Reply, reason: str) -> None:
    endpoint.answer = lambda n, _: reply if n == 1 else said("at last")
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(Response("at last"),)]
    endpoint.answer = lambda *_: reply
    (found,) = endpoint.engine(retries=1).generate(samples(1), 1, Sampling())
    assert isinstance(found, Failed)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("reply", "response"),
    [
        (of(choice(None, "length")), Response("", finished=False)),
        (of(choice(None, "length", reasoning="Hm")), Response("", finished=False, reasoning="Hm")),
        (of(choice("", "stop", reasoning_content="Hm")), Response("", finished=False, reasoning="Hm")),
        (of(choice("7", "stop", reasoning_content="Hm")), Response("7", reasoning="Hm")),
        (of(choice("7, bec", "content_filter")), Response("7, bec", finished=False)),
        (of(choice("<think>Hm")), Response("<think>Hm", finished=False)),
        (of(choice("<think>Hm</think>7")), Response("<think>Hm</think>7")),
        (
            of(choice([{"type": "thinking", "thinking": [{"text": "Hm"}]}, {"type": "text", "text": "7"}])),
            Response("7", reasoning="Hm"),
        ),
        (of(choice("")), Response("")),
    ],
)  # fmt: skip
def test_an_answer_that_did_not_come_is_unfinished(endpoint: Endpoint, reply: Reply, response: Response) -> None:
    endpoint.answer = lambda *_: reply
    assert endpoint.engine().generate(samples(1), 1, Sampling()) == [(response,)]
    assert len(endpoint.bodies) == 1


def test_paid_answers_of_a_call_survive_what_the_others_met(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: of(choice("a"), choice(None, "content_filter"), choice("c"), choice("d"))
    (answer,) = endpoint.engine().answers(samples(1), 4, Sampling())
    assert answer.value == (Response("a"), Response("c"), Response("d"))
    assert answer.reason == "no content (finish_reason 'content_filter')"
    assert answer.counts == {"requests": 1, "refused_answers": 1}
    endpoint.answer = lambda n, _: of(choice("a"), choice("", "error")) if n == 2 else of(choice("b"))
    assert endpoint.engine().generate(samples(1), 2, Sampling()) == [(Response("a"), Response("b"))]
    assert [body["n"] for body in endpoint.bodies] == [4, 2, 1], "one that broke off is asked for again, by itself"
    endpoint.answer = lambda *_: of(choice(None, "content_filter"), choice(None, refusal="No."))
    (failed,) = endpoint.engine().generate(samples(1), 2, Sampling())
    assert failed == Failed("no content (finish_reason 'content_filter')")


def test_a_store_keeps_what_came_and_asks_for_the_rest(endpoint: Endpoint, tmp_path: Path) -> None:
    engine = Cached(endpoint.engine(), Store(tmp_path / "s.sqlite"), Ledger(tmp_path / "l.json"), "teacher")
    endpoint.answer = lambda *_: of(choice("a", reasoning="Hm"), choice(None, "content_filter"))
    first = (Response("a", reasoning="Hm"),)
    for _ in range(2):
        (answer,) = engine.answers(samples(1), 2, Sampling(seed=5))
        assert (answer.value, answer.reason) == (first, "no content (finish_reason 'content_filter')")
        endpoint.answer = lambda *_: of(choice(None, "content_filter"))
    assert [(body["n"], body["seed"]) for body in endpoint.bodies] == [(2, 5), (1, 6)]
    endpoint.answer = lambda *_: of(choice("b"))
    assert engine.generate(samples(1), 2, Sampling(seed=5)) == [(*first, Response("b"))]
    assert engine.generate(samples(1), 2, Sampling(seed=5)) == [(*first, Response("b"))]
    assert len(endpoint.bodies) == 3


def test_no_provider_s_words_hold_the_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    for reply in (of(choice(None, refusal="not sk-very-secret")), (200, {}, {"error": "bad sk-very-secret"})):
        endpoint.answer = lambda *_, reply=reply: reply
        (found,) = endpoint.engine(retries=0).generate(samples(1), 1, Sampling())
        assert isinstance(found, Failed)
        assert "[key]" in found.reason
        assert "secret" not in found.reason


def test_more_answers_than_asked_for_are_no_answer(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: said("a", "b")
    (found,) = endpoint.engine(retries=0).generate(samples(1), 1, Sampling())
    assert found == Failed("asked for 1 answers, got 2 (attempt 1 of 1)")


def test_a_prompt_that_is_too_long_fails_alone_with_the_server_s_reason(endpoint: Endpoint) -> None:
    too_long = error(400, "This model's maximum context length is 32 tokens, 40 were requested")
    endpoint.answer = lambda _, body: too_long if "Q1" in question(body) else said("fine")
    found = endpoint.engine().generate(samples(3), 1, Sampling())
    assert found[1] == Failed("HTTP 400: This model's maximum context length is 32 tokens, 40 were requested")
    assert found[0] == found[2] == (Response("fine"),)
    assert len(endpoint.bodies) == 3, "asking again would not help"


def test_a_wait_beyond_the_deadline_is_not_waited(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: error(429, Retry_After="3600")
    started = time.monotonic()
    (found,) = endpoint.engine(deadline=60).generate(samples(1), 1, Sampling())
    assert time.monotonic() - started < 60
    assert isinstance(found, Failed)
    assert "HTTP 429" in found.reason
    assert "after the deadline of 60 s" in found.reason


def test_the_deadline_holds_over_all_attempts(endpoint: Endpoint) -> None:
    release = threading.Event()

    def hang(*_: object) -> Reply:
        release.wait(300)
        return said("late")

    endpoint.answer = hang
    started = time.monotonic()
    try:
        found = endpoint.engine(timeout=0.2, deadline=0.7, retries=1000).generate(samples(4), 1, Sampling())
    finally:
        release.set()
    assert time.monotonic() - started < 60, "a thousand attempts would take minutes"
    assert all(isinstance(f, Failed) and "no answer within" in f.reason for f in found)


def test_every_kind_of_trouble_at_once_loses_nothing(endpoint: Endpoint) -> None:
    """A fifth of 2,000 calls fails: refused, broken, dropped, garbage; every item is answered or has its reason."""

    def troubled(number: int, body: dict[str, Any]) -> Reply:
        if "Q77?" in question(body):
            return error(422, "not this one")
        kinds: tuple[Reply, ...] = (error(429), error(500), DROP, (200, {}, b"<html>"), (200, {}, {"choices": []}))
        return kinds[number // 5 % 5] if number % 5 == 0 else said(question(body).lower())

    endpoint.answer = troubled
    found = list(endpoint.engine(retries=8, concurrency=64).answers(samples(2000), 1, Sampling()))
    assert sorted(a.index for a in found) == list(range(2000)), "each once"
    values = {a.index: a.value for a in found}
    assert values.pop(77) == Failed("HTTP 422: not this one")
    assert values == {i: (Response(f"q{i}?"),) for i in values}
    assert sum(a.counts["requests"] for a in found) == len(endpoint.bodies) > 2400


def test_a_dead_endpoint_s_share_is_done_by_the_others(endpoint: Endpoint) -> None:
    with Endpoint().serving() as other:
        engine = OpenAI("tiny", urls=("http://127.0.0.1:9/v1", endpoint.url, other.url), retries=4, concurrency=6)
        found = engine.generate(samples(200), 1, Sampling())
    assert found == [(Response("hello"),)] * 200
    assert min(len(endpoint.bodies), len(other.bodies)) > 40, "those alive share"


def test_endpoints_come_as_a_list_or_with_commas_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("http://a:1/v1", "https://b/v1")
    assert OpenAI("m", urls=(*both, "http://a:1/v1/")).endpoints == both
    assert OpenAI("m", "http://a:1/v1, https://b/v1").endpoints == both
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a:1/v1,https://b/v1/")
    assert OpenAI("m").endpoints == both


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "localhost:8000"}, "is not an address; write it like"),
        ({"url": "http://me:hunter2@host/v1"}, "the endpoint at host carries a password or a query"),
        ({"url": "http://host/v1?api-key=hunter2"}, "the endpoint at host carries a password or a query"),
        ({"url": "http://a/v1", "urls": ("http://b/v1",)}, "both `url` and `urls`"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_repeating_its_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as found:
        _ = OpenAI("m", **keys).endpoints
    assert message in str(found.value)
    assert "hunter2" not in str(found.value)


def test_when_no_endpoint_is_left_the_rest_fails_at_once(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: error(401, "who are you")
    found = endpoint.engine(concurrency=4).generate(samples(500), 1, Sampling())
    reasons = {f.reason for f in found if isinstance(f, Failed)}
    assert reasons == {"HTTP 401: who are you", "no endpoint is left to ask: HTTP 401: who are you"}
    assert len(endpoint.bodies) < 2 * PATIENCE + 4


def test_an_endpoint_that_comes_back_is_used_again(endpoint: Endpoint) -> None:
    endpoint.answer = lambda n, _: error(500) if n <= 3 * PATIENCE else said("back")
    found = endpoint.engine(retries=30, concurrency=8).generate(samples(40), 1, Sampling())
    assert found == [(Response("back"),)] * 40


def test_calls_in_flight_rise_while_latency_holds(endpoint: Endpoint) -> None:
    def slow(*_: object) -> Reply:
        time.sleep(0.2)
        return said("x")

    endpoint.answer = slow
    endpoint.engine(concurrency=32).generate(samples(160), 1, Sampling())
    assert endpoint.most_busy > 24


def test_a_refusal_halves_the_calls_in_flight(endpoint: Endpoint) -> None:
    """An endpoint that serves four at a time and refuses the rest ends up with few in flight, and all are answered."""
    seen: list[int] = []

    def small(number: int, _body: dict[str, Any]) -> Reply:
        busy = endpoint.busy
        seen.append(busy)
        if busy > 4:
            return error(503)
        time.sleep(0.02)
        return said("x")

    endpoint.answer = small
    found = endpoint.engine(concurrency=16, retries=50).generate(samples(150), 1, Sampling())
    assert found == [(Response("x"),)] * 150
    assert sum(busy > 8 for busy in seen[-100:]) == 0


def test_the_key_is_in_no_reason(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-hunter2")
    replies: list[Reply] = [
        error(400, "bad key sk-hunter2"),
        (200, {}, b"sk-hunter2 is no JSON"),
        (200, {}, {"choices": [{"message": "sk-hunter2"}]}),
    ]
    endpoint.answer = lambda n, _: replies[n - 1]
    for _ in replies:
        (found,) = endpoint.engine(key_from="OTHER_KEY", retries=0).generate(samples(1), 1, Sampling())
        assert isinstance(found, Failed)
        assert "hunter2" not in found.reason
    assert set(endpoint.keys) == {"Bearer sk-hunter2"}


def test_a_redirect_is_not_followed_with_the_key(endpoint: Endpoint) -> None:
    with Endpoint().serving() as other:
        endpoint.answer = lambda *_: error(307, Location=f"{other.url}/chat/completions")
        (found,) = endpoint.engine().generate(samples(1), 1, Sampling())
    assert isinstance(found, Failed)
    assert found.reason.startswith("HTTP 307")
    assert other.bodies == []


def test_answers_are_heard_as_they_come(endpoint: Endpoint) -> None:
    release = threading.Event()

    def answer(_: int, body: dict[str, Any]) -> Reply:
        if "Q0" in question(body):
            release.wait(20)
        return said("x")

    endpoint.answer = answer
    heard = endpoint.engine().answers(samples(3), 1, Sampling())
    assert {next(heard).index, next(heard).index} == {1, 2}
    release.set()
    assert next(heard).index == 0
    assert list(heard) == []


def test_who_stops_listening_stops_the_asking(endpoint: Endpoint) -> None:
    endpoint.answer = lambda *_: (time.sleep(0.02), said("x"))[1]
    heard = endpoint.engine(concurrency=2).answers(samples(1000), 1, Sampling())
    next(heard)
    heard.close()
    asked = len(endpoint.bodies)
    time.sleep(0.1)
    assert len(endpoint.bodies) <= asked + 2 < 20


def test_a_field_may_be_left_out_of_the_request(endpoint: Endpoint) -> None:
    engine = endpoint.engine(extra={"max_tokens": None, "max_completion_tokens": 9})
    engine.generate(samples(1), 1, Sampling())
    assert endpoint.bodies[0]["max_completion_tokens"] == 9
    assert "max_tokens" not in endpoint.bodies[0]


def test_tokens_are_counted_as_the_endpoint_reports_them(endpoint: Endpoint) -> None:
    replies = [(200, {}, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    endpoint.answer = lambda n, _: replies[0] if n == 1 else said("x", usage=usage)
    (answer,) = endpoint.engine().answers(samples(1), 1, Sampling())
    assert answer.counts == {"requests": 2, "tokens_in": 10, "tokens_out": 3}, "what was thrown away was paid for too"


def test_an_image_that_is_too_large_is_shrunk_and_counted(endpoint: Endpoint, tmp_path: Path) -> None:
    Image.effect_noise((600, 400), 80).convert("RGB").save(tmp_path / "big.png")
    shown = Sample("a", user(Part("image", str(tmp_path / "big.png")), "Colour?"))
    (answer,) = endpoint.engine(max_image_bytes=20_000).answers([shown], 1, Sampling())
    assert answer.counts == {"requests": 1, "images_shrunk": 1}
    uri = endpoint.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert len(base64.b64decode(uri.partition(",")[2])) <= 20_000
    width, height = load_image(uri).size
    assert width / height == pytest.approx(1.5, abs=0.02)


def test_a_rotated_picture_is_sent_upright(endpoint: Endpoint, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), "red").save(tmp_path / "r.jpg", exif=exif)
    endpoint.engine().generate([Sample("a", user(Part("image", str(tmp_path / "r.jpg")), "?"))], 1, Sampling())
    uri = endpoint.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as sent:
        assert (sent.size, sent.getexif().get(0x0112, 1)) == ((10, 20), 1)


def test_a_truncated_picture_is_named_with_its_sample(endpoint: Endpoint, tmp_path: Path) -> None:
    Image.effect_noise((40, 40), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-400])
    asked = [*samples(3), Sample("train-7", user(Part("image", str(tmp_path / "cut.png")), "?"))]
    with pytest.raises(UserError, match=r"sample 'train-7': image .*cut\.png: not readable as a picture"):
        endpoint.engine().generate(asked, 1, Sampling())


def test_it_works_where_an_event_loop_runs_already(endpoint: Endpoint) -> None:
    import asyncio

    async def notebook() -> list[tuple[Response, ...] | Failed]:
        return endpoint.engine().generate(samples(2), 1, Sampling())

    assert asyncio.run(notebook()) == [(Response("hello"),)] * 2


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
    assert "\nmmpu: 2 of 2 duels could not be read, more than 2%; nothing was published." in done.stderr
    assert "replied 'As a language model'" in done.stderr
    assert not list((tmp_path / "boards").glob("*.json"))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (of(choice(None, "content_filter")), "no content (finish_reason 'content_filter')"),
        ((400, {}, {"error": {"message": "Filtered", "code": "content_filter"}}), "HTTP 400: Filtered"),
    ],
)  # fmt: skip
def test_a_judge_that_declines_is_not_asked_in_another_way(endpoint: Endpoint, reply: Reply, reason: str) -> None:
    endpoint.answer = lambda *_: reply
    asked = [Duel(samples(1)[0], "a", "b")]
    prompts = Path(__file__).parent.parent / "judges"
    for judge in (
        Pairwise(endpoint.engine(), str(prompts / "pairwise.txt")),
        Scalar(endpoint.engine(), str(prompts / "correct.txt"), scale="yes_no"),
    ):
        endpoint.bodies.clear()
        (verdicts,) = judge.compare(asked)
        assert {(v.win, v.reason) for v in verdicts} == {(None, reason)}
        assert len(endpoint.bodies) == 2, "two orders, or two answers, once each"
