"""The one command for a GPU: no section costs another one, whatever becomes of it."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu, models
from benchmarks.gpu_sections import SECTIONS, adapter_flops, tried


def test_what_a_case_raises_is_what_was_found() -> None:
    def fails() -> tuple[bool, dict[str, object]]:
        raise RuntimeError("an illegal memory access\nand more")

    line = tried("right", "x", fails)
    assert line.cells == ["right", "x", "NO", "raised RuntimeError: an illegal memory access"]

    def fills() -> tuple[bool, dict[str, object]]:
        raise torch.OutOfMemoryError("tried to allocate")

    assert tried("update", "x", fills).right is None, "too little memory is no wrong result"
    assert tried("update", "x", lambda: (None, {"s": 0.123456, "tokens": 12000})).said == "s 0.123, tokens 12,000"


def test_a_section_that_dies_is_one_line_with_its_last_words() -> None:
    (line,) = gpu._run("nothing", tiny=True, seconds=60)
    assert line.right is False
    assert line.found["ended with"] == 2
    assert "invalid choice: 'nothing'" in line.found["said"]


def test_a_section_without_time_is_left_out() -> None:
    assert [line.said for line in gpu._run("right", tiny=True, seconds=1)] == ["left out no time"]


def test_ten_minutes_are_enough_for_all_but_the_last() -> None:
    assert sum(section.seconds for section in list(SECTIONS.values())[:-1]) <= 480


def test_without_gradients_of_weights_a_product_is_taken_twice() -> None:
    shape = models.SHAPES["qwen2.5-1.5b"]
    whole, adapters = models.minimum_flops(shape, 512, [512] * 8, 0), adapter_flops(shape, 512, [512] * 8, seen=False)
    assert 2 / 3 < adapters / whole < 0.75, "attention is as dear as before"
    assert adapters == pytest.approx(whole * 0.675, rel=0.02)
