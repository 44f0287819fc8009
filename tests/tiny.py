"""Small random students of every family, with a small tokenizer and chat template: real code paths, no download."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from mmpu.core import Part, Sample, user
from mmpu.families import Family
from mmpu.families.gemma3 import Gemma3
from mmpu.families.llava import Llava
from mmpu.families.qwen2_5_vl import Qwen25VL
from mmpu.families.qwen3_vl import Qwen3VL
from mmpu.media.images import data_uri
from mmpu.student.lora import Lora
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig

TEXT_FAMILIES = ("qwen2", "qwen2_window", "qwen3", "llama", "gemma3_text", "opt")
IMAGE_FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3")
FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GEMMA_SPECIAL = ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GEMMA_VISION = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SPLIT = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
CORPUS = (
    "What colour is the large shape in the picture? The answer is green. Grade a candidate answer from 0 to 9. "
    "yes no maybe true false 0 1 2 3 4 5 6 7 8 9 A B T user assistant system reference question candidate"
)


def tokenizer(special: tuple[str, ...], eos: str, pad: str, template: str, bos: str | None = None) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([CORPUS] * 4, trainer)
    result = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=eos, pad_token=pad, bos_token=bos)
    result.chat_template = template
    return result


def text_shape(vocabulary: int, tok: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
    }


def text_model(family: str) -> tuple[Any, Any]:
    """Model and tokenizer of a text-only family."""
    if family in ("llama", "opt"):
        tok = tokenizer(("<s>", "</s>", "<pad>"), "</s>", "<pad>", LLAVA_TEMPLATE, "<s>")
    elif family == "gemma3_text":
        tok = tokenizer(GEMMA_SPECIAL, "<end_of_turn>", "<pad>", GEMMA_TEMPLATE, "<bos>")
    else:
        tok = tokenizer(QWEN_SPECIAL, "<|im_end|>", "<|endoftext|>", QWEN_TEMPLATE)
    shape = text_shape(len(tok), tok)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)), tok
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32)), tok
    if family == "gemma3_text":
        return Gemma3ForCausalLM(gemma_text(shape | {"final_logit_softcapping": 5.0})), tok
    if family == "opt":  # also Galactica's architecture
        del shape["intermediate_size"], shape["num_key_value_heads"]
        return OPTForCausalLM(OPTConfig(**shape, ffn_dim=128, word_embed_proj_dim=32)), tok
    # the second of its two layers sees a window, as in Qwen2's long-context variants
    window = (
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1} if family == "qwen2_window" else {}
    )
    return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True, **window)), tok


def gemma_text(shape: dict[str, Any]) -> Gemma3TextConfig:
    """Both kinds of layers, with a window shorter than the prompts."""
    kinds = ["sliding_attention", "full_attention"]
    return Gemma3TextConfig(**shape, head_dim=32, layer_types=kinds, sliding_window=12)


VIEW = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
"""Vision tower of fixed resolution: 16 patches."""


def image_model(family: str) -> tuple[Any, Any, Any, Family]:
    """Model, tokenizer, image processor and family file of a family that sees."""
    if family == "llava":
        tok = tokenizer(("<s>", "</s>", "<pad>", "<image>"), "</s>", "<pad>", LLAVA_TEMPLATE, "<s>")
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**VIEW),
            text_config=LlamaConfig(**text_shape(len(tok), tok)),
            image_token_index=tok.convert_tokens_to_ids("<image>"),
            image_seq_length=16,
        )
        processor: Any = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
        return LlavaForConditionalGeneration(config), tok, processor, Llava()
    if family == "gemma3":
        tok = tokenizer(GEMMA_SPECIAL + GEMMA_VISION, "<end_of_turn>", "<pad>", GEMMA_TEMPLATE, "<bos>")
        config = Gemma3Config(
            text_config=gemma_text(text_shape(len(tok), tok)),
            vision_config=SiglipVisionConfig(**VIEW),
            mm_tokens_per_image=4,
            image_token_index=tok.convert_tokens_to_ids("<image_soft_token>"),
            boi_token_index=tok.convert_tokens_to_ids("<start_of_image>"),
            eoi_token_index=tok.convert_tokens_to_ids("<end_of_image>"),
        )
        processor = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
        return Gemma3ForConditionalGeneration(config), tok, processor, Gemma3()
    tok = tokenizer(QWEN_SPECIAL + QWEN_VISION, "<|im_end|>", "<|endoftext|>", QWEN_TEMPLATE)
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"} | {
        f"vision_{end}": f"<|vision_{end}|>" for end in ("start", "end")
    }
    ids = {f"{key}_token_id": tok.convert_tokens_to_ids(token) for key, token in names.items()}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    if family == "qwen3_vl":
        rope["mrope_interleaved"] = True
        text = text_shape(len(tok), tok) | {"head_dim": 32, "rope_parameters": rope}
        vision_config = tower | {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        model: Any = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision_config, tie_word_embeddings=False, **ids)
        )
        size = {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}
        return model, tok, Qwen2VLImageProcessorPil(patch_size=16, size=size), Qwen3VL()
    text = text_shape(len(tok), tok) | {"rope_parameters": rope}
    vision_config = tower | {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56}
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision_config, tie_word_embeddings=False, **ids)
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    return model, tok, Qwen2VLImageProcessorPil(size=size), Qwen25VL()


def parts(family: str) -> tuple[Any, Any, Any, Family]:
    """Model, tokenizer, image processor and family file."""
    torch.manual_seed(0)
    model, tok, processor, rules = (
        image_model(family) if family in IMAGE_FAMILIES else (*text_model(family), None, Family())
    )
    with torch.no_grad():  # the default initialisation is nearly uniform: too flat for a comparison to say much
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.any():
                parameter.mul_(4.0)
            elif parameter.ndim >= 2:  # Gemma's projector starts at zero, blind
                parameter.normal_(std=0.2)
    model.generation_config = GenerationConfig(eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    return model.eval(), tok, processor, rules


def student(family: str, lora: Lora | None = None, **options: Any) -> Student:
    model, tok, processor, rules = parts(family)
    return Student(model, tok, StudentConfig(f"tiny-random-{family}", lora=lora, **options), processor, rules).eval()


@functools.cache
def _read(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def real_tokenizer(shared: Path, name: str, template: str | None = None) -> Any:
    """A published tokenizer, which is read once, with its own chat template or another."""
    found = copy.copy(_read(shared / "data/tokenizers" / name))
    if template is not None:
        found.chat_template = (shared / "data/tokenizers/templates" / f"{template}.jinja").read_text()
    return found


@functools.cache
def shared_student(family: str) -> Student:
    """For tests that leave the weights alone."""
    return student(family)


def save(family: str, folder: Path) -> Path:
    student(family).save(folder)
    return folder


@functools.cache
def picture(width: int = 84, height: int = 56, colour: str = "red") -> str:
    image = Image.new("RGB", (width, height), (230, 230, 220))
    ImageDraw.Draw(image).rectangle((8, 8, width // 2, height // 2), fill=colour)
    return data_uri(image)


@functools.cache
def noise(width: int = 177, height: int = 131) -> str:
    """A picture without a smooth spot, on which image libraries resize differently."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return data_uri(Image.fromarray(pixels))


def sample(name: str, question: str = "What colour is the shape?", *images: str) -> Sample:
    return Sample(name, user(*(Part("image", i) for i in images), question), answer="red", reference="It is red.")


def samples(family: str) -> list[Sample]:
    """Prompts of different lengths; with pictures of different sizes, two in one prompt, and none, where a family
    sees."""
    if family in TEXT_FAMILIES:
        return [sample("a"), sample("b", "yes or no? " * 3), sample("c", "0 1 2")]
    return [
        sample("a", "What colour is the shape?", picture()),
        sample("b", "Which is larger? yes no " * 2, picture(56, 112, "blue"), picture()),
        sample("c", "0 1 2"),
    ]
