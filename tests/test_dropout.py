"""Nothing is dropped while training: ratios are 1 before the first update, gradients do not depend on the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from mmpu.core import Group, Sampling
from mmpu.engines.hf import HF
from mmpu.methods.grpo import GRPO
from mmpu.student import Lora, StudentConfig, load_student
from mmpu.student.student import Student
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from tiny import QWEN_SPECIAL, QWEN_TEMPLATE, sample, save, text_shape, tokenizer

DROPPING = {"gpt2": 0.1, "starcoder2": 0.3, "opt": 0.3}


def model(kind: str, tok: Any) -> Any:
    """Each drops in its own ways: modules, functions fed by the configuration, whole layers."""
    shape = text_shape(len(tok), tok)
    rate = DROPPING[kind]
    if kind == "gpt2":
        size = {"vocab_size": len(tok), "n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 2}
        names = {"attn_pdrop": rate, "resid_pdrop": rate, "embd_pdrop": rate}
        return GPT2LMHeadModel(GPT2Config(**size, **names, eos_token_id=tok.eos_token_id))
    if kind == "starcoder2":
        names = {"residual_dropout": rate, "embedding_dropout": rate, "attention_dropout": rate}
        return Starcoder2ForCausalLM(Starcoder2Config(**shape, **names))
    del shape["intermediate_size"], shape["num_key_value_heads"]
    return OPTForCausalLM(OPTConfig(**shape, ffn_dim=128, dropout=rate, attention_dropout=rate, layerdrop=rate))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose files ask for dropout."""
    place = tmp_path_factory.mktemp("dropping")
    tok = tokenizer(QWEN_SPECIAL, "<|im_end|>", "<|endoftext|>", QWEN_TEMPLATE)
    for kind in DROPPING:
        torch.manual_seed(0)
        model(kind, tok).save_pretrained(place / kind)
        tok.save_pretrained(place / kind)
    save("qwen2", place / "lora")
    return place


def started(folder: Path, kind: str) -> Student:
    lora = Lora(r=4, alpha=8, dropout=0.2) if kind == "lora" else None
    student = load_student(StudentConfig(str(folder / kind), device="cpu", lora=lora))
    student.start_stage(True)
    if lora:
        torch.manual_seed(1)
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.1)
    return student


def updater(student: Student, budget: int) -> Updater:
    optim = Optim(lr=0.0, clip=1e9, tokens_per_pass=budget)
    return Updater(student, student, optim.build(student), GRPO(kl="none"), optim, Accelerator(cpu=True))


@pytest.mark.parametrize("kind", [*DROPPING, "lora"])
def test_ratios_are_1_before_the_first_update_and_gradients_do_not_depend_on_the_budget(
    folder: Path, kind: str
) -> None:
    student = started(folder, kind)
    asked = sample("s", "Which is larger?")
    (responses,) = HF(student).generate([asked], 4, Sampling(max_tokens=12, seed=1))
    assert isinstance(responses, tuple)
    rows = GRPO(kl="none").supervise(Group(asked, responses=responses, scores=(1.0, 0.0, 0.5, 0.2)))
    whole = updater(student, 16384)
    ((pieces, totals, _),) = whole.prepare([rows]).parts
    batch = whole._batch(pieces, totals, 0.0)
    student.train()
    with torch.no_grad():
        seen = whole._measure.live(student, [pieces[0].tree], pieces[0].rows, batch.mask_BT.shape[1])
    assert batch.old_logp_BT is not None
    off = (seen["logp"] - batch.old_logp_BT)[batch.mask_BT].abs().max()
    assert off < 1e-4, "rounding of float32; dropping a tenth of the units moves it by 0.2 or more"

    longest = max(len(branch) for branch in pieces[0].tree.branches)
    norms = [
        updater(student, budget)([rows], 0, 1)["grad_norm"]
        for budget in (16384, len(pieces[0].tree.trunk.ids) + longest)
    ]
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-4), "rounding of float32"
