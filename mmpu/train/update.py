"""One optimiser step: rows → per-token quantities → the method's loss → gradient, exact at any micro-batch size.

Losses couple rows (a listwise KL, a pair, a batch-wide denominator), so a group is never split silently. Whole groups
that fit the token budget go through in one pass each micro-batch; a group that is too large takes the exact two-pass
form: quantities without gradient, dL/dquantity from the pure loss, then the model again piece by piece with those
coefficients. Denominators are those of the whole step over all processes, so neither micro-batching nor the number of
processes changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.losses import kl_per_token
from mmpu.student import SPARE, TRAINING, Student, Tree, within_budget
from mmpu.train import importance, sharding
from mmpu.train.measure import Measure, Piece
from mmpu.train.optim import Optim
from mmpu.train.shadow import Shadow

Totals = tuple[float, float, float]


@dataclass(frozen=True)
class Prepared:
    """A rollout on its way through its updates: pieces with what is known of them, and the step's denominators."""

    parts: tuple[tuple[list[Piece], Totals, float], ...]
    """Pieces of each part of the step, their denominators over all processes, and the part's share of the loss."""

    @property
    def empty(self) -> bool:
        """True if no process has anything to learn from."""
        return all(totals[0] == 0 for _, totals, _ in self.parts)


@dataclass(frozen=True)
class Updater:
    """Holds what a stage's updates share.

    Args:
        wrapped: The student as `sharding.prepare` gave it; passes with gradient go through it.
        shadow: The method's second set of weights.
        temperature: At which responses were sampled; ratios and divergences are taken there too.
        shares: Weights of the parts of a step, by the index that rows carry.
        refused: Is told the step and the rows whose loss was not finite when an update had to be refused.
    """

    student: Student
    wrapped: Any
    optimizer: Any
    method: Method
    optim: Optim
    accelerator: Accelerator
    shadow: Shadow | None = None
    temperature: float = 1.0
    shares: tuple[float, ...] = (1.0,)
    refused: Callable[[int, Sequence[Row]], None] | None = None

    def __call__(
        self, groups: Sequence[Sequence[Row]], step: int, steps: int, mean_score: float = 0.0, kl: bool = False
    ) -> dict[str, float]:
        """Prepares the rows of this process's groups and trains on them `optim.updates` times.

        Args:
            mean_score: Moving average of the scores of earlier steps.
            kl: Measure the KL to the stage's start even if the method does not need it.

        Returns:
            Diagnostics that add up over processes, means over the updates.
        """
        prepared = self.prepare(groups, mean_score, kl)
        sums: dict[str, float] = {}
        for _ in range(self.optim.updates):
            for name, value in self.update(prepared, step, steps, mean_score).items():
                sums[name] = sums.get(name, 0.0) + value / self.optim.updates
        return sums

    def prepare(self, groups: Sequence[Sequence[Row]], mean_score: float = 0.0, kl: bool = False) -> Prepared:
        """What stays the same over a rollout's updates: reference, teacher, old values, and weights made of them."""
        runs = [run for rows in groups for run in _by_prompt(rows)]
        pieces = [Piece(self._measure.tree(rows), tuple(rows)) for rows in runs]
        parts = [
            self._part([piece for piece in pieces if piece.rows[0].part == number], share, mean_score, kl)
            for number, share in enumerate(self.shares)
        ]
        return Prepared(tuple(parts))

    def _part(
        self, pieces: list[Piece], share: float, mean_score: float, kl: bool
    ) -> tuple[list[Piece], Totals, float]:
        totals = self._totals(pieces)
        if totals[0] == 0:
            return [], totals, share
        compares = "old_logp" in self.method.needs and (self.optim.updates > 1 or self.method.reads_old)
        pieces = self._measure.known(pieces, kl, compares)
        with torch.no_grad():
            batch = self._batch(pieces, totals, mean_score)
            batch, _ = self._own(batch, pieces)
            old = batch.old_logp_BT
            old = torch.zeros_like(batch.mask_BT, dtype=self.student.exact) if old is None else old
            weight_BT = self.method.prepare(self._quantities({"logp": old}, pieces, batch), batch, self._total)
        if weight_BT is None:
            return pieces, totals, share
        lengths = [len(branch) for piece in pieces for branch in piece.tree.branches]
        per_row = iter([weight[:length] for weight, length in zip(weight_BT, lengths, strict=True)])
        weighed = [replace(p, known={**p.known, "weight": [next(per_row) for _ in p.rows]}) for p in pieces]
        return weighed, totals, share

    def update(self, prepared: Prepared, step: int, steps: int, mean_score: float = 0.0) -> dict[str, float]:
        """One optimiser step; a gradient that is not finite changes nothing and is reported as `refused`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.rate(step, steps)
        if prepared.empty:
            return {"loss": 0.0}
        found: dict[str, Tensor] = {}
        self.wrapped.train()
        with self.accelerator.no_sync(self.wrapped):
            for pieces, totals, share in prepared.parts:
                for chunk in self._plan(pieces):
                    for name, value in self._backward(chunk, totals, share, mean_score).items():
                        before = found.get(name, torch.zeros_like(value))
                        greatest = name == importance.GREATEST
                        found[name] = torch.maximum(before, value) if greatest else before + share * value
        sums = self._numbers(found)
        with sharding.stepping(self.wrapped, self.accelerator):
            clipped: Any = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.optim.clip or math.inf)
            norm = float(sharding.whole(clipped))
            if math.isfinite(norm):
                self.optimizer.step()
        if math.isfinite(norm):
            self.student.version += 1
        else:
            sums["refused"] = 1.0 / self.accelerator.num_processes
            if self.refused is not None:
                self.refused(step, self._offending(prepared, mean_score))
        self.optimizer.zero_grad(set_to_none=True)
        self.wrapped.eval()
        return sums | {"grad_norm": norm / self.accelerator.num_processes}

    def _numbers(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Diagnostics that add up over processes, in one transfer."""
        found = dict(found)
        if "old_logp" in self.method.needs:  # a process without rows asks, too
            own = found.get(importance.GREATEST, torch.zeros((), dtype=self.student.exact, device=self.student.device))
            every: Any = self.accelerator.gather(own[None])
            found[importance.GREATEST] = every.max() / self.accelerator.num_processes
        values = torch.stack([value.double() for value in found.values()]).tolist() if found else []
        return dict(zip(found, values, strict=True))

    @cached_property
    def _measure(self) -> Measure:
        return Measure(self.student, self.method, self.optim.tokens_per_pass, self.temperature, self.shadow)

    def _total(self, value: Tensor) -> Tensor:
        summed: Any = self.accelerator.reduce(value, "sum")
        return summed

    def _totals(self, pieces: Sequence[Piece]) -> Totals:
        """Groups, rows and completion tokens of the step, over all processes."""
        tokens = sum(len(branch) for piece in pieces for branch in piece.tree.branches)
        local = [len(pieces), sum(len(piece.rows) for piece in pieces), tokens]
        if self.accelerator.num_processes == 1:
            return float(local[0]), float(local[1]), float(local[2])
        groups, rows, tokens = self._total(torch.tensor(local, device=self.accelerator.device)).tolist()
        return groups, rows, tokens

    def _plan(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """Micro-batches of whole groups, similar sizes together; an oversize group is a micro-batch of its own. The
        largest come first: what does not fit shows at once, and the memory that they free holds the others."""
        by_size = sorted(pieces, key=lambda piece: piece.tree.tokens)
        return within_budget(by_size, lambda piece: piece.tree.tokens, self.optim.tokens_per_pass)[::-1]

    def _backward(self, chunk: Sequence[Piece], totals: Totals, share: float, mean_score: float) -> dict[str, Tensor]:
        batch = self._batch(chunk, totals, mean_score)
        scale = share * self.accelerator.num_processes  # processes' gradients are averaged; ours must add up
        trees = [piece.tree for piece in chunk]
        if len(trees) > 1 or trees[0].tokens <= self.optim.tokens_per_pass:
            rows = [row for piece in chunk for row in piece.rows]
            live = self._measure.live(self.wrapped, trees, rows, batch.mask_BT.shape[1], TRAINING)
            loss, metrics = self._loss(live, chunk, batch)
            self.accelerator.backward(loss * scale)
        else:
            loss, metrics = self._two_passes(chunk[0], batch, scale)
        return {"loss": loss.detach(), **{name: value.detach() for name, value in metrics.items()}}

    def _two_passes(self, piece: Piece, batch: Batch, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
        width = batch.mask_BT.shape[1]
        parts = self._parts(piece)
        live = {name: value.requires_grad_() for name, value in self._seen(piece, width).items()}
        loss, metrics = self._loss(live, [piece], batch)
        found = torch.autograd.grad(loss, list(live.values()), allow_unused=True, materialize_grads=True)
        coefficients = dict(zip(live, found, strict=True))
        fresh = self._lay_out_gradients()
        # The largest first: the memory that it frees holds every other.
        for tree, rows in sorted(parts, key=lambda part: -part[0].tokens):
            again = self._measure.live(self.wrapped, [tree], piece.rows[rows], width, SPARE)
            products = [(again[name] * coefficients[name][rows]).sum() for name in again]
            self.accelerator.backward(torch.stack(products).sum() * scale)
        for parameter in fresh:
            if parameter.grad is not None and parameter.grad._version == 0:  # nothing was added
                parameter.grad = None
        return loss.detach(), metrics

    def _lay_out_gradients(self) -> list[torch.nn.Parameter]:
        """Makes the gradients that passes will add to, beside each other; made in between, among activations, they
        leave the memory of a pass in pieces that the next cannot use. Returns the parameters that had none."""
        fresh = [p for p in self.wrapped.parameters() if p.requires_grad and p.grad is None]
        for parameter in fresh:
            parameter.grad = torch.zeros_like(parameter)
        return fresh

    def _parts(self, piece: Piece) -> list[tuple[Tree, slice]]:
        """The piece's branches in trees within the budget, and which of its rows each holds."""
        parts: list[tuple[Tree, slice]] = []
        for tree in self._measure.split(piece.tree):
            start = parts[-1][1].stop if parts else 0
            parts.append((tree, slice(start, start + len(tree.branches))))
        return parts

    def _seen(self, piece: Piece, width: int) -> dict[str, Tensor]:
        """A piece's quantities, without gradient."""
        with torch.no_grad():
            measured = [
                self._measure.live(self.student, [tree], piece.rows[rows], width) for tree, rows in self._parts(piece)
            ]
        return {name: torch.cat([m[name] for m in measured]) for name in measured[0]}

    def _offending(self, prepared: Prepared, mean_score: float) -> list[Row]:
        """The rows of groups whose own loss is not finite; of all groups if only their gradient is not."""
        blamed: list[Row] = []
        for pieces, totals, _ in prepared.parts:
            for piece in pieces:
                batch = self._batch([piece], totals, mean_score)
                with torch.no_grad():
                    loss, _ = self._loss(self._seen(piece, batch.mask_BT.shape[1]), [piece], batch)
                if not math.isfinite(loss.item()):
                    blamed += piece.rows
        return blamed or [row for pieces, *_ in prepared.parts for piece in pieces for row in piece.rows]

    def _loss(
        self, live: Mapping[str, Tensor], chunk: Sequence[Piece], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch, gap = self._own(batch, chunk, live["logp"].detach())
        quantities = self._quantities(live, chunk, batch)
        loss, metrics = self.method.loss(quantities, batch)
        metrics = metrics | gap
        if quantities.ref_logp_BT is not None:
            k3_BT = kl_per_token("k3", quantities.logp_BT.detach(), quantities.ref_logp_BT) * batch.mask_BT
            metrics = metrics | {"kl_ref": k3_BT.sum() / batch.total_tokens}
        return loss, metrics

    def _own(
        self, batch: Batch, pieces: Sequence[Piece], now_BT: Tensor | None = None
    ) -> tuple[Batch, dict[str, Tensor]]:
        """The batch with the trainer's old log-probabilities: those measured before, else, at a rollout's only update,
        those of now."""
        if batch.old_logp_BT is None:
            return batch, {}
        known = [row for piece in pieces for row in piece.old or ()]
        if known:
            now_BT = _padded(known, batch.old_logp_BT[:0])
        return (batch, {}) if now_BT is None else importance.against(batch, now_BT, self.optim.importance_cap)

    def _quantities(self, live: Mapping[str, Tensor], pieces: Sequence[Piece], batch: Batch) -> Quantities:
        width = batch.mask_BT.shape[1]
        names = pieces[0].known if pieces else self._measure.names  # without rows a process still takes part
        empty = torch.zeros(0, width, dtype=self.student.exact, device=self.student.device)
        known = {f"{n}_BT": _padded([row for p in pieces for row in p.known[n]], empty) for n in names}
        return Quantities(**{f"{name}_BT": value for name, value in live.items()}, **known)

    def _batch(self, pieces: Sequence[Piece], totals: Totals, mean_score: float) -> Batch:
        lengths = [len(branch) for piece in pieces for branch in piece.tree.branches]
        rows = [row for piece in pieces for row in piece.rows]
        group = [g for g, piece in enumerate(pieces) for _ in piece.rows]
        first = [group.index(g) for g in group]
        mask_BT = torch.arange(max(lengths, default=1))[None] < torch.tensor(lengths, dtype=torch.long)[:, None]
        old, exact = None, self.student.exact
        if "old_logp" in self.method.needs:
            old = torch.zeros(mask_BT.shape, dtype=exact)
            for b, row in enumerate(rows):
                assert len(row.response.logp) == lengths[b], "a row without the sampler's log-probabilities"
                old[b, : lengths[b]] = torch.tensor(row.response.logp, dtype=exact)
        pairs = [(b, first[b] + other) for b, row in enumerate(rows) for other in row.beats]
        device = self.student.device
        return Batch(
            mask_BT.to(device),
            torch.tensor([row.weight for row in rows], dtype=exact, device=device),
            torch.tensor(group, dtype=torch.long, device=device),
            len(pieces),
            None if old is None else old.to(device),
            *totals,
            score_B=torch.tensor([row.score for row in rows], dtype=exact, device=device),
            context_B=torch.tensor([row.context is not None for row in rows], dtype=torch.bool, device=device),
            pairs_P2=torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2),
            mean_score=mean_score,
        )


def _by_prompt(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of a group, those with one prompt together: the turns of a conversation have one each."""
    assert len({row.sample.id for row in rows}) <= 1, "rows of several prompts in one group"
    return [list(run) for _, run in groupby(rows, lambda row: row.sample.prompt)]


def _padded(rows: Sequence[Tensor], empty: Tensor) -> Tensor:
    """(rows, width), zero behind each row's end, as `empty` (0, width) is held."""
    result = empty.new_zeros(len(rows), empty.shape[1])
    for b, row in enumerate(rows):
        result[b, : len(row)] = row
    return result
