"""A GGUF file as a model: transformers reads its weights, tokenizer and template, and de-quantises the weights.

What is trained are ordinary weights in the student's `dtype`: the file's quantisation only says from where they start.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from mmpu.core import UserError

SUFFIX = ".gguf"


def place(path: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for a model's path: the path itself, or a file's folder and its name.

    Raises:
        UserError: the package that reads such files is missing.
    """
    file = Path(path)
    if file.suffix != SUFFIX or not file.is_file():
        return path, {}
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{path} is a GGUF file, which the package `gguf` reads: pip install 'mmpu[gguf]'")
    return str(file.parent), {"gguf_file": file.name}


def plain(model: Any, path: str) -> Any:
    """The model without a trace of its file's quantisation, which has no part in training or saving; says so."""
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{path}: {size / 1e6:.0f} million weights, de-quantised by transformers to {model.dtype}; saved as such",
        file=sys.stderr,
    )
    return model
