"""Gemma 3: a fixed number of features per image, whose tokens see each other in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpu.families import Family


class Gemma3(Family):
    image_token = "<image_soft_token>"
    never_sampled = ("<image_soft_token>", "<start_of_image>", "<end_of_image>")

    @property
    def marker(self) -> str:
        return "<start_of_image>"

    def placed(self, count: int) -> str:
        return f"\n\n<start_of_image>{'<image_soft_token>' * count}<end_of_image>\n\n"

    def features(self, processor: Any, picture: Any) -> Mapping[str, Tensor]:
        # `num_crops` tells processors about pan and scan, which is off; the model knows no such input.
        return {"pixel_values": processor(images=[picture], return_tensors="pt")["pixel_values"]}

    def image_length(self, config: Any, features: Mapping[str, Tensor]) -> int:
        return int(config.mm_tokens_per_image)

    def blocks(self, config: Any, ids: Tensor) -> Tensor | None:
        image = ids == config.image_token_id
        if not image.any():
            return None
        starts = image & ~torch.cat([image.new_zeros(1), image[:-1]])
        return torch.where(image, starts.cumsum(0) - 1, -1)
