"""Qwen3-VL: as Qwen2.5-VL outside the model; interleaved M-RoPE and deep-stacked features are transformers' affair."""

from __future__ import annotations

from mmpu.families.qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    pass
