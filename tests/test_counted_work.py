"""How much is computed for one step of LDL-GRPO and for images, counted at the modules; nothing is timed."""

from __future__ import annotations

from benchmarks import pipeline
from benchmarks.counting import Counts, counting
from benchmarks.problem import Setting
from mmpu.core import Part, Sample, Sampling, user
from mmpu.engines.hf import HF
from mmpu.packing import Tree
from tiny import picture, student


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
    assert found["generate"].forward == 512 + 8 * 255  # a last token is sampled, not read
    assert found["update"].trained == 512 + 8 * 256
    assert found["update"].head_rows == 8 * 256
    assert sum(counts.equivalents for counts in found.values()) <= 13_500
    assert found["score"].passes <= 2


def test_an_image_is_encoded_once_per_pass_and_prepared_once() -> None:
    for model in ("tiny-llava", "tiny-qwen2.5-vl"):
        found = step(Setting(model, 290, 8, k=4, groups=2))
        assert [counts.tower_images for counts in found.values()] == [2, 2, 2]
        assert found["update"].passes == found["update"].tower_passes == 1
        assert sum(counts.preprocessed for counts in found.values()) <= 2


def test_prompts_about_the_same_image_prepare_it_once() -> None:
    model = student("llava")
    samples = [
        Sample(name, user(Part("image", picture()), text)) for name, text in (("a", "red? yes no"), ("b", "0 1 2"))
    ]
    with counting(model.base, model.image_processor) as counts:
        trees = [Tree(model.encode(s), ((9, 10, 11), (12, 13))) for s in samples]
        model(model.pack(trees))
        HF(model).generate(samples, 3, Sampling(max_tokens=3))
    assert counts.preprocessed == 1
    assert counts.tower_passes == 2  # one in the update's pass, one in the prefill
