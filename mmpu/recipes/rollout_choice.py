"""What may sample a run's candidates: what vLLM cannot, and `rollout: auto`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from mmpu.learning import Method
from mmpu.student import StudentConfig

AUTO = "auto"


def hindrance(engine: str, student: StudentConfig, methods: Sequence[Method]) -> str | None:
    """Why an engine with a copy of the student's weights cannot sample for these methods; None if it can."""
    lora = student.lora
    if lora is not None and engine.startswith("vllm"):
        given = (("init", lora.init != "default"), ("dora", lora.dora), ("modules_to_save", bool(lora.modules_to_save)))
        for name, there in given:
            if there:
                return f"vLLM takes plain LoRA adapters; leave student.lora.{name} out, or use hf"
    if any(method.offline or "teacher_responses" in method.needs for method in methods):
        return f"a method here samples from a second set of weights, which {engine} does not hold; use hf"
    return None


def automatic(student: StudentConfig, methods: Sequence[Method]) -> str:
    """The engine of `rollout: auto`: `vllm` where it is installed, beside a GPU and a run of one process that it can
    sample for, else `hf`."""
    elsewhere = student.device == "cpu" or student.device_map or student.quantize
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if find_spec("vllm") is None or elsewhere or several or hindrance("vllm", student, methods):
        return "hf"
    import torch

    return "vllm" if torch.cuda.is_available() else "hf"
