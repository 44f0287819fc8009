"""The last layer works for the tokens whose hidden states are read, and for no others.

Past the last layer's keys and values nothing of a token reaches another one. There a trunk's hidden states would be
computed to be dropped, all but the one that predicts its branches' first tokens. So queries, output projection and MLP,
which take each token by itself, are given the tokens that are read; elsewhere their output is zero. What is read is
exact, gradients included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KEYWORD = "read"
"""Hands the flat places (S·L) that are read, each once, through a model to its layers."""
WORTH = 0.9
"""Where more than this share of the places is read, gathering them costs more than it saves."""


def install(model: Any) -> None:
    """Lets the language model's last layer heed `KEYWORD`, once; models of another build stay as they are."""
    backbone = getattr(model, model.base_model_prefix)
    layers = getattr(getattr(backbone, "language_model", backbone), "layers", None)
    if not isinstance(layers, nn.ModuleList) or hasattr(layers[-1], "_reads"):
        return
    last: Any = layers[-1]
    attention = getattr(last, "self_attn", None)
    parts = [getattr(attention, "q_proj", None), getattr(attention, "o_proj", None), getattr(last, "mlp", None)]
    # A mixture of experts may return more than the tokens' states.
    if not all(isinstance(part, nn.Module) for part in parts) or not hasattr(last.mlp, "down_proj"):
        return
    last._reads = reads = _Reads()
    last.register_forward_pre_hook(reads.begin, with_kwargs=True)
    for part in parts:
        assert isinstance(part, nn.Module)
        part.register_forward_pre_hook(reads.gather)
        part.register_forward_hook(reads.scatter)


class _Reads:
    """What the present pass reads: set when the layer begins, also when checkpointing computes it a second time."""

    def __init__(self) -> None:
        self.places: Tensor | None = None
        self.shape = torch.Size()

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.places = kwargs.get(KEYWORD)
        self.shape = (args[0] if args else kwargs["hidden_states"]).shape[:2]

    def gather(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """(S, L, H) → (1, places, H)."""
        return None if self.places is None else (args[0].flatten(0, 1).index_select(0, self.places)[None],)

    def scatter(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """(1, places, H) → (S, L, H)."""
        if self.places is None:
            return None
        rows = output.new_zeros(self.shape.numel(), output.shape[-1])
        return rows.index_copy(0, self.places, output[0]).unflatten(0, self.shape)
