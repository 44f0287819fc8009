"""Small random students of every family, with a small tokenizer and chat template: real code paths, no download."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessorPil,
)

from mmpu.core import Part, Sample, user
from mmpu.media import data_uri
from mmpu.student import Lora, Student, StudentConfig
from mmpu.students import Family
from mmpu.students.llava import Llava
from mmpu.students.qwen2_5_vl import Qwen25VL

TEXT_FAMILIES = ("qwen2", "llama")
IMAGE_FAMILIES = ("llava", "qwen2_5_vl")
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


def parts(family: str) -> tuple[Any, Any, Any, Family]:
    """Model, tokenizer, image processor and family file."""
    torch.manual_seed(0)
    processor: Any = None
    rules = Family()
    if family in ("llama", "llava"):
        special = ("<s>", "</s>", "<pad>") + (("<image>",) if family == "llava" else ())
        tok = tokenizer(special, "</s>", "<pad>", LLAVA_TEMPLATE, "<s>")
        shape = text_shape(len(tok), tok)
        if family == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        else:
            vision = CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=56,
                patch_size=14,
            )
            image = tok.convert_tokens_to_ids("<image>")
            model = LlavaForConditionalGeneration(
                LlavaConfig(
                    vision_config=vision,
                    text_config=LlamaConfig(**shape),
                    image_token_index=image,
                    image_seq_length=16,
                )
            )
            processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
            rules = Llava()
    else:
        special = QWEN_SPECIAL + (QWEN_VISION if family == "qwen2_5_vl" else ())
        tok = tokenizer(special, "<|im_end|>", "<|endoftext|>", QWEN_TEMPLATE)
        shape = text_shape(len(tok), tok)
        if family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
        else:
            shape["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
            vision = {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "patch_size": 14,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1],
                "window_size": 56,
            }
            names = {"image": "<|image_pad|>", "video": "<|video_pad|>"} | {
                f"vision_{end}": f"<|vision_{end}|>" for end in ("start", "end")
            }
            ids = {f"{key}_token_id": tok.convert_tokens_to_ids(token) for key, token in names.items()}
            model = Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config=shape, vision_config=vision, tie_word_embeddings=False, **ids)
            )
            processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
            rules = Qwen25VL()
    with torch.no_grad():  # the default initialisation is nearly uniform: too flat for a comparison to say much
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.generation_config = GenerationConfig(eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    return model.eval(), tok, processor, rules


def student(family: str, lora: Lora | None = None) -> Student:
    model, tok, processor, rules = parts(family)
    return Student(model, tok, StudentConfig(f"tiny-random-{family}", lora=lora), processor, rules).eval()


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
