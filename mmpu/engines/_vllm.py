"""What the two vLLM engines share: prompts, sampling and answers in vLLM's terms, such that it reads and computes what
the student reads and computes.

* A prompt is the token ids of `Student.encode`. vLLM insists on expanding image placeholders itself, so each image goes
as one of them, and what comes back is compared with the ids that the student will train on.
* vLLM runs an image processor of its own, often on another backend whose resizing differs by a few grey levels. So a
picture goes as the student's processor resized and cropped it; doing that again changes nothing.
* Tokens that the student never samples are banned, and log-probabilities are those of the distribution sampled from.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, UserError
from mmpu.media import images as media
from mmpu.student import Encoded, Student, named_weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MAX_TOKENS_READ = 127
"""vLLM reports the log-probabilities of at most this many chosen tokens, one place kept free."""
_TOKEN_LIKE = re.compile(r"<\|[^|\s]+\|>|</?s>|<eos>|<end_of_turn>")


_TOWER = re.compile(r"vision_tower\.(?!vision_model\.)")
"""LLaVA's vision tower as transformers names it in a model that did not come from an older checkpoint."""


class StaleWeights(RuntimeError):
    """An answer came from other weights than the student's present ones."""


Said = tuple[Sequence[int], Sequence[float], str | None]
"""An answer as vLLM gives it: tokens, their log-probabilities, why it ended."""


class Mirrored(Engine):
    """The student answering from vLLM. Questions are put and outputs read here; how they travel is up to the engine."""

    student: Student
    piece: ClassVar[int] = 1024

    @property
    def identity(self) -> str:
        return f"vllm:{self.student.config.model}:live"

    @abstractmethod
    def ask(self, samples: Sequence[Sample], values: Sequence[dict[str, Any]]) -> list[Any]:
        """vLLM's output, or `Failed`, for each sample, under its fields of SamplingParams, from the student's present
        weights."""

    @abstractmethod
    def said(self, output: Any) -> Iterable[Said]:
        """The answers in an output, in order."""

    @abstractmethod
    def weighed(self, output: Any) -> Mapping[int, float]:
        """The log-probabilities in an output of one token, by id."""

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        values = drawing(self.student, samples, n, sampling)
        if isinstance(values, Failed):
            return [values] * len(samples)
        return [self.responses(output, sampling) for output in self.ask(samples, values)]

    def responses(self, output: Any, sampling: Sampling) -> tuple[Response, ...] | Failed:
        """An output read; it fails as a whole where one answer in it does."""
        if isinstance(output, Failed):
            return output
        found: list[Response] = []
        for tokens, logp, finish in self.said(output):
            answer = response(self.student, sampling, tokens, logp, finish)
            if isinstance(answer, Failed):
                return answer
            found.append(answer)
        return tuple(found)

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        ids, values = reading(self.student, options)
        # Short answers are often sampled twice; the same question is asked once.
        distinct = list({sample.prompt: sample for sample in samples}.values())
        outputs = self.ask(distinct, [values] * len(distinct))
        found = {
            sample.prompt: output if isinstance(output, Failed) else choice(options, ids, self.weighed(output))
            for sample, output in zip(distinct, outputs, strict=True)
        }
        return [found[sample.prompt] for sample in samples]


def weights(student: Student) -> Iterator[tuple[str, Tensor]]:
    """The student's without its adapter, where they lie, each under the name that vLLM knows."""
    llava = student.base.config.model_type == "llava"
    for name, tensor in named_weights(student.base).items():
        yield _TOWER.sub("vision_tower.vision_model.", name) if llava else name, tensor


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt on its way to vLLM."""

    sample: Sample
    encoded: Encoded
    ids: tuple[int, ...]
    """One placeholder per image."""
    pictures: tuple[Image, ...]


def question(student: Student, sample: Sample, new_tokens: int, longest: int) -> Question | Failed:
    """Encodes a sample, or says why it cannot be answered: not readable, or too long to be answered in full."""
    try:
        encoded = student.encode(sample)
        pictures = tuple(processed(student, media.load_image(image)) for image in sample.images)
    except UserError as error:
        return Failed(str(error))
    if len(encoded.ids) + new_tokens > longest:
        return Failed(
            f"sample {sample.id!r}: a prompt of {len(encoded.ids)} tokens and {new_tokens} new ones are more than the "
            f"{longest} that vLLM was started for; raise its max_length, or shorten prompt or answer"
        )
    return Question(sample, encoded, _one_per_image(student, encoded), pictures)


def questions(
    student: Student, samples: Sequence[Sample], values: Sequence[dict[str, Any]], longest: int
) -> list[Question | Failed]:
    """Each sample under its fields of SamplingParams."""
    return [question(student, s, v["max_tokens"], longest) for s, v in zip(samples, values, strict=True)]


def _one_per_image(student: Student, encoded: Encoded) -> tuple[int, ...]:
    if not encoded.image_lengths:
        return encoded.ids
    placeholder = student.tokenizer.convert_tokens_to_ids(student.family.image_token)
    lengths = iter(encoded.image_lengths)
    kept: list[int] = []
    at = 0
    while at < len(encoded.ids):
        kept.append(encoded.ids[at])
        at += next(lengths) if encoded.ids[at] == placeholder else 1
    return tuple(kept)


def processed(student: Student, picture: Image) -> Image:
    """The picture as the student's image processor resizes and crops it, before its values are scaled."""
    from PIL import Image

    processor = student.image_processor
    features = processor(images=[picture], return_tensors="np", do_rescale=False, do_normalize=False)
    if "image_grid_thw" in features:  # the pixels are cut into patches; their grid says the size
        _, rows, columns = (int(n) for n in features["image_grid_thw"][0])
        size = (columns * processor.patch_size, rows * processor.patch_size)
        return picture.resize(size, Image.Resampling(processor.resample))
    return Image.fromarray(np.asarray(features["pixel_values"][0]).transpose(1, 2, 0).round().astype(np.uint8))


def misread(question: Question, ids: Sequence[int]) -> Failed:
    """Why an answer to other tokens than the student's is none."""
    return Failed(
        f"sample {question.sample.id!r}: vLLM read {len(ids)} tokens where the student reads "
        f"{len(question.encoded.ids)}, or others; its image processor does not fit the student's"
    )


def drawing(student: Student, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[dict[str, Any]] | Failed:
    """The fields of SamplingParams for each sample, or why nothing can be sampled."""
    try:
        return [sampling_values(student, sampling, n, sample.id) for sample in samples]
    except UserError as error:
        return Failed(str(error))


def sampling_values(student: Student, sampling: Sampling, n: int, sample_id: str) -> dict[str, Any]:
    """The fields of vLLM's SamplingParams.

    The stream of a response is keyed by seed and sample id; vLLM adds the response's index to the seed.

    Raises:
        UserError: a stop token is not one of the student's.
    """
    key = hashlib.sha256(f"{sampling.seed}|{sample_id}".encode()).digest()
    added: Mapping[str, int] = student.tokenizer.get_added_vocab()
    unknown = [stop for stop in sampling.stop if _TOKEN_LIKE.fullmatch(stop) and stop not in added]
    if unknown:
        raise UserError(
            f"sampling.stop: {', '.join(map(repr, unknown))} looks like a special token and is none of "
            f"{student.config.model}, which would never stop there; it ends with {student.tokenizer.eos_token!r}"
        )
    # Special tokens do not appear in the text, where stop strings are looked for.
    tokens = {added[stop] for stop in sampling.stop if stop in added}
    return {
        "bad_words": _banned(student),
        "n": n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
        "seed": int.from_bytes(key[:7]),
        "stop": [stop for stop in sampling.stop if stop not in added],
        "stop_token_ids": sorted(student.eos | tokens),
        "logprobs": 0,
    }


def reading(student: Student, options: Sequence[str]) -> tuple[list[list[int]], dict[str, Any]]:
    """The ids of each option, and the fields of SamplingParams that read the next token's distribution at all of them.

    Raises:
        UserError: more tokens read like the options than vLLM reports.
    """
    ids = [student.option_ids(option) for option in options]
    wanted = sorted({token for tokens in ids for token in tokens})
    if len(wanted) > MAX_TOKENS_READ:
        raise UserError(
            f"{len(wanted)} tokens of {student.config.model} read like one of the options {', '.join(options)}; vLLM "
            f"reports {MAX_TOKENS_READ} at most; ask for fewer options"
        )
    return ids, {
        "bad_words": _banned(student),
        "temperature": 0.0,
        "max_tokens": 1,
        "logprob_token_ids": wanted or [student.pad],  # no option has a token: something must be asked for
    }


def _banned(student: Student) -> list[str]:
    banned = set(student.banned)
    return [w for w in student.family.never_sampled if student.tokenizer.convert_tokens_to_ids(w) in banned]


def response(
    student: Student, sampling: Sampling, tokens: Sequence[int], logp: Sequence[float], finish: str | None
) -> Response | Failed:
    """An answer of vLLM; greedy tokens are certain, so their log-probability is 0, as in the in-process engine."""
    if finish not in ("stop", "length"):
        return Failed(f"vLLM ended the answer with {finish!r}")
    text = student.decode(tokens)
    cut = sampling.before_stop(text)
    return Response(
        student.said(text if cut is None else cut),
        tuple(tokens),
        (0.0,) * len(tokens) if sampling.temperature == 0 else tuple(logp),
        finish == "stop",
    )


def choice(options: Sequence[str], ids: Sequence[Sequence[int]], logp: Mapping[int, float]) -> Choice:
    """Probabilities of the options. Every token was asked for by its id, so none is missing from the reply."""
    probs = {o: sum(math.exp(logp[token]) for token in tokens) for o, tokens in zip(options, ids, strict=True)}
    return Choice(probs, max(0.0, 1.0 - sum(probs.values())))
