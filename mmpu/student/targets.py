"""What an adapter reaches: the linear maps of the language model, fused ones and stacked experts included.

Never the embeddings and the output head, whose products are computed apart from their modules. Routers of experts are
left as they are unless they are named: a low-rank change of theirs moves tokens between experts at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from mmpu.core import UserError
from mmpu.plugins import suggest

if TYPE_CHECKING:
    from mmpu.student.lora import Lora

WANTED = 0.9
"""Below this share of the language model's matrices, an adapter that should reach all of them does not."""
_ROUTER = re.compile(r"\.(gate|router|shared_expert_gate)(\.|$)")
_STATE_SPACE = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Architectures whose fused kernels read `out_proj` past its module; peft refuses it there."""


@dataclass(frozen=True)
class Targets:
    """Which parts of a model its adapter changes."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    """Stacked weights of experts (experts, out, in), for peft's `target_parameters`."""
    saved: tuple[str, ...]
    """Modules that are trained as a whole."""
    share: float
    """Of the numbers in the language model's matrices, embeddings and head apart."""
    left: tuple[str, ...]
    """Kinds of matrices that are not reached, the largest first."""

    def __str__(self) -> str:
        stacked = f" and {len(self.parameters)} stacks of experts" if self.parameters else ""
        left = f"; not {', '.join(self.left[:6])}" if self.left else ""
        return (
            f"adapters on {len(self.modules)} modules{stacked}, {self.share:.1%} of the language model's matrices{left}"
        )


def find(model: Any, language: nn.Module, prefix: str, lora: Lora, vision: bool, name: str) -> Targets:
    """What `student.lora` asks for in a model of transformers.

    Args:
        language: The language model within `model`, at `prefix`.
        vision: Reach the vision tower and the projector too.
        name: The model's, for errors.

    Raises:
        UserError: a target is nowhere, or cannot be adapted.
    """
    matrices = dict(_matrices(model))
    inside = {n: size for n, size in matrices.items() if not prefix or n.startswith(f"{prefix}.")}
    reach = matrices if vision else inside
    linear, stacked = _adaptable(model)
    reachable = [n for n in reach if n in linear or n in stacked]
    saved = _named("modules_to_save", lora.modules_to_save, _modules(model, prefix, vision), name)
    if isinstance(lora.targets, str):
        chosen = [n for n in reachable if n not in _routers(model) and not _fused_state_space(model, n)]
    else:
        chosen = _named("targets", lora.targets, reachable, name)
    chosen = [n for n in chosen if not any(n == s or n.startswith(f"{s}.") for s in saved)]
    whole = {n for n in inside if any(n == s or n.startswith(f"{s}.") for s in saved)}
    done = set(chosen) | whole
    left: dict[str, int] = {}
    for each, size in inside.items():
        if each not in done:
            kind = each.rsplit(".", 1)[-1]
            kind = each.rsplit(".", 2)[-2] if kind == "weight" else kind
            left[kind] = left.get(kind, 0) + size
    total = sum(inside.values())
    return Targets(
        tuple(n for n in chosen if n in linear),
        tuple(n for n in chosen if n in stacked),
        tuple(saved),
        sum(inside.get(n, 0) for n in done) / max(1, total),
        tuple(sorted(left, key=lambda kind: -left[kind])),
    )


def _matrices(model: Any) -> Iterator[tuple[str, int]]:
    """Every linear map of a model by its module's name, every other matrix by its own, with its size."""
    from transformers.pytorch_utils import Conv1D

    apart = {id(p) for p in model.get_input_embeddings().parameters()}
    apart |= {id(p) for p in model.get_output_embeddings().parameters()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or module is model.get_output_embeddings():
            continue
        if isinstance(module, nn.Linear):
            yield name, module.in_features * module.out_features
        elif isinstance(module, Conv1D):
            yield name, module.weight.numel()
        else:
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1 and id(parameter) not in apart and "bias" not in own:
                    yield f"{name}.{own}", parameter.numel()


def _adaptable(model: Any) -> tuple[set[str], set[str]]:
    """Names of the modules, and of the stacked parameters, that peft wraps."""
    from transformers.pytorch_utils import Conv1D

    linear: set[str] = set()
    stacked: set[str] = set()
    fused: list[str] = []  # MultiheadAttention reads its output projection past the module
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            fused.append(f"{name}.")
        elif isinstance(module, nn.Linear | Conv1D) and not name.startswith(tuple(fused) or ("\0",)):
            linear.add(name)
        elif not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Embedding):
            stacked |= {
                f"{name}.{own}"
                for own, p in module.named_parameters(recurse=False)
                if p.ndim == 3 and p.is_floating_point() and min(p.shape) > 1
            }
    return linear, stacked


def _routers(model: Any) -> set[str]:
    """Linear maps that choose experts: named so, beside what they choose from."""
    blocks = {name for name, module in model.named_modules() if hasattr(module, "experts")}
    blocks |= {name.rsplit(".", 2)[0] for name in _adaptable(model)[1]}

    def above(name: str) -> set[str]:
        parent = name.rpartition(".")[0]
        return {parent, parent.rpartition(".")[0]}

    return {n for n, _ in model.named_modules() if _ROUTER.search(n) and above(n) & blocks}


def _fused_state_space(model: Any, name: str) -> bool:
    return model.config.get_text_config().model_type in _STATE_SPACE and name.endswith("out_proj")


def _modules(model: Any, prefix: str, vision: bool) -> list[str]:
    """Names that `modules_to_save` may go by: what has weights of its own, and is no embedding and no head."""
    heads = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [
        name
        for name, module in model.named_modules()
        if (vision or not prefix or name.startswith(f"{prefix}."))
        and id(module) not in heads
        and next(module.parameters(), None) is not None
        and not any(id(child) in heads for child in module.modules())
    ]


def _named(key: str, wanted: tuple[str, ...], known: list[str], model: str) -> list[str]:
    """Those names that end in one of the wanted ones.

    Raises:
        UserError: nothing ends in one of them.
    """
    found: dict[str, None] = {}
    lacking: list[str] = []
    for each in wanted:
        here = [name for name in known if name == each or name.endswith(f".{each}")]
        found.update(dict.fromkeys(here))
        lacking += [] if here else [each]
    if lacking:
        short = {name.rsplit(".", 1)[-1] for name in known if not name.rsplit(".", 1)[-1].isdecimal()}
        near = "; ".join(f"{each}: {suggest(each, short)}" for each in lacking)
        raise UserError(
            f"student.lora.{key}: no layer of {model} that can be adapted is named {', '.join(lacking)} ({near}); "
            "`targets: all-linear` takes every linear layer of the language model, embeddings and head never"
        )
    return list(found)
