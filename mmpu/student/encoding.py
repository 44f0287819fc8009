"""From prompts to what a model reads: template, image placeholders, positions; and from token ids back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from mmpu.core import Message, Response, Sample, UserError, user
from mmpu.families import Family
from mmpu.media import images as media
from mmpu.student.packing import Encoded
from mmpu.student.parts import StudentConfig
from mmpu.student.tokenizing import Tokens
from mmpu.student.vision import Features, stacked
from mmpu.thinking import opening

KEPT = 20_000
"""Encoded prompts and images held before the cache starts anew."""
TEMPLATE_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Thinking is off, and LLaMA's templates write their documented date instead of today's, which would change every
prompt overnight."""


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
        self._begun: dict[object, tuple[Tensor, Tensor | None]] = {}
        self._count = torch.arange(0)
        self._pieces: dict[str, list[int]] = {}
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._special = tuple(t.content for t in added.values() if t.special and len(t.content) > 1)
        self._starts = frozenset(content[:2] for content in self._special)

    def __call__(self, sample: Sample) -> Encoded:
        """A prompt as ids, positions and image tensors, ready for a response to follow.

        Raises:
            TooLong: it leaves no room for a response in the model's context.
            UserError: an image for a text model, an unreadable one, or a template that does not fit.
        """
        if sample.prompt not in self._prompts:
            if len(self._prompts) >= KEPT:
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
        if self.config.template == "completion":
            return tuple(cast(list[int], self.tokenizer(text)["input_ids"]))
        return self.tokens(text)

    def length(self, sample: Sample) -> int:
        """Tokens of a prompt, whether it fits the model or not."""
        counts = tuple(self.family.image_length(self.shape, self.image(i, sample.id)[1]) for i in sample.images)
        return len(self._ids(self._placed(self.render(sample), counts, sample.id)))

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
                self._images[key] = self.family.features(self.image_processor, media.load_image(image))
        except UserError as error:
            raise UserError(f"sample {sample_id!r}: {error}") from None
        return key, self._images[key]

    def render(self, sample: Sample) -> str:
        """The prompt as text, before images take their place."""
        if self.config.template == "completion":
            return "\n".join(message.text for message in sample.prompt)
        options = TEMPLATE_OPTIONS | (self.config.template_options or {})
        messages = [self._message(message) for message in sample.prompt]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    def _message(self, message: Message) -> dict[str, object]:
        parts = [
            {"type": "image"} if p.kind == "image" else {"type": "text", "text": self._defuse(p.data)}
            for p in message.parts
        ]
        if self.family.marker is None:
            return {"role": message.role, "content": "\n".join(str(p["text"]) for p in parts if "text" in p)}
        return {"role": message.role, "content": parts}

    def _defuse(self, text: str) -> str:
        """Breaks up special tokens that a text merely quotes: they would otherwise forge turns or images."""
        if not any(start in text for start in self._starts):
            return text
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def response_ids(self, response: Response, end: int) -> tuple[int, ...]:
        """The tokens of a response: as sampled, or, for a text no student sampled, its encoding and `end`."""
        if response.tokens is not None:
            return response.tokens
        ids = self.text_ids(response.raw.removeprefix(self.opening) if self.opening else response.raw)
        return (*ids, end) if response.finished else ids

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text that no student sampled."""
        return tuple(cast(list[int], self.tokenizer(self._defuse(text), add_special_tokens=False)["input_ids"]))

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @cached_property
    def opening(self) -> str:
        """The mark with which the template begins every response's thinking, so that no response holds it; or
        nothing."""
        return opening(self.render(Sample("", user("?"))))

    def option_ids(self, option: str) -> list[int]:
        """Every token whose stripped text is `option`."""
        if not self._pieces:
            for token in range(len(self.tokenizer)):
                self._pieces.setdefault(self.tokenizer.decode([token]).strip(), []).append(token)
        return self._pieces.get(option, [])
