"""Prompts and answers encoded before anything is done with them, so that what a model cannot read is named at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpu.core import Response, Sample, UserError
from mmpu.student.student import Student

Kind = Literal["long", "unreadable"]
ROOMY = 16
"""Bytes by which a text must be shorter than the context to fit without being encoded: a token has one at least, but
for the few that a tokenizer puts before a text."""


@dataclass(frozen=True)
class Misfit:
    """A sample that a model cannot work with."""

    sample: str
    kind: Kind
    """`long`: it does not fit the context; `unreadable`: it cannot be made into tokens of this model."""
    reason: str


def misfit(
    student: Student, sample: Sample, answers: Sequence[Response] = (), room: int = 0, longest: int | None = None
) -> Misfit | None:
    """What keeps a prompt from being read, each of these answers from being trained on behind it, or an answer of
    `room` tokens from being sampled; None if nothing does.

    Args:
        longest: Tokens of a prompt and a sampled answer together, where the sampler holds fewer than the model reads.
    """
    limit, name = student.encoder.limit, student.config.model
    where = f"sample {sample.id!r}"
    try:
        prompt = student.encoder.prompt_ids(sample)
        said = [student.response_ids(sample, answer) for answer in answers]
    except UserError as error:
        return Misfit(sample.id, "unreadable", str(error))
    except (TypeError, UnicodeError) as error:  # half a surrogate pair is no character
        return Misfit(sample.id, "unreadable", f"{where}: {name} cannot make tokens of its text ({error})")
    if not prompt:
        return Misfit(sample.id, "unreadable", f"{where}: the prompt has no token")
    highest = max(max(ids) for ids in (prompt, *said) if ids)
    embeddings = int(student.base.get_input_embeddings().weight.shape[0])
    if highest >= embeddings:
        return Misfit(
            sample.id,
            "unreadable",
            f"{where}: its token {highest} ({student.tokenizer.convert_ids_to_tokens(highest)!r}) has no embedding, "
            f"{name} has {embeddings}; resize them, or take the tokenizer that belongs to the model",
        )
    if longest is not None and len(prompt) + room > longest:
        sampled = f"{len(prompt)} tokens of prompt and max_tokens={room} to sample"
        return Misfit(sample.id, "long", f"{where}: {sampled}, the sampler holds max_length={longest}")
    if limit is None:
        return None
    reads = f"{name} reads {limit}"
    if len(prompt) >= limit:
        return Misfit(sample.id, "long", f"{where}: the prompt has {len(prompt)} tokens, {reads}")
    answer = max(map(len, said), default=0)
    if len(prompt) + answer > limit:
        return Misfit(sample.id, "long", f"{where}: {len(prompt)} tokens of prompt and {answer} of answer, {reads}")
    if len(prompt) + room > limit:
        return Misfit(
            sample.id, "long", f"{where}: {len(prompt)} tokens of prompt and max_tokens={room} to sample, {reads}"
        )
    return None


def overlong(student: Student, prompt: Sample, room: int) -> int | None:
    """Tokens of a prompt that leaves less room than this; None if it leaves enough."""
    limit = student.encoder.limit
    if limit is None:
        return None
    if not prompt.images and len(student.encoder.render(prompt).encode("utf-8", "replace")) + room + ROOMY <= limit:
        return None
    length = student.encoder.length(prompt)
    return length if length + room > limit else None


def longest_text(student: Student, tokens: int) -> str:
    """A text of that many tokens."""
    word = " word"
    each = max(1, len(student.encoder.text_ids(word * 16)) // 16)
    return (word * -(-tokens // each)).strip()


def summary(misfits: Sequence[Misfit], total: int) -> str:
    """How many there are of each kind, and the first of them."""
    lines = [f"{len(misfits)} of {total} prompts do not fit:"]
    for kind in ("unreadable", "long"):
        found = [each for each in misfits if each.kind == kind]
        if found:
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            lines.append(f"- {len(found)} {kind}: " + "; ".join(each.reason for each in found[:3]) + more)
    return "\n".join(lines)
