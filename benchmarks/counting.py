"""Counts of work, taken at the model's own modules and operators: independent of the framework that calls them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.models import language_model, vision_tower


@dataclass
class Counts:
    """What passed through a model. Padding counts, since it is computed."""

    forward: int = 0
    """Decoder tokens without gradient, or forwarded again by gradient checkpointing."""
    trained: int = 0
    """Decoder tokens forwarded with gradient; each is also passed backwards."""
    passes: int = 0
    """Calls of the decoder."""
    head_rows: float = 0.0
    """Hidden states projected onto the vocabulary, recomputation in the backward pass included."""
    tower_images: int = 0
    tower_passes: int = 0
    preprocessed: int = 0
    """Images that went through the image processor."""

    @property
    def equivalents(self) -> int:
        """Forward-token equivalents: a backward pass counts as two forward passes."""
        return self.forward + 3 * self.trained


@contextlib.contextmanager
def counting(model: Any, image_processor: Any = None) -> Generator[Counts]:
    """Counts everything that is computed with `model` inside the block.

    Args:
        model: A transformers model, without adapters.
    """
    counts = Counts()
    decoder, tower = language_model(model), vision_tower(model)

    def decode(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        tokens = hidden.shape[0] * hidden.shape[1]
        counts.passes += 1
        recomputed = torch._C._current_graph_task_id() >= 0  # gradient checkpointing, in the backward pass
        if torch.is_grad_enabled() and not recomputed:
            counts.trained += tokens
        else:
            counts.forward += tokens

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        pixels = kwargs.get("pixel_values", args[0] if args else None)
        counts.tower_passes += 1
        counts.tower_images += len(pixels if grid is None else grid)

    hooks = [decoder.layers[0].register_forward_pre_hook(decode, with_kwargs=True)]
    if tower is not None:
        hooks.append(tower.register_forward_pre_hook(see, with_kwargs=True))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_Head(model.get_output_embeddings().weight, counts))
        for hook in hooks:
            stack.callback(hook.remove)
        if image_processor is not None:
            stack.enter_context(_preprocessing(image_processor, counts))
        yield counts


class _Head(TorchDispatchMode):
    """Sees every matrix product with the output head, whoever asks for it; a part of the vocabulary counts in part."""

    def __init__(self, weight: Tensor, counts: Counts) -> None:
        super().__init__()
        self.storage = weight.untyped_storage().data_ptr()
        self.vocabulary = weight.shape[0]
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
            left, right = cast(tuple[Tensor, Tensor], args[:2])
            # The projection reads the head transposed, (N, H) × (H, V); its backward, (N, V) × (V, H), as it lies.
            if right.untyped_storage().data_ptr() == self.storage and right.stride(0) == 1:
                self.counts.head_rows += left.shape[0] * right.shape[1] / self.vocabulary
        return out


@contextlib.contextmanager
def _preprocessing(image_processor: Any, counts: Counts) -> Generator[None]:
    original = image_processor.preprocess

    def preprocess(images: Any, *args: Any, **kwargs: Any) -> Any:
        counts.preprocessed += _images(images)
        return original(images, *args, **kwargs)

    image_processor.preprocess = preprocess
    try:
        yield
    finally:
        del image_processor.preprocess


def _images(images: Any) -> int:
    return sum(map(_images, images)) if isinstance(images, list | tuple) else 1
