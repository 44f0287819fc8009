"""A model's files, taken together: all weights there, none quantised, a tokenizer that fits. transformers loads what is
not, with a warning and random numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from mmpu.core import UserError

NAMED = 5
"""Names that a message lists."""
OWN = 0.5
"""Share of the embeddings' rows that a model's own tokenizer has tokens for, at least; rows that pad them are few."""
_EIGHT_BITS = frozenset(("I8", "U8", "F8_E4M3", "F8_E5M2"))
"""Types of safetensors."""


def unquantised(shape: Any, model: str) -> None:
    """Refuses weights that are quantised in their files.

    Args:
        shape: The model's transformers configuration.

    Raises:
        UserError: they are; says how.
    """
    for part in (shape, shape.get_text_config()):
        found = getattr(part, "quantization_config", None)
        if found is not None:
            entry = cast(Mapping[str, object], found if isinstance(found, Mapping) else vars(found))
            raise UserError(
                f"the weights of {model!r} are quantised ({entry.get('quant_method', 'unknown')}), which cannot be "
                "trained; take the checkpoint that they were made from, with `student.quantize: 4bit` and "
                "`student.lora` to hold it in NF4"
            )


def unpacked(folder: str, model: str) -> None:
    """Refuses a folder whose matrices are stored in eight bits, though its configuration says nothing of it: they would
    be read without their scales.

    Raises:
        UserError: they are; names one.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as held:
                kinds = {name: held.get_slice(name).get_dtype() for name in held.keys()}  # noqa: SIM118
        except SafetensorError:
            continue  # loading says what is wrong with it
        packed = sorted(name for name, kind in kinds.items() if kind in _EIGHT_BITS and name.endswith("weight"))
        if packed:
            raise UserError(
                f"the weights of {model!r} are quantised: {file.name} holds {len(packed)} matrices in eight bits "
                f"({packed[0]}), which cannot be trained; take the checkpoint that they were made from"
            )


def generating(folder: str, model: str) -> None:
    """Refuses a generation_config.json that transformers would pass over or refuse, or whose ends are no ids.

    Raises:
        UserError: it is damaged; says how.
    """
    from transformers import GenerationConfig
    from transformers.utils.hub import cached_file

    name = "generation_config.json"
    try:
        found = cached_file(
            folder, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except (OSError, ValueError):
        return  # loading says what is wrong with the folder
    if found is None:
        return
    try:
        held: object = json.loads(Path(found).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{name} of {model!r} is no JSON ({error}); fetch it again, or remove it") from None
    if not isinstance(held, dict):
        raise UserError(f"{name} of {model!r} is no JSON object; fetch it again, or remove it")
    keys = cast(dict[str, Any], held)
    ids = keys.get("eos_token_id")
    listed = cast(list[object], ids) if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(each) is int for each in listed):
        raise UserError(f"{name} of {model!r}: `eos_token_id` is an id or a list of ids, got {ids!r}; correct the file")
    try:
        GenerationConfig.from_dict(keys)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name} of {model!r} asks for what transformers refuses ({error}); correct the file") from None


def finite(weights: Any, model: str) -> None:
    """Refuses weights that are none.

    Raises:
        UserError: some are infinite or not a number; names one of their tensors.
    """
    for name, parameter in weights.named_parameters():
        if parameter.is_floating_point() and parameter.numel() and not parameter.is_meta:
            least, most = torch.aminmax(parameter.detach())
            if not bool(torch.isfinite(least) & torch.isfinite(most)):
                raise UserError(
                    f"{name} of {model!r} holds numbers that are infinite or none: the run that made them had broken "
                    "down, or the file is damaged; take an earlier checkpoint, or fetch it again"
                )


def whole(loading: Mapping[str, Any], model: str) -> None:
    """Refuses weights that do not fit the architecture; tied heads are not missing.

    Args:
        loading: What transformers reports of loading (`output_loading_info`).

    Raises:
        UserError: weights are missing, of another shape, or of no use; names them.
    """
    for key, what, why in (
        ("missing_keys", "lack", "would be drawn at random"),
        ("mismatched_keys", "have another shape for", "would be drawn at random"),
        ("unexpected_keys", "hold", "would be dropped"),
    ):
        names = sorted(str(cast(Any, n)[0] if isinstance(n, tuple) else n) for n in loading.get(key) or ())
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise UserError(
                f"the weights of {model!r} {what} {', '.join(names[:NAMED])}{more}, which {why}: files are "
                "missing, or config.json is another model's; fetch the folder again, or correct its config.json"
            )


def fitting(tokenizer: Any, weights: Any, model: str) -> None:
    """Refuses a tokenizer that writes ids which the embeddings do not have, or that calls other tokens ends and
    beginnings than the model does. Special tokens that no template writes are let pass: texts that quote them are
    broken up.

    Raises:
        UserError: it does; names some.
    """
    rows = len(weights.get_input_embeddings().weight)
    template = str(tokenizer.chat_template or "")
    special = {t for t in tokenizer.all_special_tokens if t not in template}
    beyond = sorted((i, t) for t, i in tokenizer.get_vocab().items() if i >= rows and t not in special)
    if beyond:
        shown = ", ".join(repr(token) for _, token in beyond[:NAMED])
        raise UserError(
            f"the tokenizer of {model!r} has {len(beyond)} tokens whose ids lie beyond the model's {rows} embeddings "
            f"({shown}): it is another model's, or tokens were added without resizing; take the model's own tokenizer, "
            "or call `model.resize_token_embeddings(len(tokenizer))` and save both"
        )
    why = _foreign(tokenizer, weights, rows)
    if why:
        raise UserError(
            f"the tokenizer of {model!r} is another model's: {why}; take the tokenizer files of the model that the "
            "weights are, or correct the ids in its config.json and generation_config.json"
        )


def picturing(processor: Any, tokenizer: Any, shape: Any, token: str, model: str) -> None:
    """Refuses an image processor or a tokenizer whose pictures are not those that a model reads.

    Args:
        shape: The model's transformers configuration.
        token: What stands for a feature of a picture.

    Raises:
        UserError: they do not fit; says where.
    """
    own = tokenizer.convert_tokens_to_ids(token)
    named = getattr(shape, "image_token_id", None) or getattr(shape, "image_token_index", None)
    if own is None or own == tokenizer.unk_token_id or named not in (None, own):
        raise UserError(
            f"a picture's token is {named} for {model!r}, and {own} ({token!r}) for its tokenizer; take the tokenizer "
            "files and the config.json of one model"
        )
    for ours, theirs in _MEASURES:
        made, read = getattr(processor, ours, None), getattr(shape.vision_config, theirs, None)
        if isinstance(made, int) and isinstance(read, int) and made != read:
            raise UserError(
                f"the image processor of {model!r} is another model's: its {ours} is {made}, and the model reads "
                f"{theirs} {read}; add the preprocessor_config.json of the model that it was made from"
            )


_MEASURES = (
    ("patch_size", "patch_size"),
    ("merge_size", "spatial_merge_size"),
    ("temporal_patch_size", "temporal_patch_size"),
)
"""Of image processors, and as the configurations of towers call them."""


def _foreign(tokenizer: Any, weights: Any, rows: int) -> str:
    """What tells that a tokenizer is not the one that a model was trained with; nothing if nothing does."""
    if len(tokenizer) < OWN * rows:
        return f"it has {len(tokenizer)} tokens, and the model {rows} embeddings"
    holders = (weights.config, weights.config.get_text_config(), getattr(weights, "generation_config", None))
    pairs: list[str] = []
    for role in ("eos", "bos", "pad"):
        named: set[int] = set()
        for holder in holders:
            ids = getattr(holder, f"{role}_token_id", None)
            listed = cast(list[int], ids) if isinstance(ids, list) else [] if ids is None else [int(ids)]
            named |= {i for i in listed if 0 <= i < rows}
        own = getattr(tokenizer, f"{role}_token_id")
        if own in named:
            return ""
        if named and own is not None:
            pairs.append(f"{role} is {own} for the one and {', '.join(map(str, sorted(named)))} for the other")
        if role == "eos" and named and not named & set(tokenizer.added_tokens_decoder):
            shown = ", ".join(f"{i} ({tokenizer.convert_ids_to_tokens(i)!r})" for i in sorted(named))
            return f"what the model ends an answer with is an ordinary token of it, {shown}"
    return "; ".join(pairs) if len(pairs) > 1 else ""
