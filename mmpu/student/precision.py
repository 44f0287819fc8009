"""What a student's types cost on a GPU, said before training begins."""

from __future__ import annotations

import torch

from mmpu.student.student_config import StudentConfig


def remarks(config: StudentConfig, device: torch.device) -> list[str]:
    """One line for each choice of types that is rarely meant, with the numbers."""
    if device.type != "cuda" or config.computes_in != "float32":
        return []
    way_out = "dtype: bfloat16" if config.lora else "autocast: bfloat16"
    found = [
        "student: products are computed in float32, for which an H100 is specified with 67 TFLOP/s, and with 989 in "
        f"bfloat16; set `student.{way_out}`, which also halves what activations take"
    ]
    if torch.get_float32_matmul_precision() != "highest":
        found.append(
            "student: TF32 is on, so float32 products keep 10 bits of their factors: each is off by up to 5e-4 of its "
            "size, not 6e-8, and what mmpu states of float32 does not hold. Switch it off "
            "(torch.set_float32_matmul_precision('highest')), or compute in bfloat16"
        )
    return found
