"""Self-evaluation without a question: what a language model can always say is how likely a text is.

    likelihood   ℓ(y) = [log p(y | x, a) − log p(y | x)] / |y|      how much the anchor raises the candidate
    recall       ℓ(y) = [log p(a | x, y) − log p(a | x)] / |a|      how much the candidate raises the anchor
    s = σ(ℓ), ℓ in nats per token; ½ where the one has nothing to do with the other

Both are pointwise mutual information, so what is merely likely, short or fluent gains nothing by it. s* is that of the
anchor itself, which repeats it: no candidate in words of its own comes near, and a test that offers the anchor is
passed by copying. The end of a finished text counts as a token of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from mmpu.core import NAN, Failed, Group, Likelihood, Response, Sample
from mmpu.prompts import about
from mmpu.readings import Read
from mmpu.scorers import _asking
from mmpu.thinking import answer_of

GIVEN = Path(__file__).with_name("self_eval_given.txt")
ASK = {
    "likelihood": "A good answer is given; answer in your own words.",
    "recall": "An answer is given, which may be right or wrong; write a right one.",
}
Weigh = Callable[[Sequence[Sample], Sequence[Response]], Sequence[Likelihood | Failed]]


def read(mode: str, asked: Sequence[tuple[Group, Response]], weigh: Weigh) -> list[Read]:
    """Each response's score; what it is compared with is measured once for all responses of a group."""
    if mode == "likelihood":
        given = [_given(group.sample, mode, answer_of(group.taught.raw)) for group, _ in asked]
        bare = [_given(group.sample, mode, None) for group, _ in asked]
        found = list(weigh([*given, *bare], [r for _, r in asked] * 2))
        return [_gain(a, b) for a, b in zip(found[: len(asked)], found[len(asked) :], strict=True)]
    groups = list({id(group): group for group, _ in asked}.values())
    given = [_given(group.sample, mode, response.text) for group, response in asked]
    bare = [_given(group.sample, mode, None) for group in groups]
    taught = [group.taught for group, _ in asked] + [group.taught for group in groups]
    found = list(weigh([*given, *bare], taught))
    before = {id(group): value for group, value in zip(groups, found[len(asked) :], strict=True)}
    return [_gain(a, before[id(group)]) for a, (group, _) in zip(found, asked, strict=False)]


def length(mode: str, group: Group) -> int:
    """Characters that go through the model for a group's responses, those that are shared once."""
    texts = [response.text for response in group.responses]
    anchor, bare = answer_of(group.taught.raw), _asking.length([_given(group.sample, mode, None)])
    if mode == "likelihood":
        given = _asking.length([_given(group.sample, mode, anchor)])
        return given + bare + 2 * sum(map(len, texts))
    given = _asking.length([_given(group.sample, mode, text) for text in texts])
    return given + bare + (len(texts) + 1) * len(anchor)


def _given(sample: Sample, mode: str, text: str | None) -> Sample:
    return about(sample, GIVEN, given=text, ask=ASK[mode])


def _gain(given: Likelihood | Failed, bare: Likelihood | Failed) -> Read:
    for each in (given, bare):
        if isinstance(each, Failed):
            return Read(NAN, reason=each.reason)
    assert isinstance(given, Likelihood)
    assert isinstance(bare, Likelihood)
    return Read(1 / (1 + math.exp(-max(-700.0, given.mean - bare.mean))))
