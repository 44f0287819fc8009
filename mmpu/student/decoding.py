"""Tokens one by one: each prompt is encoded once, its cache is shared by the rows that continue it.

How a token is drawn from logits is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from mmpu.core import UserError
from mmpu.student import attention
from mmpu.student.attention import Prefix
from mmpu.student.packing import Encoded, Tree, share, shown, visible
from mmpu.student.student import Student


@dataclass(frozen=True)
class Decoded:
    """One row, decoded."""

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    finished: bool
    """False where it was cut off by `max_tokens` or the end of the model's context."""
    cut: str | None
    """The text before a stop string, where one ended the row."""


Draw = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]
"""From logits (B, V) and the row of each to tokens and their log-probabilities, (B,)."""


@dataclass
class Decoding:
    """One batch of prompts decoded to the end, `n` rows to each."""

    student: Student
    n: int
    max_tokens: int
    draw: Draw
    stopped: Callable[[Sequence[int]], str | None]
    """The text before a stop string, if tokens have reached one."""
    ends: Set[int]
    """Ids that end a row."""
    alike: bool = False
    """Encode what consecutive prompts begin with once; for one row to each."""
    tokens: list[list[int]] = field(default_factory=list[list[int]])
    logp: list[list[float]] = field(default_factory=list[list[float]])

    def __call__(self, prompts: list[Encoded]) -> list[Decoded]:
        from transformers import DynamicCache

        rows = len(prompts) * self.n
        self.tokens, self.logp = [[] for _ in range(rows)], [[] for _ in range(rows)]
        finished = [False] * rows
        cut: dict[int, str] = {}
        alive = list(range(rows))
        student, device = self.student, self.student.device
        cache = DynamicCache(config=student.base.config.get_text_config())
        prefill = self._prefill_alike if self._can_share(cache) else self._prefill
        hidden, mask, position = prefill(prompts, cache)
        prefix = self._prefix(cache, mask)
        if prefix is not None:
            cache = DynamicCache()
        elif self.n > 1:
            self._repeat(cache)
        mask = None if prefix is not None else mask.repeat_interleave(self.n, 0)
        room = [max((student.encoder.limit or 2**62) - len(p.ids), 1) for p in prompts for _ in range(self.n)]
        for step in range(self.max_tokens):
            token, logp = self.draw(student.logits(hidden), alive)
            still: list[int] = []
            for place, (row, t, lp) in enumerate(zip(alive, token.tolist(), logp.tolist(), strict=True)):
                if finished[row] or step >= room[row]:
                    continue  # ended, but the batch was not worth shrinking for it
                self.tokens[row].append(t)
                self.logp[row].append(lp)
                text = self.stopped(self.tokens[row])
                if text is not None:
                    cut[row] = text
                finished[row] = t in self.ends or text is not None
                if not finished[row] and step + 1 < room[row]:
                    still.append(place)
            if not still or step + 1 == self.max_tokens:
                break
            if len(still) <= 0.75 * len(alive):  # dropping rows copies the cache, so not for every one
                keep = torch.tensor(still, device=device)
                prefix = prefix and prefix.select(still)
                if cache.layers:  # nothing is held before the second token
                    cache.batch_select_indices(keep)
                token, position = token[keep], position[keep]
                mask = None if mask is None else mask[keep]
                alive = [alive[place] for place in still]
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
            hidden = self._step(token, mask, position + step, cache, prefix)
        return [
            Decoded(tuple(self.tokens[row]), tuple(self.logp[row]), finished[row], cut.get(row)) for row in range(rows)
        ]

    def _prefill(self, prompts: list[Encoded], cache: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes left-padded prompts once; returns last hidden and next position, repeated n times, and the mask."""
        length = max(len(p.ids) for p in prompts)
        axes = max(p.positions_RL.shape[0] for p in prompts)
        ids = torch.full((len(prompts), length), self.student.pad)
        mask = torch.zeros(len(prompts), length, dtype=torch.long)
        positions = torch.zeros(axes, len(prompts), length, dtype=torch.long)
        blocks = torch.full((len(prompts), length), -1)
        for i, prompt in enumerate(prompts):
            start = length - len(prompt.ids)
            ids[i, start:] = torch.tensor(prompt.ids)
            mask[i, start:] = 1
            positions[:, i, start:] = prompt.positions_RL
            if prompt.blocks is not None:
                blocks[i, start:] = prompt.blocks
        student, device = self.student, self.student.device
        last = torch.arange(1, len(prompts) + 1, device=device) * length - 1
        attention: Any = mask.to(device)
        if (blocks >= 0).any():
            depth = torch.where(mask > 0, mask.cumsum(1) - 1, -1)
            attention = student.mask(visible(mask - 1, blocks).to(device), depth.to(device))
        out = student.backbone(
            input_ids=ids.to(device),
            attention_mask=attention,
            position_ids=(positions[0] if axes == 1 else positions).to(device),
            cache=cache,
            use_cache=True,
            **student.see(shown(prompts)),
            **student.reading(last, ids.numel()),
        )
        following = torch.tensor([p.next_position for p in prompts])
        self.axes = axes
        return (
            out.last_hidden_state[:, -1].repeat_interleave(self.n, 0),
            mask.to(device),
            following.to(device).repeat_interleave(self.n),
        )

    def _can_share(self, cache: Any) -> bool:
        whole = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
        student = self.student
        return self.alike and self.n == 1 and student.sharing and student.horizon is None and whole

    def _prefill_alike(self, prompts: list[Encoded], cache: Any) -> tuple[Tensor, Tensor, Tensor]:
        """As `_prefill`, over trunks and branches; each prompt is then given its keys and values, left-padded."""
        student, device = self.student, self.student.device
        shared = share(prompts)
        packed = student.pack([Tree(trunk, tuple((*tail, student.pad) for tail in tails)) for trunk, tails in shared])
        packed = packed.to(device)
        hidden = student.hidden(packed, packed.end_M, cache)
        length = packed.ids_SL.shape[1]
        rows: list[Tensor] = []
        for s, (trunk, tails) in enumerate(shared):
            begin, at = torch.arange(len(trunk.ids)), len(trunk.ids)
            for tail in tails:
                rows.append(s * length + torch.cat([begin, torch.arange(at, at + len(tail))]))
                at += len(tail)
        most = max(map(len, rows))
        index_RL = torch.stack([pad(row, (most - len(row), 0)) for row in rows]).to(device)
        mask = torch.stack([pad(torch.ones_like(row), (most - len(row), 0)) for row in rows]).to(device)
        for layer in cache.layers:
            for name in ("keys", "values"):
                flat = getattr(layer, name).transpose(1, 2).flatten(0, 1)
                setattr(layer, name, flat[index_RL].transpose(1, 2).contiguous())
        self.axes = packed.positions_RSL.shape[0]
        following = [trunk.next_position + len(tail) for trunk, tails in shared for tail in tails]
        return hidden, mask, torch.tensor(following, device=device)

    def _repeat(self, cache: Any) -> None:
        try:
            cache.batch_repeat_interleave(self.n)
        except AttributeError as error:
            raise UserError(
                f"it keeps a recurrent state, which transformers cannot copy to {self.n} responses"
            ) from error

    def _prefix(self, cache: Any, mask: Tensor) -> Prefix | None:
        """The prompts, held once for all their responses, where the model's attention can read them so.

        With one response each, what is saved is copying them at every step, and lost if they must be cast first.
        """
        attends = self.student.base.config.get_text_config()._attn_implementation == attention.NAME
        gains = self.n > 1 or self.student.base.dtype == torch.float32
        return Prefix.of(cache, mask, self.n) if self.student.prefixing and attends and gains else None

    def _step(self, token: Tensor, mask: Tensor | None, position: Tensor, cache: Any, prefix: Prefix | None) -> Tensor:
        position_ids = position[:, None]
        more: dict[str, Any] = {"attention_mask": mask}
        if prefix is not None:  # a ready-made mask keeps transformers from building its own; layers go by the prefix
            more = {"attention_mask": token.new_ones(1, 1, 1, 1, dtype=torch.bool), "prefix": prefix}
        out = self.student.backbone(
            input_ids=token[:, None],
            position_ids=position_ids if self.axes == 1 else position_ids.expand(self.axes, -1, -1),
            cache=cache,
            use_cache=True,
            **more,
        )
        return out.last_hidden_state[:, -1]
