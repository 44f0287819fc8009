"""The images of a batch: each distinct one goes through the vision tower once, however many prompts show it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Features = Mapping[str, Tensor]
"""Inputs of the vision tower by name; several images lie behind each other along dimension 0."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a batch in reading order."""

    distinct: tuple[Features, ...] = ()
    order: tuple[int, ...] = ()
    """Which of `distinct` comes at each place."""

    @property
    def repeated(self) -> bool:
        """True if an image comes at several places."""
        return len(self.order) > len(self.distinct)

    @staticmethod
    def of(shown: Iterable[tuple[str, Features]]) -> Images:
        """From (fingerprint, features) of the image at each place."""
        number: dict[str, int] = {}
        distinct: list[Features] = []
        order: list[int] = []
        for fingerprint, features in shown:
            if fingerprint not in number:
                number[fingerprint] = len(distinct)
                distinct.append(features)
            order.append(number[fingerprint])
        return Images(tuple(distinct), tuple(order))

    def inputs(self, backbone: Any, cast: Callable[[Features], dict[str, Tensor]]) -> dict[str, Any]:
        """What the backbone is given: the images or, where one is repeated, what its tower makes of the distinct ones.

        Args:
            backbone: Of a vision-language model. One that takes no finished features is given images repeatedly.
            cast: Moves features to the model's device and dtype.
        """
        if not self.repeated:
            return dict(cast(stacked(self.distinct)))
        if "mm_encoder_outputs" not in inspect.signature(backbone.forward).parameters:
            return dict(cast(stacked([self.distinct[i] for i in self.order])))
        seen = backbone.get_image_features(**cast(stacked(self.distinct)), return_dict=True)
        seen.pooler_output = self._placed(seen.pooler_output)
        if getattr(seen, "deepstack_features", None) is not None:
            seen.deepstack_features = [self._placed(level) for level in seen.deepstack_features]
        return {"mm_encoder_outputs": {"image": seen}}

    def _placed(self, per_image: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(per_image, Tensor):
            return per_image[torch.tensor(self.order, device=per_image.device)]
        return [per_image[i] for i in self.order]


def stacked(features: Sequence[Features]) -> Features:
    """Features of several images, concatenated."""
    names = sorted({name for f in features for name in f})
    return {name: torch.cat([f[name] for f in features if name in f]) for name in names}
