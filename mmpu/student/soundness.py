"""A model's files, taken together: all weights there, none quantised, a tokenizer that fits. transformers loads what is
not, with a warning and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mmpu.core import UserError

NAMED = 5
"""Names that a message lists."""


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
    """Refuses a tokenizer that writes ids which the embeddings do not have. Special tokens that no template writes are
    let pass: texts that quote them are broken up.

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
