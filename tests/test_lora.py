"""What adapters reach, and that each kind means the same trained, saved, loaded by peft and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmpu.core import UserError
from mmpu.student import Lora
from mmpu.student.adapters import adapted, merged, unloaded
from mmpu.student.targets import Targets, find
from tiny import sample, student

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "phi3": ({}, 0),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, 0),
    "falcon": ({}, 0),
    "glm4": ({"head_dim": 8}, 0),
    "starcoder2": ({}, 0),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, 0),
    "mixtral": ({"num_local_experts": 4}, 4),
    "qwen3_moe": (EXPERTS, 4),
    "gpt_oss": ({"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}, 4),
    "deepseek_v3": ({**LATENT, **ROUTED, "moe_intermediate_size": 16, "first_k_dense_replace": 1}, 2),
}
"""Architectures whose projections have names or shapes of their own, and how many stacks of experts they hold."""


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    shape = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family][0]})
    return AutoModelForCausalLM.from_config(shape).eval()


def targets_of(model: Any, lora: Lora) -> Targets:
    prefix = model.base_model_prefix
    return find(model, getattr(model, prefix), prefix, lora, False, "the model")


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_means_it(family: str) -> None:
    model, lora = model_of(family), Lora(r=2, alpha=4)
    targets = targets_of(model, lora)
    assert len(targets.parameters) == FAMILIES[family][1]
    assert targets.share > 0.98
    assert not [name for name in (*targets.modules, *targets.parameters) if "gate." in name or "router" in name]
    ids = torch.randint(3, 60, (1, 7))
    before = model(ids).logits
    tuned = adapted(model, lora, targets, seed=1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)
    after = tuned(ids).logits
    assert (after - before).abs().max() > 1e-3
    with tuned.disable_adapter():
        torch.testing.assert_close(tuned(ids).logits, before)
    torch.testing.assert_close(unloaded(tuned)(ids).logits, after)


def test_a_target_that_is_nowhere_is_named_with_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"named gate_proj, lm_head .*gate_up_proj"):
        targets_of(model_of("phi3"), Lora(targets=("o_proj", "gate_proj", "lm_head")))
    half = targets_of(model_of("phi3"), Lora(targets=("o_proj",)))
    assert half.share < 0.2
    assert half.left[0] == "gate_up_proj"


def test_stacked_experts_take_plain_adapters_only() -> None:
    model = model_of("mixtral")
    lora = Lora(r=2, alpha=4, dora=True)
    with pytest.raises(UserError, match=r"student\.lora\.dora: peft adapts stacked experts"):
        adapted(model, lora, targets_of(model, lora), seed=0)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "olora-rslora": {"init": "olora", "rslora": True},
    "saved": {"modules_to_save": ("norm",)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_the_same_saved_loaded_and_merged(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base = student("qwen2")
    tuned = student("qwen2", Lora(r=4, alpha=8, **KINDS[kind]))
    ids = torch.tensor([base.encode(sample("a")).ids])
    start = base.model(ids).logits
    tuned.start_stage(reference=True, seed=3)
    torch.testing.assert_close(tuned.model(ids).logits, start, atol=1e-4, rtol=1e-4)  # less the rounding of taking off
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
        after = tuned.model(ids).logits
        assert (after - start).abs().max() > 1e-2
        with tuned.frozen():
            torch.testing.assert_close(tuned.model(ids).logits, start, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tuned.model(ids).logits, after, atol=0, rtol=0)
        tuned.save(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(student("qwen2").model, str(tmp_path / "adapter"))
        torch.testing.assert_close(loaded(ids).logits, after, atol=1e-4, rtol=1e-4)
        whole = merged(student("qwen2").model, tmp_path / "adapter")
        torch.testing.assert_close(whole(ids).logits, after, atol=1e-4, rtol=1e-4)
