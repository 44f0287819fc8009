"""A miniature of any architecture: its own classes with small numbers, few layers and random weights.

A comparison must be able to fail: windows are shorter than the prompts, every kind of layer occurs, scales are none
that vanish, chances of dropping are high, and weights are large enough that attention decides what is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from mmpu import plugins

LAYERS = 4
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size(_per_layer_input)?", -1),
    (
        r"hidden_size|d_model|n_embd|embedding_dim|lru_width|attention_hidden_size|embedding_size|word_embed_proj_dim",
        64,
    ),
    (r"(in|out)put_embedding_size", 64),
    (r"hidden_size_per_layer_input|laurel_rank|adapter_rank|adapter_reduction_factor|router_hidden_size", 16),
    (r".*intermediate_size(_mlp)?|(decoder_|encoder_)?ffn_dim|ffn_hidden_size|d_ff|dff|dim_ff|d_inner", 128),
    (r"expert_ffn_hidden_size|feed_forward_size|mamba_d_ssm", 128),
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(decoder|encoder)_layers|num_blocks", LAYERS),
    (r"max_window_layers|num_kv_shared_layers|num_layers_per_stack", 2),
    (r"(num_)?(decoder_|encoder_|swa_)?(attention_heads|num_attention_heads)|n_heads?|num_heads", 4),
    (r"num_query_groups", 4),
    (r"(swa_)?num_key_value_heads|num_kv_heads", 2),
    (r"(swa_)?head_dim|kv_channels|dim_head|linear_head_dim|index_head_dim|mamba_d_head|mamba_head_dim", 16),
    (r"linear_(key|value)_head_dim|mamba_headdim|d_head", 16),
    (r"attention_head_dim|attention_head_size", 16),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k", 2),
    (r"n_group|topk_group|n_shared_experts|num_shared_experts|num_expert_group|first_k_dense_replace", 1),
    (r"num_dense_layers|moe_layer_start_index|zero_expert_num|mamba_n(_)?groups|mamba_n_groups|n_groups", 1),
    (r"kv_lora_rank|q_lora_rank|o_lora_rank|gated_norm_rank|hc_lowrank", 32),
    (r"qk_(rope|nope)_head_dim", 16),
    (r"qk_head_dim", 32),
    (r"v_head_dim", 24),
    (r"index_n_heads|linear_num_key_heads|n_mamba_heads|num_mem_blocks", 2),
    (r"linear_num_value_heads|linear_num_heads", 4),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"mamba_d_state|ssm_state_size|state_size", 16),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r"(mamba_)?chunk_size|o_groups", 4),
    (
        r"sliding_window(_size)?|window_size|attention_chunk_size|attention_window_size|local_attention|keep_window_size",
        8,
    ),
    (r"index_topk|rel_extent|index_block_size", 8),
    (r"index_topk_blocks", 2),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length", 512),
    (r"rotary_dim", 8),
    (r"attn_layer_period|expert_layer_period|decoder_sparse_step|no_rope_layer_interval|interleave_moe_layer_step", 2),
    (r"attn_layer_offset|expert_layer_offset", 1),
    (r"ngram_vocab_size_base|audio_vocab_size", 64),
    (r"backbone_hidden_size", 64),
    (r"num_centroids", 16),
)
"""Names of a configuration's whole numbers, and what they are in a miniature; -1 is the vocabulary."""
_NEAR = (
    r"sliding_window(_size)?|(attention_)?window_size|attention_chunk_size|local_attention|keep_window_size|index_topk"
)
"""Numbers that say how far back a layer looks."""
_SCALES: tuple[tuple[str, float], ...] = (
    (r"logits?_scal(e|ing)", 0.5),
    (r"(embedding|residual|lm_head|key|attention_in|attention_out|ssm_in|ssm_out)_multiplier", 0.8),
    (r"attention_multiplier", 0.3),
    (r".*logit_softcapping|logits_soft_cap|output_logit_soft_cap", 5.0),
)
"""Scales whose default may be 1, which would hide that they are ignored."""
_UNSAID = ("head_dim", "num_key_value_heads")
"""Numbers that a configuration may leave to its class, where they follow from others."""
_DROPS = re.compile("drop|jitter_noise")


def miniature(model_type: str, auto: Any, near: int) -> tuple[Any, Any]:
    """A random model of an architecture, float32, and the tokenizer that it is used with.

    Args:
        auto: `AutoModelForCausalLM` or `AutoModelForImageTextToText`.
        near: How many tokens layers look back that do not see all.

    Raises:
        Exception: whatever its classes raise at numbers like these.
    """
    from transformers import AutoTokenizer, GenerationConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer: Any = AutoTokenizer.from_pretrained(str(plugins.find_data("models", "tiny-text")))
    kind: Any = CONFIG_MAPPING[model_type]
    plain = kind()
    torch.manual_seed(0)
    model = auto.from_config(kind(**small(plain, tokenizer, near)), attn_implementation="eager", dtype=torch.float32)
    enlarge(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    return model.eval(), tokenizer


def small(config: Any, tokenizer: Any, near: int) -> dict[str, Any]:
    """Keywords that make a configuration's class, and those of its parts, small."""
    found: dict[str, Any] = {}
    layers = next((v for n, v in vars(config).items() if _size(n) == LAYERS and isinstance(v, int)), None)
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            found[name] = small(value, tokenizer, near) | {"model_type": value.model_type}
        elif isinstance(value, bool):
            continue
        elif name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            found[name] = tokenizer.pad_token_id if name.startswith("pad") else tokenizer.eos_token_id
        elif isinstance(value, int) and re.fullmatch(_NEAR, name):
            found[name] = near
        elif (isinstance(value, int) or name in _UNSAID) and _size(name) is not None:
            size = _size(name)
            found[name] = len(tokenizer) if size == -1 else size
        elif isinstance(value, int | float) and (scale := _matched(name, _SCALES)) is not None:
            found[name] = scale
        elif isinstance(value, float) and _DROPS.search(name):
            found[name] = 0.3
        elif isinstance(value, list | tuple):
            kinds = cast(list[Any], value)
            if (layers and len(kinds) == layers) or name.endswith("block_type"):
                found[name] = _cycled(kinds)
    if hasattr(config, "is_decoder"):
        found["is_decoder"] = True
    if hasattr(config, "kv_lora_rank"):  # each head has keys of its own
        found["num_key_value_heads"] = found["num_attention_heads"]
    return found | _OWN.get(config.model_type, {})


_OWN: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "attn_pdrop": 0.3, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "diffllama": {"attention_dropout": 0.0},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""What the classes of an architecture insist on."""


def _size(name: str) -> int | None:
    return cast("int | None", _matched(name, _SIZES))


def _matched(name: str, table: tuple[tuple[str, Any], ...]) -> Any:
    return next((value for pattern, value in table if re.fullmatch(pattern, name)), None)


def _cycled(kinds: list[Any]) -> list[Any]:
    """`LAYERS` of these, every kind among them."""
    distinct = list(dict.fromkeys(kinds))
    return [distinct[i % len(distinct)] for i in range(max(LAYERS, len(distinct)))]


def enlarge(model: Any) -> None:
    """Weights that keep a layer's scale, biases and norms that are none of 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if parameter is embedding:
                parameter.copy_(noise * 0.5)
            elif parameter.ndim >= 2:
                parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(noise * 0.1)


def write(model_type: str, auto: Any, folder: Path, near: int) -> None:
    """Saves a miniature as a model's folder."""
    model, tokenizer = miniature(model_type, auto, near)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def architectures() -> Mapping[str, Mapping[str, str]]:
    """Every architecture that the installed transformers reads as a causal or an image-text model, by the name of its
    auto class: model type and the model's class."""
    from transformers.models.auto import modeling_auto as auto

    return {
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForImageTextToText": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
