"""Qwen2.5-VL: dynamic resolution, M-RoPE positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmpu.families import Family


class Qwen25VL(Family):
    image_token = "<|image_pad|>"
    never_sampled = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")

    def features(self, processor: Any, picture: Image.Image) -> Mapping[str, Tensor]:
        fetch = _fetch_image()
        if fetch is not None:
            bounds = {"min_pixels": processor.size["shortest_edge"], "max_pixels": processor.size["longest_edge"]}
            # It scales a long and narrow picture down to no width at all, where the processor keeps one patch.
            with suppress(ValueError):
                picture = fetch({"image": picture, **bounds}, image_patch_size=processor.patch_size)
        return super().features(processor, picture)

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


@cache
def _fetch_image() -> Callable[..., Image.Image] | None:
    """Qwen's own resizing, where its package and torchvision are installed; the image processor's agrees with it."""
    try:
        from qwen_vl_utils import fetch_image  # pyright: ignore
    except ImportError:
        return None
    return fetch_image  # pyright: ignore
