"""The chat completions format: prompts into requests, replies into texts and option probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmpu.client.client import Reply
from mmpu.client.exchange import Unusable
from mmpu.core import Choice, Response, Sample, Sampling


def messages(sample: Sample, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """A prompt in the chat completions format; `images` holds the data URI of each."""

    def part(kind: str, data: str) -> dict[str, Any]:
        if kind == "text":
            return {"type": "text", "text": data}
        return {"type": "image_url", "image_url": {"url": images[data]}}

    return [
        {
            "role": m.role,
            "content": m.text if all(p.kind == "text" for p in m.parts) else [part(p.kind, p.data) for p in m.parts],
        }
        for m in sample.prompt
    ]


def drawing(sampling: Sampling) -> dict[str, Any]:
    # top_k and min_p are not of OpenAI's protocol, but of vLLM's and SGLang's; an endpoint that lacks them says so.
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop) or None,
    }


def texts(reply: Reply, most: int) -> tuple[Response, ...]:
    choices = reply["choices"]
    if not 1 <= len(choices) <= most:
        raise Unusable(f"asked for {most} answers, got {len(choices)}")
    found = [(choice["message"]["content"], choice.get("finish_reason")) for choice in choices]
    empty = [reason for text, reason in found if not isinstance(text, str)]
    if empty:
        raise Unusable(f"{len(empty)} of {len(found)} answers have no content (finish_reason {empty[0]!r})")
    return tuple(Response(text, finished=reason != "length") for text, reason in found)


def top_logprobs(reply: Reply) -> dict[str, float]:
    """The likeliest first tokens, stripped, with their probabilities' logarithms; empty if the reply shows none."""
    logprobs = reply["choices"][0].get("logprobs")
    content = logprobs["content"] if logprobs else None
    top = [(entry["token"], entry["logprob"]) for entry in (content[0]["top_logprobs"] if content else [])]
    if any(not isinstance(token, str) or not logprob <= 0.01 for token, logprob in top):
        raise ValueError("a log-probability is not one")
    merged: dict[str, float] = {}
    for token, logprob in top:
        merged[token] = max(logprob, merged.get(token, -math.inf))
    return merged


def weigh(top: Mapping[str, float], options: Sequence[str]) -> Choice:
    """Probabilities of options from the list of likeliest tokens.

    An option that the list does not show is at most as likely as the last one shown, and no likelier than what the
    list leaves over; it gets this upper bound and is marked. Where no option is shown, none gets anything.
    """
    probs = dict.fromkeys(options, 0.0)
    shown: set[str] = set()
    for token, logprob in top.items():
        if token.strip() in probs:
            probs[token.strip()] += math.exp(logprob)
            shown.add(token.strip())
    outside = max(0.0, 1.0 - sum(probs.values()))
    if not shown:
        return Choice(probs, outside)
    bound = min(math.exp(min(top.values())), max(0.0, 1.0 - sum(map(math.exp, top.values()))))
    missing = frozenset(options) - shown
    return Choice({**probs, **dict.fromkeys(missing, bound)}, outside, missing)
