"""Dropout is off. A dropped unit would make the log-probabilities of an update differ from the sampler's and from those
of a group's first pass, and let gradients depend on how rows are laid out in passes.

Models drop in three ways: by a module, by a function that reads a number of the module's, and by a number of the
configuration's. The noise that some mixtures of experts put on their router's input while training goes with them.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_NAME = re.compile("drop|jitter_noise")
"""Of numbers that are chances of dropping, in configurations and modules: `attn_pdrop`, `residual_dropout`, …"""
MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def without_dropout(shape: Any) -> None:
    """Sets every chance of dropping in a transformers configuration, and those it holds, to 0."""
    for name, value in list(vars(shape).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            without_dropout(value)
        elif _drops(name, value):
            setattr(shape, name, 0.0)


def switch_off(model: nn.Module) -> None:
    """Sets every chance of dropping in a model to 0, adapters' too."""
    for module in model.modules():
        if isinstance(module, MODULES):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _drops(name, value):
                setattr(module, name, 0.0)


def _drops(name: str, value: object) -> bool:
    return isinstance(value, float) and value > 0 and _NAME.search(name) is not None
