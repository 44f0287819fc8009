"""Qwen2-VL: as Qwen2.5-VL outside the model, whose tower has no windows."""

from __future__ import annotations

from mmpu.families.qwen2_5_vl import Qwen25VL


class Qwen2VL(Qwen25VL):
    pass
