"""The student: one adapter over transformers and peft for every family, text or image.

It turns prompts into tokens (template, image placeholders, positions), packs into log-probabilities, and keeps the
frozen weights that a stage started from. What an architecture needs beyond that is in `mmpu/students/`.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from mmpu import media, plugins
from mmpu.core import Message, Response, Sample, UserError
from mmpu.head import Ask, Head, Measured, measure
from mmpu.packing import Encoded, Pack
from mmpu.students import Family

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model's projections."""

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION_TARGETS


@dataclass(frozen=True)
class StudentConfig:
    """Which model, and how it is held."""

    model: str
    """A bundled student (`tiny-text`, `tiny-vl`), a folder, or a hub id."""
    lora: Lora | None = None
    """None trains all weights of the language model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    train_vision: bool = False
    """Also train the vision tower and the projector."""
    template: Literal["chat", "completion"] = "chat"
    """`completion` concatenates the prompt's texts, for models without a chat template."""
    template_options: dict[str, Any] | None = None
    """Further variables of the chat template; thinking is off unless switched on here."""
    trust_remote_code: bool = False


class Student(nn.Module):
    """A trainable model with its tokenizer, its images and its frozen starting weights.

    Args:
        model: A transformers model with `.model` (backbone) and an output head.
        lora: Wraps the model with adapters; the frozen weights are then the model without them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: StudentConfig,
        image_processor: Any = None,
        family: Family | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family or Family()
        self.model = model
        self.value: nn.Linear | None = None
        self._frozen: list[Any] = []  # a list hides the copy from parameters() and state_dict()
        self._encoded: dict[object, Encoded] = {}
        self._begun: dict[object, Tensor] = {}
        self._pieces: dict[str, list[int]] = {}
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._special = tuple(t.content for t in added.values() if t.special and len(t.content) > 1)
        banned = cast(list[int], tokenizer.convert_tokens_to_ids(list(self.family.never_sampled)))
        self.banned = tuple(b for b in banned if b is not None and b != tokenizer.unk_token_id)  # pyright: ignore[reportUnnecessaryComparison]

    # -------------------------------------------------------------------------------------------------------- loading

    @classmethod
    def load(cls, config: StudentConfig) -> Student:
        """A student from a bundled name, a folder or the hub; a stage folder of a run brings its base and adapters.

        Raises:
            UserError: the model cannot be found or has no chat template.
        """
        path, adapters = resolve_model(config.model)
        from transformers.utils import logging

        logging.disable_progress_bar()  # loading is quick next to what follows
        model, tokenizer, image_processor, family = _load_parts(path, config)
        for adapter in adapters:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # pyright: ignore
        student = cls(model, tokenizer, config, image_processor, family)
        student.to(_device(config.device))
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return student.eval()

    @property
    def base(self) -> Any:
        """The transformers model, adapters (if any) injected."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def eos(self) -> frozenset[int]:
        """Ids that end a response."""
        config = getattr(self.base, "generation_config", None)
        ids = getattr(config, "eos_token_id", None)
        found = set(cast(list[int], ids) if isinstance(ids, list) else [] if ids is None else [int(ids)])
        return frozenset(found | {self.tokenizer.eos_token_id} - {None})

    @property
    def pad(self) -> int:
        """Filler that no mask ever lets through, so any id does."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    # ------------------------------------------------------------------------------------------------------- training

    def start_stage(self, reference: bool, value: bool = False) -> None:
        """Makes the present weights the frozen ones and the model trainable.

        Args:
            value: Add a value head, linear on the last hidden state, zero at first, float32.

        With LoRA a fresh adapter is added to the merged weights, so «adapter off» means this stage's start, not the
        hub's base.
        """
        self._frozen.clear()
        if hasattr(self.model, "peft_config"):
            self.model = self.model.merge_and_unload()
        self.model.requires_grad_(False)
        if self.config.lora:
            from peft import LoraConfig, get_peft_model

            lora = self.config.lora
            names = [
                name
                for name, module in self._language_model().named_modules(prefix=self._language_prefix())
                if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in lora.targets
            ]
            if not names:
                raise UserError(
                    f"student.lora.targets: no layer of {self.config.model} is named {', '.join(lora.targets)}"
                )
            peft_config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
            self.model = get_peft_model(self.model, peft_config)
        else:
            if reference:
                self._frozen.append(copy.deepcopy(self.model).eval())
            (self.model if self.config.train_vision else self._language_model()).requires_grad_(True)
            self.base.get_output_embeddings().requires_grad_(True)
        self.value = None
        if value:
            self.value = nn.Linear(self.head.weight_VH.shape[1], 1, device=self.device)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    def _language_model(self) -> Any:
        backbone = getattr(self.base, self.base.base_model_prefix)
        return getattr(backbone, "language_model", backbone)

    def _language_prefix(self) -> str:
        language = self._language_model()
        return next(name for name, module in self.base.named_modules() if module is language)

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """Inside, every computation uses the weights the stage started from."""
        if self._frozen:
            live, self.model = self.model, self._frozen[0]
            try:
                yield
            finally:
                self.model = live
        elif hasattr(self.model, "peft_config"):
            with self.model.disable_adapter():
                yield
        else:
            yield

    # ------------------------------------------------------------------------------------------------------- encoding

    def encode(self, sample: Sample) -> Encoded:
        """A prompt as ids, positions and image tensors, ready for an answer to follow; cached by content."""
        key = (sample.prompt,)
        if key not in self._encoded:
            if len(self._encoded) >= 20_000:
                self._encoded.clear()
                self._begun.clear()
            self._encoded[key] = self._encode(sample)
        return self._encoded[key]

    def _encode(self, sample: Sample) -> Encoded:
        features = [self._features(image, sample.id) for image in sample.images]
        text = self._render(sample)
        marker = self.family.image_token
        if marker is not None:
            pieces = text.split(marker)
            if len(pieces) != len(features) + 1:
                raise UserError(
                    f"sample {sample.id!r}: the chat template of {self.config.model} wrote {len(pieces) - 1} image "
                    f"placeholders for {len(features)} images; its template does not fit the model"
                )
            counts = [self.family.image_length(self.base.config, f) for f in features]
            text = pieces[0] + "".join(marker * n + piece for n, piece in zip(counts, pieces[1:], strict=True))
        ids = cast(
            list[int],
            self.tokenizer(text, add_special_tokens=self.config.template == "completion")["input_ids"],
        )
        if not ids:
            raise UserError(f"sample {sample.id!r}: the prompt has no token")
        limit = getattr(self.base.config.get_text_config(), "max_position_embeddings", None)
        if limit and len(ids) >= limit:
            raise UserError(
                f"sample {sample.id!r}: the prompt has {len(ids)} tokens, {self.config.model} reads {limit} at most; "
                "shorten it or leave it out"
            )
        names = {name for f in features for name in f}
        tensors = {name: torch.cat([f[name] for f in features]) for name in sorted(names)}
        sequence = torch.tensor(ids)
        fingerprints = tuple(media.fingerprint(image) for image in sample.images)
        end = 0
        if marker is not None and features:
            placeholder = self.tokenizer.convert_tokens_to_ids(marker)
            end = int((sequence == placeholder).nonzero().max()) + 1
        positions = self._positions(sequence, end, tensors, fingerprints)
        return Encoded(tuple(ids), positions, tensors, fingerprints, end)

    def _positions(
        self, ids: Tensor, image_end: int, tensors: Mapping[str, Tensor], fingerprints: tuple[str, ...]
    ) -> Tensor:
        """Positions (R, length). Up to the last image they are the family's, and kept: a question about an image and
        the many prompts that grade its answers begin alike. Behind it they count up by one."""
        key = (tuple(ids[:image_end].tolist()), fingerprints)
        if key not in self._begun:
            self._begun[key] = self.family.positions(self.base, ids[:image_end], tensors).cpu()
        begin = self._begun[key]
        after = torch.arange(len(ids) - image_end) + (int(begin.max()) + 1 if image_end else 0)
        return torch.cat([begin, after.expand(len(begin), -1)], 1)

    def _features(self, image: str, sample_id: str) -> Mapping[str, Tensor]:
        if self.family.image_token is None:
            raise UserError(
                f"sample {sample_id!r} has an image, and {self.config.model} reads text only; "
                "use a vision-language student, such as tiny-vl"
            )
        key = ("image", media.fingerprint(image))
        if key not in self._encoded:
            try:
                picture = media.load_image(image)
            except UserError as error:
                raise UserError(f"sample {sample_id!r}: {error}") from None
            features = self.image_processor(images=[picture], return_tensors="pt")
            self._encoded[key] = Encoded((), torch.empty(1, 0), dict(features))
        return self._encoded[key].media

    def _render(self, sample: Sample) -> str:
        if self.config.template == "completion":
            return "\n".join(message.text for message in sample.prompt)
        options = {"enable_thinking": False, **(self.config.template_options or {})}
        messages = [self._message(message) for message in sample.prompt]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    def _message(self, message: Message) -> dict[str, object]:
        parts = [
            {"type": "image"} if p.kind == "image" else {"type": "text", "text": self._defuse(p.data)}
            for p in message.parts
        ]
        if self.family.image_token is None:
            return {"role": message.role, "content": "\n".join(str(p["text"]) for p in parts if "text" in p)}
        return {"role": message.role, "content": parts}

    def _defuse(self, text: str) -> str:
        """Breaks up special tokens that a text merely quotes: they would otherwise forge turns or images."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def response_ids(self, response: Response) -> tuple[int, ...]:
        """The tokens of a response: as sampled, or, for a text no student sampled, its encoding and end of sequence."""
        if response.tokens is not None:
            return response.tokens
        ids = cast(list[int], self.tokenizer(self._defuse(response.text), add_special_tokens=False)["input_ids"])
        return (*ids, self.tokenizer.eos_token_id) if response.finished else tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def option_ids(self, option: str) -> list[int]:
        """Every token whose stripped text is `option`."""
        if not self._pieces:
            for token in range(len(self.tokenizer)):
                self._pieces.setdefault(self.tokenizer.decode([token]).strip(), []).append(token)
        return self._pieces.get(option, [])

    # ----------------------------------------------------------------------------------------------------- computation

    def backbone(self, **inputs: Any) -> Any:
        """The model below its head: last hidden states, and the cache if one was passed."""
        return getattr(self.base, self.base.base_model_prefix)(**inputs)

    @property
    def head(self) -> Head:
        """The projection to logits, with its live weights."""
        linear = self.base.get_output_embeddings()
        softcap = getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)
        return Head(linear.weight, linear.bias, self.banned, softcap)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """(N, V) in float32, minus infinity at tokens that only prompts may hold."""
        return self.head.logits(hidden_NH)

    def hidden(self, pack: Pack) -> Tensor:
        """Hidden states of a pack, flattened to (S·L, H)."""
        allow = pack.allow_SLL[:, None]
        if self.config.attention != "sdpa":
            allow = torch.zeros_like(allow, dtype=self.base.dtype).masked_fill(~allow, torch.finfo(self.base.dtype).min)
        axes = pack.positions_RSL.shape[0]
        out = self.backbone(
            input_ids=pack.ids_SL,
            attention_mask=allow,
            position_ids=pack.positions_RSL[0] if axes == 1 else pack.positions_RSL,
            use_cache=False,
            **self.cast(pack.media),
        )
        return out.last_hidden_state.flatten(0, 1)

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image tensors on the model's device and, where they are real numbers, in its dtype."""
        return {k: v.to(self.device, self.base.dtype if v.is_floating_point() else None) for k, v in inputs.items()}

    @overload
    def forward(self, pack: Pack) -> Tensor: ...
    @overload
    def forward(self, pack: Pack, ask: Ask) -> Measured: ...
    def forward(self, pack: Pack, ask: Ask | None = None) -> Tensor | Measured:
        """log p(token) of every branch token of the pack, (N,) in float32, at temperature 1; with `ask` a mapping of
        `logp` and whatever else is asked for."""
        wanted = ask or Ask()
        pack = pack.to(self.device)
        hidden_NH = self.hidden(pack)[pack.source_N]
        found = measure(self.head, hidden_NH, pack.target_N, wanted)
        if wanted.value:
            assert self.value is not None, "start_stage(value=True) comes first"
            found["value"] = self.value(hidden_NH.to(self.value.weight.dtype))[:, 0]
        return found if ask else found["logp"]

    # ---------------------------------------------------------------------------------------------------------- saving

    def save(self, folder: Path) -> None:
        """Writes the weights: a small adapter under LoRA, else a folder that transformers loads as it is."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(folder))
        if not self.config.lora:
            self.tokenizer.save_pretrained(str(folder))
            if self.image_processor is not None:
                self.image_processor.save_pretrained(str(folder))


def resolve_model(name: str) -> tuple[str, list[Path]]:
    """The folder or hub id of the base, and the adapters to merge into it, in order.

    A stage folder holds `student.json`: {"base": name, "adapters": [paths relative to the file]} or {"base": "model"}.
    """
    path = Path(name).expanduser()
    if (path / "student.json").exists():
        entry = cast(dict[str, Any], json.loads((path / "student.json").read_text()))
        base = str(entry["base"])
        base = str(path / base) if (path / base / "config.json").exists() else base
        root, before = resolve_model(base)
        return root, [*before, *((path / a).resolve() for a in entry["adapters"])]
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UserError(f"{name} is a folder without config.json: neither a model nor a stage of a run")
        return str(path), []
    if name in plugins.data("models"):
        return str(plugins.find_data("models", name)), []
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no model {name!r}: no such folder; {plugins.suggest(name, plugins.data('models'))}")
    return name, []


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_parts(path: str, config: StudentConfig) -> tuple[Any, Any, Any, Family]:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    def load(what: str, auto: Any, **options: Any) -> Any:
        try:
            return auto.from_pretrained(path, trust_remote_code=config.trust_remote_code, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"cannot load the {what} of {config.model!r}: {first}") from error

    shape: Any = load("config", AutoConfig)
    seeing = hasattr(shape, "vision_config")
    family = Family()
    if seeing:
        if shape.model_type not in plugins.code("students"):
            raise UserError(
                f"{config.model} is a {shape.model_type}, a vision-language architecture without a file in students/; "
                f"there is: {', '.join(plugins.code('students'))}. Add one (docs/plugins.md, «A student family»)"
            )
        family = plugins.find_class("students", shape.model_type, Family)()
    model = load(
        "weights",
        AutoModelForImageTextToText if seeing else AutoModelForCausalLM,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attention,
    )
    tokenizer = load("tokenizer", AutoTokenizer)
    if config.template == "chat" and tokenizer.chat_template is None:
        tokenizer.chat_template = _processor_template(path)
        if tokenizer.chat_template is None:
            raise UserError(
                f"{config.model} has no chat template; if it is a base model, set `student.template: completion`"
            )
    image_processor = load("image processor", AutoImageProcessor, backend="pil") if seeing else None
    return model, tokenizer, image_processor, family


def _processor_template(path: str) -> str | None:
    """Older vision-language repositories keep the template in chat_template.json, with the processor."""
    from transformers.utils.hub import cached_file

    with contextlib.suppress(OSError):
        found = cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        if found:
            return cast(dict[str, str], json.loads(Path(found).read_text()))["chat_template"]
    return None
