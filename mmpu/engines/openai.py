"""Any OpenAI-compatible endpoint: vLLM, SGLang, a hosted model. Images travel as data URIs.

The endpoint comes from the config or from `MMPU_JUDGE_URL` / `OPENAI_BASE_URL`, the key from `OPENAI_API_KEY` only.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mmpu import media
from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError

T = TypeVar("T")
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What reading a reply raises if it is not what the protocol says: a proxy's error page, a list, a missing field."""
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True)
class OpenAI(Engine):
    model: str
    url: str | None = None
    """Base URL up to and including /v1; None reads the environment."""
    concurrency: int = 16
    """Calls in flight."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    retries: int = 5
    """Further attempts after 408, 409, 429, 5xx or a lost connection; Retry-After is honoured."""
    top_logprobs: int = 20
    extra: dict[str, Any] | None = None
    """Further fields of the request body, such as {chat_template_kwargs: {enable_thinking: false}}."""

    @property
    def identity(self) -> str:
        return f"openai:{self.model}:{sorted((self.extra or {}).items())}"

    @property
    def endpoint(self) -> str:
        """The base URL.

        Raises:
            UserError: none is configured.
        """
        url = self.url or os.environ.get("MMPU_JUDGE_URL") or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise UserError(
                f"no endpoint for {self.model}. Start one, for example\n"
                f"    vllm serve {self.model} --port 8000\n"
                "and pass it with --judge-url http://localhost:8000/v1 (or `url:` in the YAML, or MMPU_JUDGE_URL). A "
                "key, where one is needed, is read from OPENAI_API_KEY"
            )
        return url

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        # Not of OpenAI's protocol, but of vLLM's and SGLang's; an endpoint that lacks them says so.
        truncation = {k: v for k, v in (("top_k", sampling.top_k), ("min_p", sampling.min_p)) if v}

        async def ask(client: Any, sample: Sample) -> tuple[Response, ...]:
            reply = await client.chat.completions.create(
                model=self.model,
                messages=messages(sample),
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed,
                stop=list(sampling.stop) or None,
                extra_body={**truncation, **(self.extra or {})},
            )
            choices = reply.choices or []
            if len(choices) != n or any(c.message.content is None for c in choices):
                raise _Unusable(f"asked for {n} answers, got {len(choices)}, some of them perhaps empty")
            return tuple(Response(c.message.content, finished=c.finish_reason != "length") for c in choices)

        return self._gather(samples, ask)

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        async def ask(client: Any, sample: Sample) -> Choice:
            reply = await client.chat.completions.create(
                model=self.model,
                messages=messages(sample),
                max_tokens=1,
                temperature=0.0,
                logprobs=True,
                top_logprobs=self.top_logprobs,
                extra_body=self.extra,
            )
            logprobs = reply.choices[0].logprobs if reply.choices else None
            if not logprobs or not logprobs.content:
                raise _Unusable("the endpoint returned no log-probabilities")
            probs = dict.fromkeys(options, 0.0)
            for entry in logprobs.content[0].top_logprobs:
                if entry.token.strip() in probs:
                    probs[entry.token.strip()] += math.exp(entry.logprob)
            return Choice(probs, max(0.0, 1.0 - sum(probs.values())))

        return self._gather(samples, ask)

    def _gather(self, samples: Sequence[Sample], ask: Callable[[Any, Sample], Awaitable[T]]) -> list[T | Failed]:
        """Asks for all samples, `concurrency` at a time; a call that fails for good fails alone."""
        import openai

        async def run() -> list[T | Failed]:
            gate = asyncio.Semaphore(self.concurrency)
            async with openai.AsyncOpenAI(
                base_url=self.endpoint,
                api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY",
                timeout=self.timeout,
                max_retries=self.retries,
            ) as client:

                async def one(sample: Sample) -> T | Failed:
                    async with gate:
                        try:
                            return await ask(client, sample)
                        except (openai.OpenAIError, _Unusable, *MALFORMED) as error:
                            return Failed(f"{type(error).__name__}: {str(error)[:300]}")

                return await asyncio.gather(*(one(sample) for sample in samples))

        return asyncio.run(run())


class _Unusable(Exception):
    """A reply without what was asked for."""


def messages(sample: Sample) -> list[dict[str, Any]]:
    """A prompt in the chat completions format."""

    def part(kind: str, data: str) -> dict[str, Any]:
        if kind == "text":
            return {"type": "text", "text": data}
        return {"type": "image_url", "image_url": {"url": data if data.startswith("data:") else _uri(data)}}

    return [
        {
            "role": m.role,
            "content": m.text if all(p.kind == "text" for p in m.parts) else [part(p.kind, p.data) for p in m.parts],
        }
        for m in sample.prompt
    ]


def _uri(path: str) -> str:
    raw = media.image_bytes(path)
    kind = next((name for start, name in SIGNATURES.items() if raw.startswith(start)), None)
    if kind is None:  # a format that endpoints may not know
        return media.data_uri(media.load_image(path))
    return f"data:image/{kind};base64," + base64.b64encode(raw).decode()
