"""Weights under the names of checkpoints, in memory as on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpu.student.lora import Lora
from mmpu.student.saving import named_weights
from tiny import student


@pytest.mark.parametrize(("family", "lora"), [("qwen2", Lora(r=4, alpha=8)), ("gemma3", None), ("qwen2_5_vl", None)])
def test_weights_in_memory_are_those_of_the_file(family: str, lora: Lora | None, tmp_path: Path) -> None:
    model = student(family, lora)
    model.start_stage(reference=False)
    model.save_base(tmp_path / "whole")
    written, held = load_file(tmp_path / "whole/model.safetensors"), named_weights(model.base)
    assert held.keys() == written.keys(), "a tied head is left out of both"
    assert all(torch.equal(held[name], written[name]) for name in written)
    own = {p.data_ptr() for p in model.base.parameters()}
    assert all(tensor.data_ptr() in own for tensor in held.values()), "nothing is copied"
    model.save_frame(tmp_path / "frame")
    whole, frame = ({p.name for p in (tmp_path / name).iterdir()} for name in ("whole", "frame"))
    assert whole - frame == {"model.safetensors"}
    assert not frame - whole
