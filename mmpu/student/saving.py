"""A student's weights as others know them: without its adapter, under the names that checkpoints give them.

`base` is a student's model of transformers, `name` what its config calls it, `beside` tokenizer and processors.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpu.core import UserError
from mmpu.student import companions
from mmpu.student.parts import resolve_model


def save_base(base: Any, name: str, folder: Path, *beside: Any) -> None:
    """Writes the model without its adapter, with all that lay beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    with _generating_plainly(base):
        base.save_pretrained(str(folder), state_dict=_published(base, _without_adapter(base)))
    _save_companions(base, name, folder, *beside)


def save_frame(base: Any, name: str, folder: Path, *beside: Any) -> None:
    """Writes all of that but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = copy.deepcopy(base.config)
    shape.architectures = [type(base).__name__]
    shape.save_pretrained(str(folder))
    _save_companions(base, name, folder, *beside)


def _published(base: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of published folders: transformers 5 calls what is in LLaVA's CLIP tower otherwise and
    reads both names, vLLM reads the published one alone."""
    if base.config.model_type != "llava":
        return weights
    return {_CLIP.sub("vision_tower.vision_model.", name): tensor for name, tensor in weights.items()}


_CLIP = re.compile(r"\bvision_tower\.(?=(embeddings|pre_layrnorm|encoder|post_layernorm)\.)")


def named_weights(base: Any) -> dict[str, Tensor]:
    """The weights that `save_base` would write, where they lie; but for stacks of experts, which are taken apart,
    nothing is copied. A head that is tied to the embeddings is left out."""
    from transformers.core_model_loading import revert_weight_conversion

    held: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in _without_adapter(base).items():
        if tensor.data_ptr() not in held or not tensor.numel():
            held.add(tensor.data_ptr())
            own[name] = tensor.detach()
    return revert_weight_conversion(base, own)


def _without_adapter(base: Any) -> dict[str, Tensor]:
    return {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }


def _save_companions(base: Any, name: str, folder: Path, *beside: Any) -> None:
    source = None
    with contextlib.suppress(UserError):
        source, _ = resolve_model(name)
    if source is not None and companions.copied(source, folder):
        return
    for each in (base.generation_config, *beside):
        if each is not None:
            each.save_pretrained(str(folder))


@contextlib.contextmanager
def _generating_plainly(base: Any) -> Generator[None]:
    """Published generation configs may hold what transformers refuses to write; they are copied as they came."""
    held = base.generation_config
    base.generation_config = type(held)()
    try:
        yield
    finally:
        base.generation_config = held
