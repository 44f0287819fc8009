"""The student: one adapter over transformers and peft for every family, text or image.

It turns prompts into tokens (template, image placeholders, positions), packs into log-probabilities, and keeps the
frozen weights that a stage started from. What an architecture needs beyond that is in `mmpu/families/`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from mmpu.core import Response, Sample, UserError
from mmpu.families import Family
from mmpu.student import (
    adapters,
    attention,
    dropout,
    form,
    gated,
    last_layer,
    rms_norm,
    saving,
    targets,
    tied,
    vector_math,
)
from mmpu.student.encoding import Encoder, ends
from mmpu.student.head import Ask, Head, Measured, measure
from mmpu.student.lora import Lora
from mmpu.student.packing import Encoded, Pack, Tree, alone, pack, visible
from mmpu.student.student_config import StudentConfig
from mmpu.student.vision import Images


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
        vector_math.settle()
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family or Family()
        self.model = model
        self.encoder = Encoder(config, model.config, model, tokenizer, image_processor, self.family)
        self.form = form.measured(model)
        self.sharing = True
        """Whether branches may share a trunk; False computes every response in a sequence of its own."""
        self.horizon: int | None = None
        """Rows as long as this hold one branch: layers of the model look no farther back."""
        self.sparing = True
        """Whether the last layer may leave out what is not read."""
        self.prefixing = True
        """Whether the sampler may hold a prompt's keys and values once for all its responses."""
        self.unsampled = ""
        """Why responses cannot be sampled in process; nothing if they can."""
        if config.attention == "sdpa":
            attention.install(model)
            last_layer.install(model)
        dropout.switch_off(model)
        tied.install(model)
        rms_norm.install(model)
        gated.install(model)
        self.version = 0
        """Counts the changes of the weights. An engine that holds a copy of them compares it with its copy's."""
        self.stage_version = 0
        """The version that the stage started from: what «adapter off» means."""
        self.tokens_read = 0
        """Places of all input that went through the layers so far, padding included."""
        self.value: nn.Linear | None = None
        self._frozen: list[Any] = []  # a list hides the copy from parameters() and state_dict()
        self.reach: targets.Targets | None = None
        """What the stage's adapter changes."""
        self._start: dict[str, Tensor] = {}
        """The adapter's first values, where they were taken off the base."""
        self.banned = never(tokenizer, self.family)

    @property
    def base(self) -> Any:
        """The transformers model, adapters (if any) injected."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def exact(self) -> torch.dtype:
        """The type of quantities of tokens: float32, or float64 where the weights are."""
        return self.head.exact

    @property
    def eos(self) -> frozenset[int]:
        """Ids that end a response: what the chat template ends a turn with, and what model and tokenizer call so."""
        own: tuple[int | None, ...] = (self.tokenizer.eos_token_id, self.encoder.turns.end)
        return ends(self.base) | {end for end in own if end is not None}

    @property
    def end(self) -> int:
        """The id that a response given as text ends with: the chat template's, else the tokenizer's."""
        for end in (self.encoder.turns.end, self.tokenizer.eos_token_id):
            if end is not None:
                return int(end)
        if not self.eos:
            raise UserError(
                f"{self.config.model} names no end-of-sequence token, neither in its tokenizer nor in "
                "generation_config.json; add `eos_token_id` there"
            )
        return min(self.eos)

    @property
    def pad(self) -> int:
        """Filler that no mask ever lets through, so any id does."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    # ------------------------------------------------------------------------------------------------------- training

    def start_stage(self, reference: bool, value: bool = False, seed: int = 0) -> None:
        """Makes the present weights the frozen ones and the model trainable.

        Args:
            value: Add a value head, linear on the last hidden state, zero at first, float32.
            seed: Draws the adapter.

        With LoRA a fresh adapter is added to the merged weights, so «adapter off» means this stage's start, not the
        hub's base.
        """
        self._frozen.clear()
        if hasattr(self.model, "peft_config"):
            self.model = adapters.unloaded(self.model)
        self.model.requires_grad_(False)
        self._start = {}
        if self.config.lora:
            self.reach = self._targets(self.config.lora)
            self.model = adapters.adapted(self.model, self.config.lora, self.reach, seed)
            dropout.switch_off(self.model)
            if self.config.lora.init != "default":
                self._start = {n: p.detach().clone() for n, p in self._trained()}
        else:
            if reference:
                self._frozen.append(self._cast(copy.deepcopy(self.model).eval()))
            (self.model if self.config.train_vision else self._language_model()).requires_grad_(True)
            self.base.get_output_embeddings().requires_grad_(True)
            tied.densify(self.base)
        self.value = None
        if value:
            self.value = nn.Linear(self.head.weight_VH.shape[1], 1, device=self.device)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.version += 1
        self.stage_version = self.version

    def _cast(self, model: Any) -> Any:
        """A model that is not trained, the weights of its products once in the type that each product would cast them
        to: the same numbers in half the memory."""
        if self.config.casts_to is not None:
            shared = {model.get_output_embeddings(), model.get_input_embeddings()}
            for module in model.modules():
                if type(module) is nn.Linear and module not in shared:
                    module.to(getattr(torch, self.config.casts_to))
        return model

    def _targets(self, lora: Lora) -> targets.Targets:
        config, language = self.config, self._language_model()
        return targets.find(self.base, language, self._language_prefix(), lora, config.train_vision, config.model)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

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
        elif self._start:  # a part of the base is in the adapter
            live = {name: p.data for name, p in self._trained()}
            try:
                for name, parameter in self._trained():
                    parameter.data = self._start[name]
                yield
            finally:
                for name, parameter in self._trained():
                    parameter.data = live[name]
        elif hasattr(self.model, "peft_config"):
            with self.model.disable_adapter():
                yield
        else:
            yield

    # ------------------------------------------------------------------------------------------------------- encoding

    def encode(self, sample: Sample) -> Encoded:
        """A prompt as ids, positions and image tensors; see `Encoder`."""
        return self.encoder(sample)

    def response_ids(self, sample: Sample, response: Response) -> tuple[int, ...]:
        """The tokens of a response to a prompt, with the end of the turn where it is finished; see `Encoder`."""
        return self.encoder.response_ids(sample, response, self.end)

    def decode(self, ids: Sequence[int]) -> str:
        return self.encoder.decode(ids)

    def said(self, text: str) -> str:
        """A decoded response with the mark of thinking that the template wrote before it."""
        return self.encoder.opening + text

    def option_ids(self, option: str) -> list[int]:
        """Every token whose stripped text is `option`."""
        return self.encoder.option_ids(option)

    # ----------------------------------------------------------------------------------------------------- computation

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, matrix products take the type that the config asks for."""
        if self.config.casts_to is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.casts_to))

    def backbone(self, cache: Any = None, **inputs: Any) -> Any:
        """The model below its head: last hidden states, and the cache if one was passed."""
        model = getattr(self.base, self.base.base_model_prefix)
        if cache is not None:
            inputs[_cache_keyword(type(model))] = cache
        self.tokens_read += inputs["input_ids"].numel()
        with self.computing():
            return model(**inputs)

    @property
    def head(self) -> Head:
        """The projection to logits, with its live weights."""
        linear = self.base.get_output_embeddings()
        return Head(linear.weight, linear.bias, self.banned, self.form.softcap, self.form.scale)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """(N, V) in float32 (`exact`), minus infinity at tokens that only prompts may hold."""
        with self.computing():
            return self.head.logits(hidden_NH)

    def pack(self, trees: Sequence[Tree]) -> Pack:
        """Trees laid out for this model; the order of branches is kept."""
        shares = self.sharing and self.within(max((tree.tokens for tree in trees), default=0))
        return pack(trees if shares else [single for tree in trees for single in alone(tree)], self.pad)

    def within(self, tokens: int) -> bool:
        """Whether all layers see all of a row of so many tokens."""
        return self.horizon is None or tokens < self.horizon

    def hidden(self, pack: Pack, places_N: Tensor, cache: Any = None) -> Tensor:
        """Hidden states at the sources or ends of a pack, (N, H); keys and values, as they lie in it, into `cache`."""
        axes = pack.positions_RSL.shape[0]
        read = pack.sources_E if places_N is pack.source_N else pack.ends_E
        out = self.backbone(
            input_ids=pack.ids_SL,
            position_ids=pack.positions_RSL[0] if axes == 1 else pack.positions_RSL,
            cache=cache,
            use_cache=cache is not None,
            **self._attention(pack),
            **self.see(pack.images),
            **self.reading(read, pack.ids_SL.numel()),
        )
        return out.last_hidden_state.flatten(0, 1)[places_N]

    def reading(self, places: Tensor, tokens: int) -> dict[str, Tensor]:
        """Tells the last layer which of the `tokens` flat places will be read, each once, if that spares it enough."""
        spares = self.sparing and self.config.attention == "sdpa" and len(places) <= last_layer.WORTH * tokens
        return {last_layer.KEYWORD: places} if spares else {}

    def _attention(self, pack: Pack) -> dict[str, Any]:
        """How layers attend in a pack: plainly, over trunks and branches, or through a dense mask where some tokens
        see less than all before them, or more."""
        if not self.sharing or not self.within(pack.ids_SL.shape[1]):
            return {"attention_mask": (pack.depth_SL >= 0).long()}
        config = self.base.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        plain = not pack.blocks and not (window and pack.deepest >= window)
        if plain and config._attn_implementation == attention.NAME:
            # A ready-made mask keeps transformers from building its own; the layers go by the tree.
            return {"attention_mask": pack.ids_SL.new_ones(1, 1, 1, 1, dtype=torch.bool), "tree": pack.tree}
        return {"attention_mask": self.mask(visible(pack.segment_SL, pack.block_SL), pack.depth_SL)}

    def mask(self, allow_SLL: Tensor, depth_SL: Tensor) -> Tensor | dict[str, Tensor]:
        """A dense mask as transformers takes it, one per kind of layer where some see a sliding window only."""
        config = self.base.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        masks = {"full_attention": allow_SLL}
        if window and "sliding_attention" in kinds:
            masks["sliding_attention"] = allow_SLL & (depth_SL[:, :, None] - depth_SL[:, None, :] < window)
        ready = {kind: self._mask(masks[kind]) for kind in kinds & masks.keys()}
        return next(iter(ready.values())) if len(ready) == 1 else ready

    def _mask(self, allow_SLL: Tensor) -> Tensor:
        allow = allow_SLL[:, None]
        if self.config.attention == "sdpa":
            return allow
        return torch.zeros_like(allow, dtype=self.base.dtype).masked_fill(~allow, torch.finfo(self.base.dtype).min)

    def see(self, images: Images) -> dict[str, Any]:
        """The backbone's inputs for the images of a batch."""
        with self.computing():
            return images.inputs(getattr(self.base, self.base.base_model_prefix), self.cast)

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image tensors on the model's device and, where they are real numbers, in its dtype."""
        return {k: v.to(self.device, self.base.dtype if v.is_floating_point() else None) for k, v in inputs.items()}

    @overload
    def forward(self, pack: Pack | None) -> Tensor: ...
    @overload
    def forward(self, pack: Pack, ask: Ask) -> Measured: ...
    def forward(self, pack: Pack | None, ask: Ask | None = None) -> Tensor | Measured:
        """log p(token) of every branch token of the pack, (N,) in float32 (`exact`), at temperature 1; with `ask` a
        mapping of `logp` and whatever else is asked for. Of nothing, a zero that depends on every trained weight."""
        if pack is None:
            return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
        wanted = ask or Ask()
        pack = pack.to(self.device)
        hidden_NH = self.hidden(pack, pack.source_N)
        with self.computing():
            found = measure(self.head, hidden_NH, pack.target_N, wanted)
        if wanted.value:
            assert self.value is not None, "start_stage(value=True) comes first"
            found["value"] = self.value(hidden_NH.to(self.value.weight.dtype))[:, 0]
        return found if ask else found["logp"]

    # ---------------------------------------------------------------------------------------------------------- saving

    def save(self, folder: Path) -> None:
        """Writes the weights: a small adapter under LoRA, else a folder that transformers loads as it is."""
        if self.config.lora:
            folder.mkdir(parents=True, exist_ok=True)
            if self._start:
                adapters.save_from(self.model, self._start, folder)
            else:
                adapters.save(self.model, folder)
        else:
            self.save_base(folder)

    def save_base(self, folder: Path) -> None:
        """Writes the model without its adapter, with all that lay beside its weights."""
        saving.save_base(self.base, self.config.model, folder, self.tokenizer, self.image_processor)

    def save_frame(self, folder: Path) -> None:
        """Writes all of that but the weights."""
        saving.save_frame(self.base, self.config.model, folder, self.tokenizer, self.image_processor)


def never(tokenizer: Any, family: Family) -> tuple[int, ...]:
    """Tokens that only prompts may hold."""
    banned = cast("list[int | None]", tokenizer.convert_tokens_to_ids(list(family.never_sampled)))
    return tuple(b for b in banned if b is not None and b != tokenizer.unk_token_id)


@functools.cache
def _cache_keyword(kind: type[nn.Module]) -> str:
    """transformers 5.24 says `cache` where it said `past_key_values`; code that comes with a model may say either."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"
