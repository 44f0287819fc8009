"""What the generic student cannot know about an architecture, one small file each, named by transformers' `model_type`.

A text model needs no file here. A vision-language model says which placeholder its template writes for an image, how
many tokens the image becomes, and how positions run; everything else is generic (`mmpu/student/student.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor


class Family:
    """Text-only defaults, and the questions a family with images answers."""

    image_token: str | None = None
    """The token that stands for one feature of an image; None for text-only models."""
    never_sampled: tuple[str, ...] = ()
    """Tokens that only the prompt may hold: one inside a completion would be taken for an image afterwards."""

    @property
    def marker(self) -> str | None:
        """What the chat template writes once per image; mostly the image token itself."""
        return self.image_token

    def placed(self, count: int) -> str:
        """What takes the marker's place in the text, for an image of `count` features."""
        return (self.image_token or "") * count

    def features(self, processor: Any, picture: Image.Image) -> Mapping[str, Tensor]:
        """One image as inputs of the vision tower, stacked along dimension 0."""
        return dict(processor(images=[picture], return_tensors="pt"))

    def image_length(self, config: Any, features: Mapping[str, Tensor]) -> int:
        """How many placeholder tokens one image, processed to `features`, occupies in the sequence."""
        raise TypeError(f"{type(self).__name__} takes no images")

    def positions(self, model: Any, ids: Tensor, media: Mapping[str, Tensor]) -> Tensor:
        """Position ids of a prompt up to its last image, (R, length): R = 1 for plain positions, 3 under M-RoPE.

        Behind the last image, positions count up by one.
        """
        return torch.arange(ids.numel())[None]

    def blocks(self, config: Any, ids: Tensor) -> Tensor | None:
        """For tokens that see their whole block, not only what stands before them: a number per block, -1 elsewhere,
        (length,). None where all attention is causal."""
        return None
