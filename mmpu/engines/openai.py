"""Any OpenAI-compatible endpoint: vLLM, SGLang, a hosted model. Images travel as data URIs of bounded size.

The endpoint comes from the config or from `OPENAI_BASE_URL`, the key from the environment only. Calls, retries and
deadlines are `mmpu/client/`'s.

Servers that drop part of a request without a word are noticed: missing choices of `n` are asked for singly, and
`choose` fails with the reason where no log-probabilities come back. What a model refuses, or a filter withholds, is
asked for once; the other answers of the same call are kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from annotated_types import Interval

from mmpu.client import (
    Client,
    Crew,
    Declined,
    Exchange,
    Heard,
    Refused,
    Reply,
    Terms,
    Unusable,
    checked_key,
    checked_url,
    drawing,
    messages,
    offered,
    stream,
    texts,
    top_logprobs,
    weigh,
)
from mmpu.core import Answer, Choice, Engine, Failed, Response, Sample, Sampling, UserError, in_order
from mmpu.knobs import MAY_CHANGE, NotNegative, Parallel, Retries, Seconds
from mmpu.media import images as media

T = TypeVar("T")
LIVE = 16
"""Items begun but not done per call in flight; most of them wait to be asked again."""
ENOUGH = 8
"""Replies without log-probabilities, and none with, after which no more are paid for."""
_TALLYING = threading.Lock()
NO_LOGPROBS = "the endpoint returned no log-probabilities"


@dataclass(frozen=True)
class Price:
    """Per million tokens, in any currency."""

    input: NotNegative
    output: NotNegative


@dataclass(frozen=True)
class OpenAI(Engine):
    model: str
    """The model's name at the endpoint."""
    url: Annotated[str | None, MAY_CHANGE] = None
    """Base URL up to and including /v1, or several separated by commas, which share the load; None reads the
    environment."""
    urls: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """The same as a list."""
    key_from: Annotated[str, MAY_CHANGE] = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    concurrency: Annotated[Parallel, MAY_CHANGE] = 64
    """Most calls in flight over all endpoints. What an endpoint gets rises while its latency holds."""
    timeout: Annotated[Seconds, MAY_CHANGE] = 120.0
    """Seconds for one attempt."""
    deadline: Annotated[Seconds, MAY_CHANGE] = 600.0
    """Seconds for one item, from its first attempt on."""
    retries: Annotated[Retries, MAY_CHANGE] = 6
    """Further attempts at one request, after waits that double from half a second, or as Retry-After says."""
    top_logprobs: Annotated[int, Interval(ge=1, le=100)] = 20
    """Likeliest tokens that are asked for where options are weighed."""
    max_image_bytes: Annotated[int, Interval(ge=4096, le=2**30)] = 4 * 2**20
    """Larger image files are sent as JPEG, scaled down as far as needed, and counted as `images_shrunk`."""
    price: Annotated[Price | None, MAY_CHANGE] = None
    """For previews of what a command will cost."""
    extra: dict[str, Any] | None = None
    """Further fields of the request body, such as {chat_template_kwargs: {enable_thinking: false}}; null leaves one of
    ours out."""

    tally: Counter[str] | None = field(default=None, compare=False, repr=False)
    """Where what calls take is added up, if anywhere: `requests`, `tokens_in`, `tokens_cached`, …"""

    @property
    def identity(self) -> str:
        return f"openai:{self.model}:{sorted((self.extra or {}).items())}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The base URLs.

        Raises:
            UserError: none is configured, or one is no address.
        """
        if self.url and self.urls:
            raise UserError(f"engine openai, {self.model}: both `url` and `urls` are given; keep one")
        urls = self.urls or tuple((self.url or os.environ.get("OPENAI_BASE_URL") or "").split(","))
        found = tuple(dict.fromkeys(checked_url(url) for url in urls if url.strip()))
        if not found:
            raise UserError(
                f"no endpoint for {self.model}. Start one, for example\n"
                f"    vllm serve {self.model} --port 8000\n"
                "and name it: `url: http://localhost:8000/v1` in the engine's YAML, --judge-url for a judge, or "
                f"OPENAI_BASE_URL. A key, where one is needed, is read from {self.key_from}"
            )
        return found

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return in_order(self.answers(samples, n, sampling), len(samples))

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        return in_order(self.choices(samples, options), len(samples))

    def _tallied(self, answers: Iterator[Answer[T]]) -> Iterator[Answer[T]]:
        for answer in answers:
            if self.tally is not None:
                with _TALLYING:  # lanes of a judge share one tally
                    self.tally.update(answer.counts)
            yield answer

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        async def ask(exchange: Exchange, sample: Sample) -> tuple[Response, ...]:
            def post(count: int, seed: int) -> Awaitable[Heard]:
                fields = {**drawing(sampling), "n": count, "seed": seed, "tools": offered(sample)}
                calling = fields["tools"] is not None
                body = self._body(sample, fields, exchange.counts)
                return exchange.post(body, lambda reply: texts(reply, count, calling=calling))

            first = await post(n, sampling.seed)
            found, refused = [*first.responses], [*first.refused]
            while (had := len(found) + len(refused)) < n:
                # `n` was ignored, or an answer broke off, and the same seed would give the same answer again
                exchange.counts["asked_singly"] += 1
                try:
                    found += (await post(1, sampling.seed + had)).responses
                except Refused as error:  # what came before has been paid for
                    refused.append(str(error))
            if not found:
                raise Declined(exchange.client.shown(refused[0]))
            if refused:
                exchange.counts["refused_answers"] += len(refused)
                exchange.refusals += map(exchange.client.shown, dict.fromkeys(refused))
            return tuple(found)

        return self._gather(samples, ask)

    def choices(self, samples: Sequence[Sample], options: Sequence[str]) -> Iterator[Answer[Choice]]:
        told: Counter[bool] = Counter()
        fields = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": self.top_logprobs}

        def read(reply: Reply) -> Choice:
            top = top_logprobs(reply)
            told[bool(top)] += 1
            if not top:
                raise (Unusable if told[True] else Refused)(NO_LOGPROBS)
            return weigh(top, options)

        async def ask(exchange: Exchange, sample: Sample) -> Choice:
            body = self._body(sample, fields, exchange.counts)

            async def build() -> bytes:  # when there is a place for it, and the calls before have been heard
                if told[False] >= ENOUGH and not told[True]:
                    raise Refused(f"{NO_LOGPROBS} to {told[False]} calls before; it seems to ignore `logprobs`")
                return await body()

            choice = await exchange.post(build, read)
            if choice.bounded:
                exchange.counts["bounded_choices"] += 1
            return choice

        return self._gather(samples, ask)

    def _gather(
        self, samples: Sequence[Sample], ask: Callable[[Exchange, Sample], Awaitable[T]]
    ) -> Iterator[Answer[T]]:
        """Asks for all samples; one that fails for good fails alone."""
        endpoints = self.endpoints
        key = checked_key((os.environ.get(self.key_from) or "EMPTY").strip(), self.key_from)
        terms = Terms(self.concurrency, self.timeout, self.deadline, self.retries)

        async def work(hand_over: Callable[[Answer[T]], Awaitable[None]]) -> None:
            crew = Crew(enumerate(samples), self.concurrency, LIVE * self.concurrency)
            async with Client(endpoints, key, terms) as client:

                async def one(item: tuple[int, Sample]) -> None:
                    index, sample = item
                    async with Exchange(client, crew.rest) as exchange:
                        try:
                            value: T | Failed = await ask(exchange, sample)
                        except Refused as error:
                            value = Failed(str(error), isinstance(error, Declined))
                        await hand_over(Answer(index, value, dict(exchange.counts), "; ".join(exchange.refusals)))

                await crew.run(one)

        return self._tallied(stream(work)) if samples else iter(())

    def _body(self, sample: Sample, fields: dict[str, Any], counts: Counter[str]) -> Callable[[], Awaitable[bytes]]:
        async def build() -> bytes:
            shown: dict[str, str] = {}
            shrunk = 0
            for image in dict.fromkeys(sample.images):
                shown[image], lossy = await asyncio.to_thread(self._image, sample, image)
                shrunk += lossy
            if shrunk:
                counts["images_shrunk"] = shrunk  # set, not added to: a body may be built more than once
            body = {"model": self.model, "messages": messages(sample, shown), **fields, **(self.extra or {})}
            return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

        return build

    def _image(self, sample: Sample, image: str) -> tuple[str, bool]:
        with media.named(sample):
            return media.inline_uri(image, self.max_image_bytes)
