"""What a config says of the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mmpu.core import UserError
from mmpu.knobs import MAY_CHANGE
from mmpu.student.lora import Lora


@dataclass(frozen=True)
class StudentConfig:
    """Which model, and how it is held."""

    model: str
    """A bundled student (`tiny-text`, `tiny-vl`), a folder, a GGUF file, or a hub id."""
    lora: Lora | None = None
    """None trains all weights of the language model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights. Training all of them takes float32, since half types lose small updates; see `autocast`."""
    autocast: Literal["bfloat16"] | None = None
    """Computes in this type, for training and sampling alike, while weights and optimiser keep `dtype`. Adapters over a
    bfloat16 base compute so in any case: their own weights are float32."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """`auto` takes a GPU where there is one; else as torch names it, `cuda:1`, `cpu`."""
    device_map: Annotated[str | None, MAY_CHANGE] = None
    """Spreads the layers over devices as accelerate does (`auto`, `balanced`); takes the place of `device`."""
    quantize: Literal["4bit"] | None = None
    """Holds the base's linear layers in NF4 (bitsandbytes, CUDA only); needs `lora`."""
    attention: str = "sdpa"
    """transformers' `attn_implementation`."""
    gradient_checkpointing: Annotated[bool | None, MAY_CHANGE] = None
    """Compute activations again in the backward pass instead of keeping them. None: on CUDA, where memory is short."""
    train_vision: bool = False
    """Also train the vision tower and the projector."""
    template: Literal["chat", "completion"] = "chat"
    """`completion` concatenates the prompt's texts, for models without a chat template."""
    template_options: dict[str, Any] | None = None
    """Further variables of the chat template; thinking is off unless switched on here."""
    trust_remote_code: bool = False
    """Let Python run that comes with the model."""

    def __post_init__(self) -> None:
        if self.quantize and not self.lora:
            raise UserError("student.quantize holds weights that cannot be trained; set student.lora as well")
        if self.quantize and self.lora and self.lora.init != "default":
            raise UserError(
                f"student.lora.init={self.lora.init} takes a part off the base's weights, which student.quantize holds "
                "in four bits; leave one out"
            )
        if self.autocast and self.dtype != "float32":
            raise UserError(f"student.autocast casts from float32 and not from {self.dtype}; set it or student.dtype")

    @property
    def computes_in(self) -> str:
        """The type of matrix products, of base, adapters and head, whatever the sharding."""
        return self.autocast or self.dtype

    @property
    def casts_to(self) -> str | None:
        """The type that products are cast to where weights have another."""
        return "bfloat16" if self.lora and self.dtype == "bfloat16" else self.autocast

    def checkpoints_on(self, device: str) -> bool:
        """Whether activations are computed again on a type of device."""
        return device == "cuda" if self.gradient_checkpointing is None else self.gradient_checkpointing
