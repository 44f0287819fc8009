"""peft's adapters on a model of transformers, for the releases of both that mmpu admits."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig


def adapted(model: Any, config: LoraConfig) -> Any:
    """The model with a fresh adapter, which is trainable while the rest is frozen."""
    from peft import get_peft_model

    with _without_checkpointing_warning():
        return get_peft_model(model, config)


def merged(model: Any, folder: Path) -> Any:
    """The model with a saved adapter added to its weights."""
    from peft import PeftModel

    with _without_checkpointing_warning():
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


@contextlib.contextmanager
def _without_checkpointing_warning() -> Generator[None]:
    """peft 0.21 asks every model `is_gradient_checkpointing`, a name that transformers 5.23 deprecates and still
    answers. What one library says of the other is nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
