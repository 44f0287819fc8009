"""The chat completions format: prompts into requests, replies into texts and option probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mmpu.calls import of_openai, written
from mmpu.client.client import Reply, words_of
from mmpu.client.exchange import Declined, Unusable
from mmpu.core import Choice, Message, Response, Sample, Sampling
from mmpu.thinking import thinks_on

CUT = ("length", "max_tokens", "model_length")
"""Finish reasons of answers that a limit cut."""
REFUSING = ("content_filter", "tool_calls", "function_call", "refusal", "safety", "recitation")
"""Finish reasons of replies whose lack of content asking again would not mend."""


def messages(sample: Sample, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """A prompt in the chat completions format; `images` holds the data URI of each."""

    def part(kind: str, data: str) -> dict[str, Any]:
        if kind == "text":
            return {"type": "text", "text": data}
        return {"type": "image_url", "image_url": {"url": images[data]}}

    result: list[dict[str, Any]] = []
    asked: list[str] = []
    for number, m in enumerate(sample.prompt):
        plain = all(p.kind == "text" for p in m.parts)
        content = m.text if plain else [part(p.kind, p.data) for p in m.parts]
        result.append({"role": m.role, "content": content, **_further(m, number, asked)})
    return result


def _further(message: Message, number: int, asked: list[str]) -> dict[str, Any]:
    """A turn's keys besides role and content: the arguments of calls as JSON in a text, and which call a tool's turn
    answers, by the ids of those that were asked."""
    found: dict[str, Any] = json.loads(message.more) if message.more else {}
    for place, call in enumerate(found.get("tool_calls", ())):
        asked.append(call.setdefault("id", f"call_{number}_{place}"))
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    if message.role == "tool" and asked:
        first = asked.pop(0)
        found.setdefault("tool_call_id", first)
    return {key: value for key, value in found.items() if key != "tools"}


def offered(sample: Sample) -> list[Any] | None:
    """The tools that a prompt offers; None if it offers none."""
    return [tool for m in sample.prompt if m.more for tool in json.loads(m.more).get("tools", ())] or None


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


@dataclass(frozen=True)
class Heard:
    """What came of a request for answers."""

    responses: tuple[Response, ...]
    refused: tuple[str, ...] = ()
    """Of each answer that asking again would not bring, why."""


def texts(reply: Reply, most: int, *, calling: bool = False) -> Heard:
    """The answers of a reply. One that broke off is left out where there are others, and may be asked for again.

    Args:
        calling: Whether tools were offered, so that an answer may call them; it is then kept in our form (`calls.py`).

    Raises:
        Declined: there is none, and there will be none.
        Unusable: there is none.
    """
    choices = reply["choices"]
    if not 1 <= len(choices) <= most:
        raise Unusable(f"asked for {most} answers, got {len(choices)}")
    said = [answer_in(choice, calling=calling) for choice in choices]
    refused = [each for each in said if isinstance(each, Declined)]
    broken = [each for each in said if isinstance(each, Unusable)]
    if len(refused) == len(said):
        raise refused[0]
    if len(broken) == len(said):
        raise broken[0]
    return Heard(tuple(r for r in said if isinstance(r, Response)), tuple(map(str, refused)))


def answer_in(choice: Any, *, calling: bool = False) -> Response | Declined | Unusable:
    """What a choice of a reply says, or why it says nothing."""
    message, why = choice["message"], str(choice.get("finish_reason"))
    text, reasoning = _content(message)
    if calling and message.get("tool_calls"):
        try:
            called = written([of_openai(call) for call in message["tool_calls"]])
        except ValueError as error:
            return Unusable(str(error))
        return Response("\n".join(filter(None, (text, called))), finished=why not in CUT, reasoning=reasoning)
    if why == "error" or choice.get("error"):
        return Unusable(f"the provider broke off: {words_of(choice.get('error')) or f'finish_reason {why!r}'}")
    if text is not None and text.strip():
        return Response(text, finished=why not in (*CUT, *REFUSING) and not thinks_on(text), reasoning=reasoning)
    if refusal := message.get("refusal"):
        return Declined(f"the model refused: {refusal}")
    if why in REFUSING:
        return Declined(f"no content (finish_reason {why!r}{_details(choice)})")
    if why in CUT or reasoning:  # it came to no answer
        return Response("", finished=False, reasoning=reasoning)
    return Unusable(f"no content (finish_reason {why!r})") if text is None else Response(text)


def _content(message: Any) -> tuple[str | None, str]:
    """The text of a message, None if it has none, and the thinking served beside it."""
    content: Any = message.get("content")
    apart = [message.get(name) for name in ("reasoning_content", "reasoning")]
    reasoning = next((text for text in apart if isinstance(text, str) and text), "")
    if not isinstance(content, list):
        return content if isinstance(content, str) else None, reasoning
    parts = cast(list[Any], content)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    thoughts = [piece["text"] for part in parts if part["type"] == "thinking" for piece in part["thinking"]]
    return "".join(texts) if texts else None, reasoning or "".join(thoughts)


def _details(choice: Any) -> str:
    """What else a choice says of why it ended."""
    called = [call["function"]["name"] for call in choice["message"].get("tool_calls") or ()]
    results = choice.get("content_filter_results") or {}
    filtered = [name for name, result in results.items() if isinstance(result, dict) and result.get("filtered")]
    native = choice.get("native_finish_reason")
    named = [*filtered, *([f"natively {native!r}"] if native else []), *(f"called {name}" for name in called)]
    return f": {', '.join(named)}" if named else ""


def top_logprobs(reply: Reply) -> dict[str, float]:
    """The likeliest first tokens, stripped, with their probabilities' logarithms; empty if the reply shows none.

    Raises:
        Declined: nor will another reply show any.
        Unusable: the provider broke off.
    """
    choice = reply["choices"][0]
    logprobs = choice.get("logprobs")
    content = logprobs["content"] if logprobs else None
    top = [(entry["token"], entry["logprob"]) for entry in (content[0]["top_logprobs"] if content else [])]
    if not top and choice.get("message") and isinstance(said := answer_in(choice), Declined | Unusable):
        raise said
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
