"""Where a student's parts come from: a bundled name, a folder, a stage of a run, or the hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from mmpu import files, plugins
from mmpu.core import UserError
from mmpu.families import Family
from mmpu.student import gguf
from mmpu.student.adapters import merged
from mmpu.student.dropout import without_dropout
from mmpu.student.soundness import finite, fitting, generating, picturing, unpacked, unquantised, whole
from mmpu.student.student_config import StudentConfig


@dataclass(frozen=True)
class Parts:
    """What a student is assembled from."""

    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family


def load_parts(config: StudentConfig) -> Parts:
    """Model (on its device, adapters of earlier stages merged), tokenizer, image processor and family.

    Raises:
        UserError: a part cannot be found or does not fit; says which.
    """
    path, adapters = resolve_model(config.model)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading is quick next to what follows

    folder, file = gguf.place(path)

    def load(what: str, auto: Any, used: Callable[[Any], object] | None = None, **options: Any) -> Any:
        try:
            found = auto.from_pretrained(folder, trust_remote_code=config.trust_remote_code, **file, **options)
            if used:  # some damage shows only then
                used(found)
            return found
        except Exception as error:  # files of others, read by libraries, fail in every way there is
            raise UserError(f"cannot load the {what} of {config.model!r}: {_reason(what, error)}") from error

    shape: Any = load("config", AutoConfig)
    unquantised(shape, config.model)
    if not file:
        unpacked(folder, config.model)
        generating(folder, config.model)
    without_dropout(shape)
    seeing = hasattr(shape, "vision_config")
    family = _family(shape.model_type, config.model) if seeing else Family()
    model, loading = load(
        "weights",
        AutoModelForImageTextToText if seeing else AutoModelForCausalLM,
        config=shape,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused by name
        **_placement(config),
    )
    whole(loading, config.model)
    finite(model, config.model)
    if file:
        model = gguf.plain(model, path)
    tokenizer = load("tokenizer", AutoTokenizer, lambda found: found("a b"))
    fitting(tokenizer, model, config.model)
    _template(tokenizer, path, config)
    # Pillow is all that this backend needs. In transformers before 5.18 the name at the root wants torchvision all the
    # same, and the one in its own module does not.
    image_processor = load("image processor", AutoImageProcessor, backend="pil") if seeing else None
    if family.image_token is not None:
        picturing(image_processor, tokenizer, shape, family.image_token, config.model)
    for adapter in adapters:
        model = merged(model, adapter)
    if not config.device_map and not config.quantize:
        model.to(_device(config.device))
    if config.checkpoints_on(model.device.type):
        checkpoint_activations(model)
    return Parts(model, tokenizer, image_processor, family)


def _template(tokenizer: Any, path: str, config: StudentConfig) -> None:
    """Gives the tokenizer the chat template that its processor keeps, where it has none of its own.

    Raises:
        UserError: there is none, and the config wants one.
    """
    if config.template == "chat" and tokenizer.chat_template is None:
        tokenizer.chat_template = _processor_template(path)
        if tokenizer.chat_template is None:
            raise UserError(
                f"{config.model} has no chat template; if it is a base model, set `student.template: completion`"
            )


def base_dtype(name: str) -> torch.dtype | None:
    """The type that a model's weights were published in; None if its config does not say."""
    from transformers import PretrainedConfig

    try:
        path, _ = resolve_model(name)
        values, _ = PretrainedConfig.get_config_dict(path)
    except (UserError, OSError):
        return None
    written = values.get("dtype") or values.get("torch_dtype")
    found = getattr(torch, str(written).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _reason(what: str, error: Exception) -> str:
    """What transformers raises, in its own words, and the way out."""
    text = " ".join(str(error).split("\n")[:2]) if str(error).startswith("Class validation") else str(error).strip()
    if isinstance(error, KeyError):
        text = f"its config.json says {error}, which this transformers does not know"
    first = text.splitlines()[0] if text else type(error).__name__
    return first + _way_out(what, str(error))


def _way_out(what: str, error: str) -> str:
    for said, way in (
        ("trust_remote_code", "; set `student.trust_remote_code: true` if you trust the code that comes with it"),
        ("attention implementation", "; set `student.attention: eager`"),
        ("image processor", "; add the preprocessor_config.json of the model that it was made from"),
        ("preprocessor_config", "; add the preprocessor_config.json of the model that it was made from"),
        ("does not recognize this architecture", "; upgrade transformers"),
        ("Unrecognized model", "; fetch its config.json again, with the `model_type` that transformers knows it by"),
        ("Unrecognized configuration class", "; it is no decoder; take a causal or an image-text model"),
        ("validation error", "; correct its config.json, or fetch it again"),
        ("JSON", "; the file is damaged, fetch it again"),
        ("deserializing", "; a file is damaged, fetch it again"),
        ("safetensors", "; the folder is incomplete or damaged, fetch it again"),
    ):
        if said in error:
            return way
    return "; add the tokenizer files of the model that it was made from" if what == "tokenizer" else ""


def resolve_model(name: str) -> tuple[str, list[Path]]:
    """The folder or hub id of the base, and the adapters to merge into it, in order.

    A stage folder holds `student.json`: {"base": name, "adapters": [paths relative to the file]} or {"base": "model"}.
    Adapters of earlier stages lie in its `before/` too, so that the folder can be moved alone.
    """
    path = files.place(name)
    if (path / "student.json").exists():
        base, own = _stage(path)
        root, before = resolve_model(base)
        return root, [*before, *own]
    if path.suffix == gguf.SUFFIX and path.is_file():
        return str(path), []
    if path.is_dir():
        if not (path / "config.json").exists():
            adapter = (path / "adapter_config.json").exists()
            way = (
                "; it is an adapter: merge it into its base (peft's `merge_and_unload`) and save that"
                if adapter
                else ""
            )
            raise UserError(f"{name} is a folder without config.json: neither a model nor a stage of a run{way}")
        return str(path), []
    if name in plugins.data("models"):
        return str(plugins.find_data("models", name)), []
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no model {name!r}: no such folder; {plugins.suggest(name, plugins.data('models'))}")
    return name, []


def _stage(path: Path) -> tuple[str, list[Path]]:
    """What a stage's student.json names.

    Raises:
        UserError: it is damaged, or what it names is not there.
    """
    file = path / "student.json"
    try:
        entry = files.value_in(file)
        base, names = str(entry["base"]), [str(name) for name in entry["adapters"]]
        beside = [str(path / name) for name in (base, str(entry.get("base_from_here") or base))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}); train the stage again, or restore the file") from None
    base = next((b for b in (beside[0], base, beside[1]) if (Path(b) / "config.json").exists()), base)
    if Path(base).is_absolute() and not Path(base).exists():
        raise UserError(f"{file} names the base {base}, which is not there; put it back, or correct `base` in the file")
    found: list[Path] = []
    for name in names:
        places = [path / "before" / Path(name).parent.name, path / name, path / Path(name).name]
        places = places[1:] if name == names[-1] and not places[1].exists() else places
        there = next((p for p in places if (p / "adapter_config.json").exists()), None)
        if there is None:
            raise UserError(f"{file} names the adapter {name}, which is not there; copy its stage's folder beside it")
        found.append(there.resolve())
    return base, found


def _family(model_type: str, model: str) -> Family:
    if model_type not in plugins.code("families"):
        raise UserError(
            f"{model} is a {model_type}, a vision-language architecture without a file in families/; there is: "
            f"{', '.join(plugins.code('families'))}. Add one (docs/plugins.md, «A student family»)"
        )
    return plugins.find_class("families", model_type, Family)()


def checkpoint_activations(model: Any) -> None:
    """transformers 5.23 says «activation» where it said «gradient», in the names of method and argument."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _placement(config: StudentConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"device_map": config.device_map} if config.device_map else {}
    if config.quantize:
        if not torch.cuda.is_available():
            raise UserError("student.quantize needs a CUDA device")
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
    return options


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _processor_template(path: str) -> str | None:
    """Older vision-language repositories keep the template in chat_template.json, with the processor."""
    from transformers.utils.hub import cached_file

    with contextlib.suppress(OSError):
        found = cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        if found:
            return cast(dict[str, str], json.loads(Path(found).read_text()))["chat_template"]
    return None
