"""Models with random weights at the shapes that are measured, and a tokenizer whose tokens are words.

Nothing is downloaded. Since a token is a word, a text of n words has n tokens, so prompts and templates have exactly
the lengths that a row of a table names. Weights are a function of the seed alone: every process of a benchmark builds
the same model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessorPil,
)

from mmpu.families import Family
from mmpu.families.llava import Llava
from mmpu.families.qwen2_5_vl import Qwen25VL

UNKNOWN, PAD, END = "<unk>", "<pad>", "<|im_end|>"
VISION = ("<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL = (UNKNOWN, PAD, "<|im_start|>", END, *VISION)
FIRST_WORD = 64
"""Ids from here on are plain words; below are special tokens and the options of a judge."""
IMAGE_TOKENS = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model and, where it sees, of its vision tower."""

    family: Literal["qwen2", "llava", "qwen2_5_vl"]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tower_hidden: int = 0
    tower_intermediate: int = 0
    tower_layers: int = 0
    tower_heads: int = 0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


_SMALL = Shape("qwen2", 640, 2560, 7, 10, 2, 32_000)
_TINY = Shape("qwen2", 64, 128, 2, 4, 2, 512)
_SMALL_TOWER = {"tower_hidden": 256, "tower_intermediate": 1024, "tower_layers": 6, "tower_heads": 4}
_TINY_TOWER = {"tower_hidden": 32, "tower_intermediate": 64, "tower_layers": 2, "tower_heads": 2}
SHAPES = {
    "tiny-qwen2": _TINY,
    "tiny-llava": replace(_TINY, family="llava", **_TINY_TOWER),
    "tiny-qwen2.5-vl": replace(_TINY, family="qwen2_5_vl", **_TINY_TOWER),
    # 41 M parameters without embeddings, for machines with few cores.
    "small-qwen2": _SMALL,
    "small-llava": replace(_SMALL, family="llava", **_SMALL_TOWER),
    "small-qwen2.5-vl": replace(_SMALL, family="qwen2_5_vl", **_SMALL_TOWER),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 8960, 28, 12, 2, 151_936),
    "qwen2.5-3b": Shape("qwen2", 2048, 11008, 36, 16, 2, 151_936),
    "qwen2.5-vl-3b": Shape("qwen2_5_vl", 2048, 11008, 36, 16, 2, 151_936, 1280, 3420, 32, 16),
}


class _OpenLlava(Llava):
    never_sampled = ()


class _OpenQwen25VL(Qwen25VL):
    never_sampled = ()


FAMILIES: dict[str, type[Family]] = {"qwen2": Family, "llava": _OpenLlava, "qwen2_5_vl": _OpenQwen25VL}
"""mmpu leaves image placeholders out of the softmax. The libraries compared with do not, so here none does: all arms
compute the same function."""


def tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One token per word: `w64`, `w65`, …; the digits are words, too."""
    words = [*SPECIAL, *map(str, range(10))]
    words += [f"w{i}" for i in range(len(words), shape.vocabulary)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIAL))
    result = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNKNOWN, pad_token=PAD, eos_token=END)
    image = {"qwen2": "", "llava": "<image>", "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>"}[shape.family]
    result.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'image' %}" + image + "{% else %} {{ c.text }}{% endif %}{% endfor %}"
        "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    return result


def image_processor(shape: Shape) -> Any:
    """One that makes 256 tokens of the benchmark's picture; None for text."""
    if shape.family == "llava":
        return CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    if shape.family == "qwen2_5_vl":
        return Qwen2VLImageProcessorPil(size={"shortest_edge": 448 * 448, "longest_edge": 448 * 448})
    return None


def build(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """The model with random weights, its language model trainable and its vision tower frozen, as a student's is."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = _model(shape)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(pad_token_id=SPECIAL.index(PAD))  # no end: lengths are forced
    model.requires_grad_(False)
    language_model(model).requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
    return model


def _model(shape: Shape) -> Any:
    text: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 8192,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": SPECIAL.index(PAD),
        "tie_word_embeddings": True,
    }
    if shape.family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**text))
    if shape.family == "llava":
        vision = CLIPVisionConfig(
            hidden_size=shape.tower_hidden,
            intermediate_size=shape.tower_intermediate,
            num_hidden_layers=shape.tower_layers,
            num_attention_heads=shape.tower_heads,
            image_size=224,
            patch_size=14,
        )
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=LlamaConfig(**text),
                image_token_index=SPECIAL.index("<image>"),
                image_seq_length=IMAGE_TOKENS,
                tie_word_embeddings=True,
            )
        )
    half = shape.head_dim // 2
    spatial = (half - half // 4) // 2
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half - 2 * spatial, spatial, spatial],
    }
    tower: dict[str, Any] = {
        "depth": shape.tower_layers,
        "hidden_size": shape.tower_hidden,
        "intermediate_size": shape.tower_intermediate,
        "num_heads": shape.tower_heads,
        "out_hidden_size": shape.hidden,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [i for i in range(shape.tower_layers) if i % 8 == 7 or i == shape.tower_layers - 1],
    }
    ids = {f"{kind}_token_id": SPECIAL.index(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{end}_token_id": SPECIAL.index(f"<|vision_{end}|>") for end in ("start", "end")}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **ids)
    )


def language_model(model: Any) -> Any:
    backbone = getattr(model, model.base_model_prefix)
    return getattr(backbone, "language_model", backbone)


def vision_tower(model: Any) -> nn.Module | None:
    backbone = getattr(model, model.base_model_prefix)
    return getattr(backbone, "vision_tower", None) or getattr(backbone, "visual", None)


def trainable(model: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def multiplications(shape: Shape) -> int:
    """Of a token with the decoder's weights."""
    kv = shape.kv_heads * shape.head_dim
    return shape.layers * (2 * shape.hidden * (shape.hidden + kv) + 3 * shape.hidden * shape.intermediate)


def minimum_flops(shape: Shape, prompt: int, completions: list[int], images: int) -> float:
    """FLOPs of one forward and backward pass over a prompt and its completions when nothing is computed twice.

    A multiply-add counts two; the backward pass counts twice the forward pass, and the frozen tower has none. Causal
    pairs only. A completion's last token is not read, and of the last layer only keys and values of the prompt are,
    except for its end. Attention within the tower is left out.
    """
    unread = (prompt - 1) * (2 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate)
    linear = multiplications(shape) * (prompt + sum(c - 1 for c in completions)) - unread
    pairs = (shape.layers - 1) * prompt**2 / 2 + shape.layers * sum((c - 1) * (prompt + c / 2) for c in completions)
    attention = 4 * shape.hidden * pairs
    head = 2 * shape.hidden * shape.vocabulary * sum(completions)
    matrices = 3 if shape.family == "qwen2_5_vl" else 2  # a gated MLP has one more
    tower = shape.tower_layers * (4 * shape.tower_hidden**2 + matrices * shape.tower_hidden * shape.tower_intermediate)
    patches = IMAGE_TOKENS * (4 if shape.family == "qwen2_5_vl" else 1)
    return 3 * (2 * linear + attention + head) + 2 * tower * patches * images
