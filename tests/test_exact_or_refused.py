"""Architectures as they come: what they compute here is what transformers computes, or they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mmpu.core import Sample, Sampling, UserError, user
from mmpu.engines.hf import HF
from mmpu.recipes.miniatures import enlarge, miniature, write
from mmpu.student import (
    Lora,
    StudentConfig,
    checked,
    form,
    load_parts,
    load_student,
    loading,
    remembered,
    transformers_says,
)
from mmpu.student.soundness import fitting
from tiny import image_model, save, student

pytestmark = pytest.mark.numerical

KINDS: dict[str, tuple[bool, bool, bool]] = {
    "granite": (True, True, True),  # scales its logits
    "cohere": (True, True, True),
    "minicpm3": (True, False, True),  # scales hidden states; keys and values of different sizes
    "gemma2": (True, True, True),  # caps logits and attention
    "gpt2": (True, True, True),  # learned positions
    "nemotron": (False, False, True),  # its layers drop what they do not know
    "mpt": (False, True, True),  # biases by distance
    "gpt_oss": (True, True, True),  # sinks, windows, experts
    "qwen3_next": (False, True, False),  # a recurrent state
}
"""Whether branches share a trunk, whether prompts are held once (where anything is shared), whether it is sampled."""
EAGER = ("gemma2", "mpt", "gpt_oss")


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_says_what_transformers_says(kind: str, tmp_path: Path) -> None:
    theirs, tokenizer = miniature(kind, AutoModelForCausalLM, 256)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    attention = "eager" if kind in EAGER else "sdpa"
    config = StudentConfig(str(tmp_path), device="cpu", attention=attention)
    parts = load_parts(config)
    state = torch.get_rng_state()
    student, _ = checked(parts, config)
    assert torch.equal(state, torch.get_rng_state())
    sharing, prefixing, sampled = KINDS[kind]
    assert student.sharing == sharing
    assert (not student.unsampled) == sampled
    asked = Sample("x", user("Which is larger, the first or the second?"))
    if not sampled:
        with pytest.raises(UserError, match="cannot be sampled in process"):
            HF(student).generate([asked], 2, Sampling())
        return
    assert student.prefixing == prefixing or attention == "eager"
    ids = torch.tensor([student.encode(asked).ids])
    said = theirs.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)[0, ids.shape[1] :]
    (ours,) = HF(student).generate([asked], 2, Sampling(temperature=0.0, max_tokens=8))
    assert isinstance(ours, tuple)
    tokens = ours[0].tokens or ()
    assert list(tokens) == said.tolist()[: len(tokens)]


def test_half_precision_is_rounding_and_a_mistake_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in bfloat16 differ by steps of the logits' last digit; a scale that is left out, by nats."""
    write("granite", AutoModelForCausalLM, tmp_path, 256)
    config = StudentConfig(str(tmp_path), device="cpu", dtype="bfloat16", lora=Lora(r=2, alpha=4))
    _, verdict = checked(load_parts(config), config)
    assert 1e-3 < verdict.logp < 0.3
    monkeypatch.setattr(form, "measured", lambda _: form.Form())
    with pytest.raises(UserError, match=r"log-probabilities [1-9]\S* nats off"):
        checked(load_parts(config), config)


def test_a_norm_that_merely_shares_a_name_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of the name `LlamaRMSNorm` that adds one to its weights: the faster way is switched off, alone."""
    theirs, tokenizer = miniature("llama", AutoModelForCausalLM, 256)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return (1 + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    parts = load_parts(StudentConfig(str(tmp_path), device="cpu"))
    student, verdict = checked(parts, StudentConfig(str(tmp_path), device="cpu"))
    assert (verdict.norming, verdict.sharing, verdict.sparing) == (False, True, True)
    assert verdict.logp < 1e-4
    assert all(type(m) is LlamaRMSNorm for m in student.base.modules() if "RMSNorm" in type(m).__name__)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_tells_nothing_of_a_model(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, tokenizer = miniature("llama", AutoModelForCausalLM, 256)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    parts = load_parts(StudentConfig(str(tmp_path), device="cpu"))

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(parts.model), "forward", full)
    with pytest.raises(UserError, match="too little memory to check the model"):
        transformers_says(parts, StudentConfig("m", device="cpu"))


def test_what_was_checked_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_CACHE", str(tmp_path / "cache"))
    write("nemotron", AutoModelForCausalLM, tmp_path / "model", 256)
    config = StudentConfig(str(tmp_path / "model"), device="cpu")
    first = load_student(config)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "checked", lambda *_: pytest.fail("checked again"))
        again = load_student(config)
    assert (again.sharing, again.prefixing) == (first.sharing, first.prefixing) == (False, False)
    remembered.place().write_text("{")
    assert not load_student(config).sharing, "a damaged cache is none"


def seeing(kind: str) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor of a relative of Qwen2.5-VL's."""
    like, tokenizer, processor, _ = image_model("qwen3_vl" if kind == "qwen3_vl_moe" else "qwen2_5_vl")
    shape, text, tower = like.config, like.config.text_config.to_dict(), like.config.vision_config.to_dict()
    ids = {
        f"{name}_token_id": getattr(shape, f"{name}_token_id")
        for name in ("image", "video", "vision_start", "vision_end")
    }
    del text["model_type"], tower["model_type"]
    torch.manual_seed(0)
    if kind == "qwen2_vl":
        tower = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        config: Any = Qwen2VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=False, **ids)
        return Qwen2VLForConditionalGeneration(config), tokenizer, processor
    text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    config = Qwen3VLMoeConfig(text_config=text, vision_config=tower, tie_word_embeddings=False, **ids)
    return Qwen3VLMoeForConditionalGeneration(config), tokenizer, processor


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl_moe"])
def test_relatives_of_qwens_vision_language_models_are_exact(kind: str, tmp_path: Path) -> None:
    model, tokenizer, processor = seeing(kind)
    enlarge(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    for part in (model, tokenizer, processor):
        part.save_pretrained(tmp_path)
    config = StudentConfig(str(tmp_path), device="cpu")
    _, verdict = checked(load_parts(config), config)
    assert verdict.sharing
    assert verdict.prefixing
    assert not verdict.unsampled
    assert max(verdict.logp, verdict.gradients, verdict.sampler) <= 1e-5


def test_soft_capped_attention_is_refused_where_it_would_be_dropped(tmp_path: Path) -> None:
    write("gemma2", AutoModelForCausalLM, tmp_path, 256)
    with pytest.raises(UserError, match=r"would drop its attention.s `softcap`.*attention: eager"):
        load_student(StudentConfig(str(tmp_path), device="cpu"))


def test_a_head_of_another_kind_is_refused(tmp_path: Path) -> None:
    write("bert", AutoModelForCausalLM, tmp_path, 256)
    with pytest.raises(UserError, match="transforms hidden states before its head"):
        load_student(StudentConfig(str(tmp_path), device="cpu"))


# ------------------------------------------------------------------------------------------------------ damaged files


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})

    return changed


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def rewritten(name: str, **keys: object) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return changed


def shape(then: Callable[[Path], object] | None = None, **keys: object) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        if then is not None:
            then(folder)

    return changed


def sharded(folder: Path) -> None:
    """An index that names a second file, which is not there."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {name: f"model-0000{1 + (i > 5)}-of-00002.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


DOWN = "model.layers.0.mlp.down_proj.weight"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (weights(lambda w: w.pop(DOWN)), rf"lack {DOWN}.*fetch the folder again"),
    "unused": (weights(lambda w: w.update(other=torch.zeros(2))), "hold other, which would be dropped"),
    "misshapen": (shape(intermediate_size=96), f"have another shape for {DOWN}"),
    "shard": (sharded, r"model-00002-of-00002.*fetch it again"),
    "cut": (cut, "is damaged, fetch it again"),
    "gptq": (
        shape(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantised \(gptq\).*take the checkpoint",
    ),
    "fp8": (shape(quantization_config={"quant_method": "fp8"}), r"quantised \(fp8\)"),
    "eight bits": (
        weights(lambda w: w.update({DOWN: torch.zeros(64, 128, dtype=torch.int8)})),
        rf"1 matrices in eight bits \({DOWN}\)",
    ),
    "broken down": (weights(lambda w: w[DOWN].fill_(torch.nan)), rf"{DOWN}.*infinite or none.*earlier checkpoint"),
    "layers": (shape(layer_types=["full_attention"]), "Class validation.*correct its config.json"),
    "ends": (written("generation_config.json", "{"), r"generation_config\.json.*is no JSON.*remove it"),
    "named ends": (
        written("generation_config.json", '{"eos_token_id": "</s>"}'),
        r"`eos_token_id` is an id or a list of ids, got '</s>'",
    ),
    "no vocabulary": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"cannot load the tokenizer.*add the tokenizer files",
    ),
    "other ends": (
        shape(eos_token_id=2, bos_token_id=1, pad_token_id=0, then=written("generation_config.json", "{}")),
        r"another model's: eos is 1 for the one and 2 for the other; bos is 0",
    ),
    "ordinary end": (
        shape(eos_token_id=44, then=written("generation_config.json", "{}")),
        r"what the model ends an answer with is an ordinary token of it, 44",
    ),
    "remote": (
        shape(model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}),
        r"set `student\.trust_remote_code: true`",
    ),
    "vocabulary": (
        lambda folder: _added(folder),
        r"2 tokens whose ids lie beyond the model's \d+ embeddings \('<answer>'.*resize_token_embeddings",
    ),
}


def _added(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<answer>", "</answer>"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_does_not_fit_together_is_refused(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGED[name]
    damage(save("llama", tmp_path / "model"))
    with pytest.raises(UserError, match=message):
        load_student(StudentConfig(str(tmp_path / "model"), device="cpu"))


def test_a_tokenizer_of_a_few_words_is_refused() -> None:
    """As transformers makes one where the file of the vocabulary is missing."""
    model = student("llama")
    few: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, "</s>")))
    with pytest.raises(UserError, match=r"another model's: it has 2 tokens, and the model \d+ embeddings"):
        fitting(few, model.base, "model")


def test_a_tower_without_a_processor_is_refused(tmp_path: Path) -> None:
    (save("llava", tmp_path / "model") / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"image processor.*add the preprocessor_config\.json"):
        load_student(StudentConfig(str(tmp_path / "model"), device="cpu"))


SIZES = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28}}
BLIND: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "size": ("llava", rewritten("preprocessor_config.json", **SIZES), r"does not go through .*28\*28.*another model's"),
    "merge": ("qwen2_5_vl", rewritten("preprocessor_config.json", merge_size=1), "its merge_size is 1, .*reads.* 2"),
    "patch": ("qwen2_5_vl", rewritten("preprocessor_config.json", patch_size=16), "patch_size is 16, .*patch_size 14"),
    "token": (
        "llava",
        shape(image_token_index=5, image_token_id=5),
        r"a picture's token is 5 for .*, and \d \('<image>'\)",
    ),
}


@pytest.mark.parametrize("name", BLIND)
def test_pictures_that_a_model_cannot_read_are_refused(name: str, tmp_path: Path) -> None:
    family, damage, message = BLIND[name]
    damage(save(family, tmp_path))
    with pytest.raises(UserError, match=message):
        load_student(StudentConfig(str(tmp_path), device="cpu"))
