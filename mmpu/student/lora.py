"""What a config says of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from mmpu.core import UserError


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model's projections."""

    r: Annotated[int, Interval(ge=1, le=8192)] = 64
    """Rank."""
    alpha: Annotated[int, Interval(ge=1, le=10**6)] = 128
    """The adapter is scaled by alpha / r."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Stays 0 in training: with a dropped unit two forwards of one response do not agree."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """`all-linear`: every linear layer of the language model, experts included, routers not; or ends of their names."""
    init: Literal["default", "olora", "pissa"] = "default"
    """`olora` and `pissa` start from the weights' own directions (QR, SVD), taken off the base while training."""
    dora: bool = False
    """Learn directions and magnitudes apart."""
    rslora: bool = False
    """Scale by alpha / √r, so that the rank does not change the step."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of names of modules that are trained as a whole, such as `norm`; embeddings and head cannot be."""

    def __post_init__(self) -> None:
        if self.init != "default" and self.dora:
            raise UserError(
                f"student.lora: `dora` measures the base's magnitudes, of which init: {self.init} takes a part off; "
                "keep one"
            )
