"""How much is computed for one step of LDL-GRPO and for images, counted at the modules; nothing is timed."""

from __future__ import annotations

import pytest
import torch

from benchmarks import pipeline
from benchmarks.counting import Counts, counting
from benchmarks.problem import Setting
from mmpu.core import Part, Sample, Sampling, user
from mmpu.engines.hf import HF
from mmpu.student.packing import Tree
from tiny import IMAGE_FAMILIES, picture, student


def step(setting: Setting) -> dict[str, Counts]:
    pipe = pipeline.make("ours", setting)
    found: dict[str, Counts] = {}
    for part in ("generate", "score", "update"):
        with counting(pipe.model, pipe.work.encoder.image_processor) as counts:
            getattr(pipe, part)()
        found[part] = counts
    return found


def test_forward_token_equivalents_of_a_step() -> None:
    # P = 512, A = C = 256, K = 8, 32 tokens of a judge's template; without sharing it would be 34,080
    found = step(Setting("tiny-qwen2", 512, 256, k=8, ragged=False))
    # a last token is sampled, and predicted, but never read
    assert found["generate"].forward == found["update"].trained == 512 + 8 * 255
    assert found["update"].head_rows == 8 * 256  # few enough to be kept for the backward pass
    assert sum(counts.equivalents for counts in found.values()) <= 13_500
    assert found["score"].passes <= 2


def test_an_image_is_encoded_once_per_pass_and_prepared_once() -> None:
    for model in ("tiny-llava", "tiny-qwen2.5-vl"):
        found = step(Setting(model, 290, 8, k=4, groups=2))
        assert [counts.tower_images for counts in found.values()] == [2, 2, 2]
        assert found["update"].passes == found["update"].tower_passes == 1
        assert sum(counts.preprocessed for counts in found.values()) <= 2


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_an_image_of_several_prompts_is_prepared_and_encoded_once(family: str) -> None:
    model = student(family)
    one, other = picture(), picture(56, 112, "blue")
    shown = ((one, "red? yes no"), (other, "0 1 2"), (one, "3 4 5"))
    samples = [Sample(str(n), user(Part("image", image), text)) for n, (image, text) in enumerate(shown)]
    with counting(model.base, model.image_processor) as counts:
        trees = [Tree(model.encode(s), ((9, 10, 11), (12, 13))) for s in samples]
        together = model(model.pack(trees))
        HF(model).generate(samples, 3, Sampling(max_tokens=3))
    assert counts.preprocessed == 2
    assert counts.tower_images == 4  # two distinct ones in the update's pass, two in the prefill

    tower = [p for name, p in model.base.named_parameters() if "visual" in name or "vision_tower" in name]
    found = torch.autograd.grad(together.sum(), tower, allow_unused=True, materialize_grads=True)
    alone = torch.cat([model(model.pack([tree])) for tree in trees])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    expected = torch.autograd.grad(alone.sum(), tower, allow_unused=True, materialize_grads=True)
    assert max(float(g.abs().max()) for g in expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
