"""What transformers alone computes with a model, before mmpu has put a hand on it: the other side of the self-check.

Attention is transformers' eager one, which leaves out nothing (SDPA drops soft-capping, for one), sequences are single
and unpadded, positions and masks the model's own.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mmpu.core import UserError
from mmpu.student.packing import Encoded, Tree

T = TypeVar("T")
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)
"""What a model raises that is asked for something it does not do."""
DRAWN = (5, 9)
"""Lengths of the drawn continuations of a prompt."""
SAID = 6
"""Tokens of the likeliest one."""
COMPARED = 2**22
"""Numbers of a model's parameters, the smallest ones first, whose gradients are compared."""


E = TypeVar("E", bound=Exception)
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def within_memory(error: E) -> E:
    """The error of a model that was tried.

    Raises:
        UserError: there was too little memory to try it, which tells nothing of the model.
    """
    if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _MEMORY):
        raise UserError(
            f"there is too little memory to check the model with two short prompts ({str(error).splitlines()[0]}); it "
            "cannot be trained here either. Take a smaller one, LoRA over `dtype: bfloat16`, or free the device"
        ) from error
    return error


@dataclass(frozen=True, eq=False)
class Expected:
    """A prompt with continuations: two drawn, then the likeliest one."""

    tree: Tree
    logp_N: Tensor
    """Of every token of every continuation."""
    tie: float
    """Smallest lead, in nats, of a token of the likeliest continuation."""
    generated: bool
    """False where `generate` says something else than `forward` finds likeliest, or raises."""


@dataclass(frozen=True, eq=False)
class Untouched:
    """What a model is held against."""

    prompts: tuple[Expected, ...]
    gradients: dict[str, Tensor]
    """Of the sum of all log-probabilities."""
    largest: float
    """Size of the largest logit, which half types round to a part of it."""


class Alone:
    """A model as transformers loaded it.

    Args:
        cast: Moves image tensors to the model's device and dtype.
        banned: Tokens that have no probability.
    """

    def __init__(self, model: Any, image: int | None, banned: tuple[int, ...], ordinary: list[int]) -> None:
        self.model = model
        self.image = image
        self.banned = banned
        self.ordinary = ordinary
        self.device = model.get_input_embeddings().weight.device
        self.largest = 0.0

    def measured(self, prompts: list[Encoded]) -> Untouched:
        generator = torch.Generator().manual_seed(0)
        with _eager(self.model), _bare(self.model):
            found = [self._prompt(prompt, generator) for prompt in prompts]
            chosen = compared(self.model)
            total = torch.stack([self.logp(e.tree.trunk, b).sum() for e in found for b in e.tree.branches]).sum()
            slopes = torch.autograd.grad(total, list(chosen.values()), allow_unused=True)
            gradients = cast(tuple[Tensor | None, ...], slopes)
        kept = {n: g.detach() for n, g in zip(chosen, gradients, strict=True) if g is not None}
        return Untouched(tuple(found), kept, self.largest)

    def _prompt(self, prompt: Encoded, generator: torch.Generator) -> Expected:
        drawn = [torch.randint(len(self.ordinary), (n,), generator=generator).tolist() for n in DRAWN]
        branches = [tuple(self.ordinary[i] for i in branch) for branch in drawn]
        with torch.no_grad():
            said, tie = self._likeliest(prompt)
            tree = Tree(prompt, (*branches, said))
            logp = torch.cat([self.logp(prompt, branch) for branch in tree.branches])
            return Expected(tree, logp, tie, self._generated(prompt) == said)

    def _likeliest(self, prompt: Encoded) -> tuple[tuple[int, ...], float]:
        said: tuple[int, ...] = ()
        tie = float("inf")
        while len(said) < SAID:
            best = self.logits(prompt, (*said, 0))[-1].topk(2)
            said = (*said, int(best.indices[0]))
            tie = min(tie, float(best.values[0] - best.values[1]))
        return said, tie

    def _generated(self, prompt: Encoded) -> tuple[int, ...]:
        """By `generate`, with its cache."""
        from transformers import GenerationConfig

        ids = torch.tensor([prompt.ids], device=self.device)
        plain = GenerationConfig(
            max_new_tokens=SAID, do_sample=False, pad_token_id=0, suppress_tokens=list(self.banned) or None
        )
        self.model.generation_config = plain
        try:
            mask = torch.ones_like(ids)
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=plain, **self._inputs(prompt, ids)
            )
        except FAILURES as error:
            within_memory(error)
            return ()
        return tuple(out[0, ids.shape[1] :].tolist())

    def logits(self, prompt: Encoded, branch: tuple[int, ...]) -> Tensor:
        """(len(branch), V), of the tokens of a branch."""
        ids = torch.tensor([prompt.ids + branch], device=self.device)
        out = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **self._inputs(prompt, ids)
        ).logits
        self.largest = max(self.largest, float(out.detach().abs().max()))
        logits = out[0, len(prompt.ids) - 1 : -1].to(torch.promote_types(out.dtype, torch.float32))
        if not self.banned:
            return logits
        return logits.index_fill(1, torch.tensor(self.banned, device=logits.device), float("-inf"))

    def logp(self, prompt: Encoded, branch: tuple[int, ...]) -> Tensor:
        logp = self.logits(prompt, branch).double().log_softmax(-1)
        return logp.gather(1, torch.tensor(branch, device=logp.device)[:, None])[:, 0]

    def _inputs(self, prompt: Encoded, ids: Tensor) -> dict[str, Any]:
        dtype = self.model.dtype
        media = {k: v.to(self.device, dtype if v.is_floating_point() else None) for k, v in prompt.media.items()}
        if self.image is not None:
            for name in ("mm_token_type_ids", "token_type_ids"):
                if name in inspect.signature(self.model.forward).parameters:
                    media[name] = (ids == self.image).int()
        return media


def compared(model: Any) -> dict[str, Tensor]:
    """The parameters whose gradients are compared, by name."""
    found: dict[str, Tensor] = {}
    room = COMPARED
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[1].numel()):
        if not parameter.is_floating_point() or not parameter.requires_grad:
            continue
        if found and parameter.numel() > room:
            break
        room -= parameter.numel()
        found[name] = parameter
    return found


@contextlib.contextmanager
def _eager(model: Any) -> Generator[None]:
    """Inside, attention is eager wherever transformers lets it be chosen."""
    configs: dict[int, Any] = {
        id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")
    }
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    for config in configs.values():
        config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name


@contextlib.contextmanager
def _bare(model: Any) -> Generator[None]:
    """Inside, nothing is dropped, and what is done to the model's generation config is undone."""
    training, config = model.training, getattr(model, "generation_config", None)
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        model.generation_config = config
