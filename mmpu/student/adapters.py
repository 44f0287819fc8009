"""peft's adapters on a model of transformers, for the releases of both that mmpu admits."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmpu.core import UserError
from mmpu.student.targets import Targets

if TYPE_CHECKING:
    from mmpu.student.lora import Lora


def adapted(model: Any, lora: Lora, targets: Targets, seed: int) -> Any:
    """The model with a fresh adapter, which is trainable while the rest is frozen.

    Args:
        seed: What is random about the adapter depends on this alone.

    Raises:
        UserError: stacked experts cannot be adapted in this way.
    """
    from peft import LoraConfig, get_peft_model

    given = [name for name in ("dora", "init") if getattr(lora, name) not in (False, "default")]
    if targets.parameters and given:
        raise UserError(
            f"student.lora.{given[0]}: peft adapts stacked experts ({targets.parameters[0]}) by plain LoRA only; leave "
            "it out, or name `targets` without them"
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        modules_to_save=list(targets.saved) or None,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        init_lora_weights=True if lora.init == "default" else lora.init,
    )
    device = next(model.parameters()).device
    with _without_warnings(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        made: Any = get_peft_model(model, config)
    for module in made.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = _Apart(device.type)
    return made


class _Apart:
    """True outside autocast. Inside, products cast their factors themselves, and peft, asked for it, would hold every
    adapted layer's input in the adapter's type first."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __bool__(self) -> bool:
        return not torch.is_autocast_enabled(self.device)


def merged(model: Any, folder: Path) -> Any:
    """The model with a saved adapter added to its weights."""
    from peft import PeftModel

    with _without_warnings():
        return unloaded(PeftModel.from_pretrained(model, str(folder)))


def unloaded(model: Any) -> Any:
    """The model below an adapter, with the adapter added to its weights."""
    base = model.merge_and_unload()
    if hasattr(base, "peft_config"):  # peft 0.18 leaves it there, and it is what tells a model with an adapter
        del base.peft_config
    return base


def save(model: Any, folder: Path) -> None:
    """Writes the adapter alone. Embeddings are never adapted; left to find that out, peft asks the hub for the base."""
    model.save_pretrained(str(folder), save_embedding_layers=False)


def save_from(model: Any, start: Mapping[str, Tensor], folder: Path) -> None:
    """Writes an adapter whose first values were taken off the base, as a plain one of twice the rank on the base as it
    came: B·A − B₀·A₀ is one product of stacked matrices.

    Args:
        start: The adapter's first values, by the names that the model has for them.
    """
    from peft import get_peft_model_state_dict

    config = copy.deepcopy(model.peft_config["default"])
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    config.r, config.lora_alpha, config.use_rslora = 2 * config.r, scaling * 2 * config.r, False
    config.init_lora_weights, config.inference_mode = True, True
    names = {name.replace(".default", ""): value for name, value in start.items()}
    state: dict[str, Tensor] = {}
    for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        if ".lora_A." in name:
            value = torch.cat([value, names[name].to(value)])
        elif ".lora_B." in name:
            value = torch.cat([value, -names[name].to(value)], dim=1)
        state[name] = value.detach().contiguous().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


@contextlib.contextmanager
def _without_warnings() -> Generator[None]:
    """peft 0.21 asks every model `is_gradient_checkpointing`, a name that transformers 5.23 deprecates and still
    answers, and notes that it turns GPT-2's matrices. What one library says of the other is nothing that a user could
    act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        warnings.filterwarnings("ignore", ".*target_parameters", UserWarning)
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
