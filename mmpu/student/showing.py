"""What a student makes of a sample, token by token: what it reads, what it is trained on, how a turn ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmpu.core import Response, Sample
from mmpu.student.student import Student
from mmpu.thinking import answer_of, opening, thought_nothing

SHOWN = 40
"""Characters of a prompt's end that are shown."""


@dataclass(frozen=True)
class Piece:
    """Tokens that stand together: words, or the placeholders of one image."""

    text: str
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """What each token adds to the text; half of a character is U+FFFD."""
    placeholder: bool = False


@dataclass(frozen=True)
class Rendered:
    """A prompt, and an answer behind it, as a student is trained on both: on the answer alone."""

    prompt: tuple[Piece, ...]
    answer: tuple[Piece, ...]
    """Its end included; nothing where no answer is known."""
    thinking: str
    """Where a response begins, inside a thought or outside."""


def rendered(student: Student, sample: Sample, answer: str | None) -> Rendered:
    """By the same encoder that trains, samples and scores.

    Args:
        answer: All of it, as a reference is; None shows the prompt alone.

    Raises:
        UserError: the template refuses the sample, or an image does not fit the model.
    """
    said = () if answer is None else student.response_ids(sample, Response(answer))
    prompt = student.encoder.prompt_ids(sample)
    return Rendered(tuple(_pieces(student, prompt)), tuple(_pieces(student, said)), thinking(student, sample))


def _pieces(student: Student, ids: Sequence[int]) -> Iterator[Piece]:
    name = student.family.image_token
    image = None if name is None else student.tokenizer.convert_tokens_to_ids(name)
    for placeholder, run in groupby(ids, lambda token: token == image):
        found = tuple(run)
        yield Piece(_decoded(student, found), found, tuple(_texts(student, found)), placeholder)


def _texts(student: Student, ids: Sequence[int]) -> Iterator[str]:
    before: tuple[int, ...] = ()
    for token in ids:
        # Some tokenizers strip the blank that a text begins with, so a token is read behind another one.
        so_far, both = _decoded(student, before), _decoded(student, (*before, token))
        yield both[len(so_far) :] if both.startswith(so_far) else _decoded(student, (token,))
        before = (token,)


def _decoded(student: Student, ids: Sequence[int]) -> str:
    tokenizer: Any = student.tokenizer
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def ending(student: Student) -> str:
    """The token that a finished response ends with, and who says so."""
    token = f"{student.tokenizer.convert_ids_to_tokens(student.end)} ({student.end})"
    if student.encoder.turns.end is not None:
        return f"{token}, as the chat template ends a turn"
    what = "no chat template is used" if student.config.template == "completion" else "the chat template writes no end"
    return f"{token}, the tokenizer's: {what}"


def before_answer(student: Student, sample: Sample) -> str:
    """The end of a prompt's text, which stands right before an answer."""
    return student.encoder.render(sample)[-SHOWN:]


def thinking(student: Student, sample: Sample) -> str:
    """Whether the prompt leaves a response inside a thought."""
    text = student.encoder.render(sample)
    if mark := opening(text):
        return f"the prompt opens {mark.strip()}, so a response begins inside a thought"
    if thought_nothing(text):
        return "the prompt closes a thought of nothing, so a response begins with its answer"
    return "the prompt opens no thought"


def drops_thoughts(student: Student, sample: Sample, response: Response) -> bool:
    """True if what a student is trained on lacks the thoughts of an answer given as text."""
    if response.tokens is not None or answer_of(response.raw) == response.raw:
        return False
    trained = student.decode(student.response_ids(sample, response))
    return answer_of(trained) == trained
