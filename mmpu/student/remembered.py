"""Which self-checks were passed: a small file in the user's cache. Unreadable, it is as if there were none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

import torch

import mmpu
from mmpu import files
from mmpu.student.student_config import StudentConfig


def place() -> Path:
    return files.cache() / "checked.json"


def key(config: StudentConfig, shape: Any, device: torch.device) -> str:
    """Of all that decides whether a model is computed right, but for its weights.

    Args:
        shape: The model's transformers configuration.
    """
    import transformers

    architecture = {k: v for k, v in shape.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    versions = (mmpu.__version__, _sources(), torch.__version__, transformers.__version__)
    computed = (config.dtype, config.autocast, config.attention, config.quantize, config.gradient_checkpointing)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about = json.dumps([architecture, versions, computed, kind], sort_keys=True, default=str)
    return hashlib.sha256(about.encode()).hexdigest()


def _sources() -> str:
    """Of the files that compute, which change more often than the version does."""
    found = hashlib.sha256()
    for wing in ("student", "families"):
        for path in sorted((Path(mmpu.__file__).parent / wing).glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def recall(key: str) -> dict[str, Any] | None:
    """What was remembered, if anything was."""
    found = _all().get(key)
    return cast(dict[str, Any], found) if isinstance(found, dict) else None


def remember(key: str, outcome: dict[str, Any]) -> None:
    path = place()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_all(), key: outcome}, indent=1))
        temporary.replace(path)


def _all() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(place().read_text())
        if isinstance(found, dict):
            return cast(dict[str, Any], found)
    return {}
