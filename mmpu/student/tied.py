"""Embeddings tied to the head: the gradient of a few hundred looked-up rows is added to the head's row by row.

Autograd would spread it over a matrix as large as the vocabulary and add that to the head's gradient, which is one
already. As a sparse tensor it is added in place, wherever a dense gradient is there first, as the head's always is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import embedding


class _Tied(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.weight, self.padding_idx, sparse=True)


def install(model: Any) -> None:
    """Lets the input embeddings of a transformers model look up so, if they are the head's weights and do no more than
    look up."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    looks_up = type(inputs) is nn.Embedding and inputs.max_norm is None and not inputs.scale_grad_by_freq
    if looks_up and inputs.weight is outputs.weight:
        inputs.__class__ = _Tied


def densify(model: Any) -> None:
    """Makes a tied gradient dense where no head's was there first, as with a loss that reads no logits."""
    inputs = model.get_input_embeddings()
    if isinstance(inputs, _Tied) and inputs.weight.requires_grad:
        inputs.weight.register_post_accumulate_grad_hook(_dense)


def _dense(weight: Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
