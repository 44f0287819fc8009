"""What is held is bounded, what is needed is said before it is, and nothing is done per token that need not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from mmpu.core import Response, Sampling
from mmpu.engines.hf import HF, STEPS, Uniform, _stream
from mmpu.learning import Row
from mmpu.methods.sft import SFT
from mmpu.student import encoding
from mmpu.student.footprint import Footprint, free_memory, shortage
from mmpu.student.head import Ask
from mmpu.student.logprobs import SPARE
from mmpu.student.lora import Lora
from mmpu.student.packing import Encoded, Tree
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from tiny import picture, sample, samples, student


def measured(model: Any, tokens: int) -> int:
    """Bytes that a pass keeps of so many tokens, each storage once, weights apart."""
    ids = tuple(5 + i % 300 for i in range(tokens // 4))
    tree = Tree(Encoded(ids[:8], torch.arange(8)[None]), (ids,) * 4)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        found.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(model.pack([tree]), Ask(room=SPARE))
    return sum(x.untyped_storage().nbytes() for place, x in found.items() if place not in weights)


@pytest.mark.parametrize(
    ("family", "lora", "options"),
    [
        ("qwen2", None, {}),
        ("qwen3", None, {}),
        ("llama", Lora(r=4, alpha=8), {}),
        ("qwen2", Lora(r=4, alpha=8), {"dtype": "bfloat16"}),
        ("qwen2", None, {"autocast": "bfloat16"}),
    ],
    ids=str,
)
def test_what_a_pass_keeps_is_known_from_shapes(family: str, lora: Lora | None, options: dict[str, Any]) -> None:
    """Within a fifth, of what a longer pass keeps more than a shorter one."""
    model = student(family, lora, **options)
    if "dtype" in options:
        model.model.bfloat16()
    model.start_stage(reference=False)
    each = (measured(model, 1600) - measured(model, 800)) / 800
    expected = Footprint.of(model)
    assert expected is not None
    assert expected.token == pytest.approx(each, rel=0.2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert expected.optimizer == 12 * trained, "a gradient and two moments in float32"


def test_too_little_memory_is_said_with_what_helps() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    found = Footprint.of(model)
    assert found is not None
    assert shortage(model, 1000, found.stage(1000)) is None
    said = shortage(model, 1000, found.stage(600))
    assert said is not None
    assert "optim.tokens_per_pass=600, student.gradient_checkpointing=true, student.autocast=bfloat16" in said
    assert "tokens_per_pass" not in str(shortage(model, 1000, found.optimizer))
    assert 0 < free_memory(torch.device("cpu")) < 2**50
    assert found.rows(2 * 10 * (found.cached_token * 100 + 16 * 400), 100, 400) == 10


def test_random_numbers_drawn_in_blocks_are_those_drawn_one_by_one() -> None:
    one, many = ([_stream(7, "x", k) for k in range(3)] for _ in range(2))
    drawn = Uniform(many, torch.device("cpu"))
    rows: Sequence[int] = [0, 1, 2]
    for step in range(STEPS + 3):
        if step == STEPS - 1:
            rows = [0, 2]
        assert drawn(rows).tolist() == [one[row].random() for row in rows]
    assert isinstance(one[0], np.random.Generator)


def test_a_stop_string_is_looked_for_in_the_last_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded is linear in what is sampled."""
    model = student("qwen2")
    asked: list[int] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda ids: (asked.append(len(ids)), decode(ids))[1])
    ((response,),) = HF(model).generate([sample("x")], 1, Sampling(max_tokens=120, seed=2, stop=("\u2603",)))  # pyright: ignore
    assert len(response.tokens or ()) > 60
    assert max(asked[:-1]) <= 4 + 16


def test_images_are_held_within_bounds_in_the_type_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student("qwen2_5_vl", autocast="bfloat16")
    whole = student("qwen2_5_vl")
    shown = samples("qwen2_5_vl")[0]
    for each, kind in ((model, torch.bfloat16), (whole, torch.float32)):
        assert each.encode(shown).media["pixel_values"].dtype == kind
        assert each.encode(shown).media["image_grid_thw"].dtype == torch.int64
    held = model.encoder._bytes
    assert held == sum(x.untyped_storage().nbytes() for f in model.encoder._images.values() for x in f.values())
    monkeypatch.setattr(encoding, "BYTES", 2 * held)
    for colour in ("green", "blue", "black", "white", "pink", "brown", "grey", "cyan"):
        model.encode(sample(colour, "What?", picture(84, 56, colour)))
        assert model.encoder._bytes <= 2 * held
    assert len(model.encoder._images) <= 2


def test_the_largest_pass_comes_first() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    groups = [
        [Row(s, Response("", tuple(range(9, 12 + n)), (0.0,) * (3 + n)), 1.0, n)]
        for n, s in enumerate(samples("qwen2"))
    ]
    update = Updater(model, model, None, SFT(), Optim(tokens_per_pass=1), Accelerator(cpu=True))
    ((pieces, _, _),) = update.prepare(groups).parts
    sizes = [piece.tree.tokens for chunk in update._plan(pieces) for piece in chunk]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
