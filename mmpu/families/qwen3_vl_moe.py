"""Qwen3-VL's mixtures of experts: as Qwen3-VL outside the model."""

from __future__ import annotations

from mmpu.families.qwen2_5_vl import Qwen25VL


class Qwen3VLMoe(Qwen25VL):
    pass
