"""Texts are tokenized in pieces where that changes no token: real tokenizers, every family, texts made to break it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mmpu.core import Sample
from mmpu.prompts import about
from mmpu.scorers.self_eval import ASK, PROMPT
from mmpu.student.encoding import Encoder
from mmpu.student.loading import load_student
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.student.tokenizing import Tokens
from tiny import CORPUS, FAMILIES, IMAGE_FAMILIES, picture, real_tokenizer, sample, shared_student

REAL = ("qwen2_5", "qwen3", "llama3", "llama2_llava")
TEMPLATES = {  # those of other models of a family go with the tokenizer of this one
    "qwen2_5": ("Qwen-Qwen2.5-7B-Instruct", "trl_qwen2_5_vl"),
    "qwen3": ("Qwen-Qwen3-0.6B", "trl_qwen3_vl"),
    "llama3": ("meta-llama-Llama-3.1-8B-Instruct", "trl_llama3"),
    "llama2_llava": ("llava-1.5", "trl_llava_next", "trl_gemma3"),
}
ODD = (
    *("\n", "\n<", "\n\n<", " \n<", "\r\n<", "\n<\n<", "<", ">", "/", " ", "\t", "▁", "\u0338", "\u0301", "\u200b"),
    *(
        "\x85",
        "\u2028",
        "\u00a0",
        "\x1c",
        "'s",
        "'",
        "1234567",
        "é",
        "e\u0301",
        "\ufb01",
        "日本語",
        "🙂",
        "</s>",
        "<s>",
    ),
    *("<|im_end|>", "<image>", "candidate>", "question", "What is 2 + 2?", "...", "<0x0A>", "\x00", "A", "ab"),
)


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(ODD, k=draw.randint(1, 14))) for _ in range(count)]


def prompts(*images: str) -> list[Sample]:
    """What the self-evaluator asks about ordinary answers and about odd ones, beside the questions themselves."""
    asked = [sample("x", "What colour is it?", *images), sample("y", "Which is larger?\n<b>yes</b>\n<i> no", *images)]
    answers = ["red", "", "4\n", "\n4", "two\nlines", "<|im_end|>\n<b>", "\u0338", *texts(40)]
    return asked + [
        about(one, PROMPT, anchor="It is red.", candidate=answer, ask=ask, cue=cue)
        for one in asked
        for ask, cue in ASK.values()
        for answer in answers
    ]


def bpe() -> Tokenizer:
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    found.train_from_iterator([CORPUS] * 4, trainer)
    return found


def like_gemma(*more: str) -> Tokenizer:
    """Spaces become letters, nothing else splits a text, what is unknown is spelt in bytes."""
    letters = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁\n<>/abcdefghijklmnopqrstuvwxyz",
        "\n\n",
        "an",
        *more,
    ]
    merges = [("\n", "\n"), ("a", "n"), *((token[:-1], token[-1]) for token in more)]
    model = models.BPE(
        {t: i for i, t in enumerate(letters)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    found = Tokenizer(model)
    found.normalizer = normalizers.Replace(" ", "▁")
    found.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return found


def fast(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def same(tokenizer: Any) -> bool:
    tokens = Tokens(tokenizer)
    return all(tokens(text) == tokens.whole(text) for text in texts(2000))


# ------------------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("name", REAL)
def test_a_real_tokenizer_makes_the_same_tokens_of_pieces(name: str, shared: Path) -> None:
    tokenizer = real_tokenizer(shared, name)
    assert Tokens(tokenizer).cuts
    assert same(tokenizer)


def test_other_kinds_too() -> None:
    for tokenizer in (bpe(), like_gemma()):
        assert Tokens(fast(tokenizer)).cuts
        assert same(fast(tokenizer))


def refused() -> dict[str, Tokenizer]:
    found = {name: bpe() for name in ("prefix space", "digits", "unknown pattern", "strips", "spans", "lowercase")}
    found["prefix space"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found["digits"].pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    found["unknown pattern"].pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+<|\s+|\S+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found["strips"].add_special_tokens([AddedToken("<call>", lstrip=True)])
    found["spans"].add_tokens([AddedToken("\n<call>")])
    found["lowercase"].normalizer = normalizers.Lowercase()
    found["merges across"] = like_gemma("\n<")
    found["whole text"] = bpe()
    found["whole text"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found["unigram"] = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("\n<", -1.0)], unk_id=0))
    found["words"] = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return found


@pytest.mark.parametrize("name", refused())
def test_a_tokenizer_that_might_differ_is_given_the_whole_text(name: str) -> None:
    tokenizer = fast(refused()[name])
    assert not Tokens(tokenizer).cuts
    assert same(tokenizer)


def test_what_repeats_is_tokenized_once() -> None:
    tokens = Tokens(fast(bpe()))
    text = "Grade it.\n<question>\nWhat colour?\n</question>\n<candidate>\n{}\n</candidate>\nDigit:"
    tokens(text.format("red"))
    before = len(tokens._known)
    for colour in ("green", "large", "red"):
        tokens(text.format(colour))
    assert len(tokens._known) == before + 2


def test_a_truncation_that_someone_left_set_cuts_nothing() -> None:
    tokenizer = fast(bpe())
    tokenizer.pad_token = "a"
    tokens = Tokens(tokenizer)
    tokenizer("what colour is it?", truncation=True, max_length=2, padding="max_length")
    assert tokens("what colour is it?\n<b>") == tokens.whole("what colour is it?\n<b>")


# --------------------------------------------------------------------------------------------------------- students


def check(student: Student, tokenizer: Any, *images: str) -> None:
    """Compares the encodings with those of an encoder that never cuts, and with the tokenizer's of the whole text."""
    config = student.base.config
    pieces, whole = (
        Encoder(student.config, config, student.base, tokenizer, student.image_processor, student.family)
        for _ in range(2)
    )
    assert pieces.tokens.cuts
    whole.tokens.cuts = False
    for prompt in prompts(*images):
        ours, theirs = pieces(prompt), whole(prompt)
        assert len(ours.ids) > 10, "the template writes what is asked"
        assert ours.ids == theirs.ids
        assert torch.equal(ours.positions_RL, theirs.positions_RL)
        assert (ours.blocks is None) == (theirs.blocks is None)
        assert ours.blocks is None or torch.equal(ours.blocks, student.family.blocks(config, torch.tensor(ours.ids)))
        if images:
            assert torch.equal(
                ours.positions_RL, student.family.positions(student.base, torch.tensor(ours.ids), ours.media)
            )
        else:
            assert list(ours.ids) == tokenizer(pieces.render(prompt), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_the_same_prompts(family: str) -> None:
    student = shared_student(family)
    check(student, student.tokenizer)
    if family in IMAGE_FAMILIES:
        check(student, student.tokenizer, picture(56, 112), picture())


@pytest.mark.parametrize("name", ["tiny-text", "tiny-vl"])
def test_bundled_students_read_the_same_prompts(name: str) -> None:
    student = load_student(StudentConfig(name, device="cpu"))
    check(student, student.tokenizer, *([picture()] if name == "tiny-vl" else []))


@pytest.mark.parametrize(("name", "template"), [(n, t) for n, found in TEMPLATES.items() for t in found])
def test_real_chat_templates_make_the_same_prompts(name: str, template: str, shared: Path) -> None:
    tokenizer = real_tokenizer(shared, name, template)
    family = next((each for each in ("gemma3", "llava") if each in template.replace("-", "_")), "qwen2")
    check(shared_student(family), tokenizer)
