"""Qwen2.5-VL: dynamic resolution, M-RoPE positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpu.students import Family


class Qwen25VL(Family):
    image_token = "<|image_pad|>"
    never_sampled = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")

    def image_length(self, config: Any, features: Mapping[str, Tensor]) -> int:
        merge = config.vision_config.spatial_merge_size**2
        return int(features["image_grid_thw"].prod()) // merge

    def positions(self, model: Any, ids: Tensor, media: Mapping[str, Tensor]) -> Tensor:
        if "image_grid_thw" not in media:
            return torch.arange(ids.numel()).expand(3, -1)
        kind = (ids == model.config.image_token_id).int()
        positions, _ = model.model.get_rope_index(
            ids[None], mm_token_type_ids=kind[None], image_grid_thw=media["image_grid_thw"]
        )
        return positions[:, 0]
