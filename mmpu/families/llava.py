"""LLaVA-1.5: a fixed number of CLIP patches per image, plain positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmpu.families import Family


class Llava(Family):
    image_token = "<image>"
    never_sampled = ("<image>",)

    def image_length(self, config: Any, features: Mapping[str, Tensor]) -> int:
        patch = config.vision_config.patch_size
        height, width = features["pixel_values"].shape[-2:]
        patches = (height // patch) * (width // patch)
        # "full" keeps the class token that "default" drops.
        return patches + (config.vision_feature_select_strategy == "full")
