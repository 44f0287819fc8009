"""From prompts to what a model reads: template, image placeholders, positions; and from token ids back to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mmpu.core import Response, Sample, UserError
from mmpu.families import Family
from mmpu.media import images as media
from mmpu.student.packing import Encoded
from mmpu.student.student_config import StudentConfig
from mmpu.student.tokenizing import Tokens, lead
from mmpu.student.turns import Chat, Plain
from mmpu.student.vision import Features, stacked

KEPT = 20_000
"""Encoded prompts, answers and images held before the cache starts anew."""
BYTES = 2**31
"""What the images among them may take."""
APART = ("1", "x", ":", "\n", ".")
"""Texts behind which one is encoded that would merge with its prompt's end; the first with which it does not."""


class TooLong(UserError):
    """A prompt that does not fit the model's context."""


class Encoder:
    """Encodes prompts for one model; remembers what it encoded.

    Args:
        shape: The model's transformers configuration.
        model: The model; families ask it for positions.
    """

    def __init__(
        self, config: StudentConfig, shape: Any, model: Any, tokenizer: Any, image_processor: Any, family: Family
    ) -> None:
        self.config = config
        self.shape = shape
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family
        self.tokens = Tokens(tokenizer)
        self.limit: int | None = getattr(shape.get_text_config(), "max_position_embeddings", None)
        """Tokens of prompt and response together."""
        self._prompts: dict[object, Encoded] = {}
        self._images: dict[str, Features] = {}
        self._bytes = 0
        """Of what it remembers of images."""
        self._sizes: dict[tuple[int, int], int] = {}
        self._begun: dict[object, tuple[Tensor, Tensor | None]] = {}
        self._count = torch.arange(0)
        self._answers: dict[object, tuple[int, ...]] = {}
        self._pieces: dict[str, list[int]] = {}
        self._lead = lead(tokenizer) if config.template == "completion" else ()
        kind = Plain if config.template == "completion" else Chat
        self.turns = kind(config, tokenizer, family.marker, family.never_sampled, ends(model))
        """How prompts and answers stand in one text."""

    def __call__(self, sample: Sample) -> Encoded:
        """A prompt as ids, positions and image tensors, ready for a response to follow.

        Raises:
            TooLong: it leaves no room for a response in the model's context.
            UserError: an image for a text model, an unreadable one, or a template that does not fit.
        """
        if sample.prompt not in self._prompts:
            if len(self._prompts) >= KEPT or self._bytes >= BYTES:
                self._bytes = 0
                for cache in (self._prompts, self._images, self._begun):
                    cache.clear()
            self._prompts[sample.prompt] = self._encode(sample)
        return self._prompts[sample.prompt]

    def _encode(self, sample: Sample) -> Encoded:
        images = [self.image(image, sample.id) for image in sample.images]
        fingerprints = tuple(fingerprint for fingerprint, _ in images)
        features = tuple(features for _, features in images)
        counts = tuple(self.family.image_length(self.shape, f) for f in features)
        ids = self._ids(self._placed(self.render(sample), counts, sample.id))
        if not ids:
            raise UserError(f"sample {sample.id!r}: the prompt has no token")
        if self.limit and len(ids) >= self.limit:
            raise TooLong(
                f"sample {sample.id!r}: the prompt has {len(ids)} tokens, {self.config.model} reads {self.limit} at "
                "most; shorten it or leave it out"
            )
        end = 0
        if images:
            end = len(ids) - ids[::-1].index(self.tokenizer.convert_tokens_to_ids(self.family.image_token))
        positions, blocks = self._laid_out(ids, end, features, fingerprints)
        return Encoded(ids, positions, features, fingerprints, end, counts, blocks)

    def _ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a whole text, with what the tokenizer puts before one that no template begins."""
        return self._lead + self.tokens(text)

    def prompt_ids(self, sample: Sample) -> tuple[int, ...]:
        """The tokens of a prompt, whether it fits the model or not."""
        return self._ids(self._text(sample))

    def length(self, sample: Sample) -> int:
        """How many they are."""
        return len(self.prompt_ids(sample))

    def _text(self, sample: Sample) -> str:
        """The text of a prompt, with a placeholder for every feature of its images."""
        counts = tuple(self._image_length(image, sample.id) for image in sample.images)
        return self._placed(self.render(sample), counts, sample.id)

    def _image_length(self, image: str, sample_id: str) -> int:
        """Placeholders of an image, which depend on its size alone: one of each size is processed, of the others the
        header is read."""
        with media.named(Sample(sample_id, ())):
            size = media.image_size(image)
        if size not in self._sizes:
            self._sizes[size] = self.family.image_length(self.shape, self.image(image, sample_id)[1])
        return self._sizes[size]

    def _placed(self, text: str, counts: Sequence[int], sample_id: str) -> str:
        """The text with every image marker replaced by as many placeholders as its image has features."""
        marker = self.family.marker
        if marker is None:
            return text
        first, *pieces = text.split(marker)
        if len(pieces) != len(counts):
            raise UserError(
                f"sample {sample_id!r}: the chat template of {self.config.model} wrote {len(pieces)} image "
                f"placeholders for {len(counts)} images; its template does not fit the model"
            )
        return first + "".join(self.family.placed(n) + piece for n, piece in zip(counts, pieces, strict=True))

    def _laid_out(
        self, ids: tuple[int, ...], image_end: int, features: Sequence[Features], fingerprints: tuple[str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Positions (R, length) and blocks. Up to the last image they are the family's, and kept: a question about an
        image and the many prompts that grade its answers begin alike. Behind it positions count up by one."""
        key = (ids[:image_end], fingerprints)
        if key not in self._begun:
            begin = torch.tensor(ids[:image_end], dtype=torch.long)
            positions = self.family.positions(self.model, begin, stacked(features)).cpu()
            self._begun[key] = positions, self.family.blocks(self.shape, begin)
        positions, blocks = self._begun[key]
        at = int(positions.max()) + 1 if image_end else 0
        after = len(ids) - image_end
        if at + after > len(self._count):
            self._count = torch.arange(2 * (at + after))
        counting = self._count[at : at + after].expand(len(positions), -1)
        if blocks is not None:
            blocks = torch.cat([blocks, blocks.new_full((after,), -1)])
        return (torch.cat([positions, counting], 1) if image_end else counting), blocks

    def image(self, image: str, sample_id: str) -> tuple[str, Features]:
        """An image's fingerprint, and the vision tower's inputs; made once per distinct image."""
        if self.family.marker is None:
            raise UserError(
                f"sample {sample_id!r} has an image, and {self.config.model} reads text only; "
                "use a vision-language student, such as tiny-vl"
            )
        try:
            key = media.fingerprint(image)
            if key not in self._images:
                made = self.family.features(self.image_processor, media.load_image(image))
                self._images[key] = {name: self._held(value) for name, value in made.items()}
                self._bytes += sum(value.untyped_storage().nbytes() for value in self._images[key].values())
        except UserError as error:
            raise UserError(f"sample {sample_id!r}: {error}") from None
        return key, self._images[key]

    def _held(self, value: Tensor) -> Tensor:
        """In the type that the tower's first product takes."""
        half = self.config.computes_in == "bfloat16" and value.is_floating_point()
        return value.bfloat16() if half else value

    def render(self, sample: Sample) -> str:
        """The prompt as text, before images take their place."""
        return self.turns.prompt(sample)

    def response_ids(self, sample: Sample, response: Response, end: int) -> tuple[int, ...]:
        """The tokens of a response: as sampled or, for a text no student sampled, those that follow the prompt's where
        both are encoded as one text. `end` stands behind a finished one unless the template writes an end itself.

        The prompt's own tokens are what was sampled from and stay as they are. So where the first words would merge
        with the prompt's last token, as a line break does with another one, the answer is encoded apart, without what
        a tokenizer puts before a text.
        """
        if response.tokens is not None:
            return response.tokens
        key = (sample.prompt, response.raw, response.finished, end)
        if key not in self._answers:
            if len(self._answers) >= KEPT:
                self._answers.clear()
            said = self.turns.answer(sample, response.raw, response.finished)
            ids = self._behind(self._text(sample), said)
            ended = not response.finished or self.turns.end is not None
            self._answers[key] = ids if ended else (*ids, end)
        return self._answers[key]

    def _behind(self, prompt: str, text: str) -> tuple[int, ...]:
        for before in (prompt, *APART):
            begun, both = self._ids(before), self._ids(before + text)
            if both[: len(begun)] == begun:
                return both[len(begun) :]
        return self.tokens(text)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text that a prompt quotes."""
        return self.tokens.whole(self.turns.inert(text))

    def decode(self, ids: Sequence[int]) -> str:
        """What was said, without the tokens that only frame it."""
        frame = self.turns.frame
        return self.tokenizer.decode([token for token in ids if token not in frame], skip_special_tokens=False)

    @property
    def opening(self) -> str:
        """The mark with which the template begins every response's thinking, so that no response holds it; or
        nothing."""
        return self.turns.opened

    def option_ids(self, option: str) -> list[int]:
        """Every token whose stripped text is `option`."""
        if not self._pieces:
            for token, text in enumerate(self.tokenizer.batch_decode([[t] for t in range(len(self.tokenizer))])):
                self._pieces.setdefault(text.strip(), []).append(token)
        return self._pieces.get(option, [])


def ends(model: Any) -> frozenset[int]:
    """The ids that a model's generation config names as ends of a response.

    Raises:
        UserError: they are none.
    """
    ids: object = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = cast(list[object], ids) if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(each) is int for each in named):
        raise UserError(f"generation_config.json: eos_token_id={ids!r:.80} is neither a token's id nor a list of them")
    return frozenset(cast(list[int], named))
