"""One optimiser step: rows → log-probabilities → the method's loss → gradient, exact at any micro-batch size.

Losses couple rows (a listwise KL, a batch-wide denominator), so a group is never split silently. Whole groups that
fit the token budget go through in one pass each micro-batch; a group that is too large takes the exact two-pass form:
log-probabilities without gradient, dL/dlogp from the pure loss, then the model again piece by piece with those
coefficients. Denominators are those of the whole step over all processes, so neither micro-batching nor the number of
processes changes the gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpu.core import Batch, Method, Quantities, Row, UserError
from mmpu.packing import Tree, within_budget
from mmpu.student import Student


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule."""

    lr: float = 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    """Share of the stage's steps."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    """Largest gradient norm."""
    tokens_per_pass: int = 16384
    """Padded tokens of one forward and backward pass; bounds memory, changes nothing else."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, a pure function, so that resuming needs no scheduler state."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
        return self.lr * shape[self.schedule]

    def build(self, student: Student) -> torch.optim.Optimizer:
        trainable = [p for p in student.parameters() if p.requires_grad]
        return torch.optim.AdamW(trainable, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


Pieces = list[tuple[Tree, list[Row]]]


@dataclass(frozen=True)
class Updater:
    """Holds what a stage's updates share.

    Args:
        wrapped: The student as accelerate prepared it; gradients are synchronised through it.
    """

    student: Student
    wrapped: Any
    optimizer: Any
    method: Method
    optim: Optim
    accelerator: Accelerator

    def __call__(self, groups: Sequence[Sequence[Row]], step: int, steps: int) -> dict[str, float]:
        """Trains on the rows of this process's groups; returns diagnostics that add up over processes.

        A step whose gradient is not finite changes nothing and is reported as `refused`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.rate(step, steps)
        pieces = [(self._tree(rows), list(rows)) for rows in groups if rows]
        totals = self._totals(pieces)
        if totals[0] == 0:  # nothing to learn from in any process
            return {"loss": 0.0}
        sums: dict[str, float] = {}
        self.wrapped.train()
        passes = self._plan(pieces)
        for index, chunk in enumerate(passes):
            with self._synchronised(index + 1 == len(passes)):
                for name, value in self._backward(chunk, totals).items():
                    sums[name] = sums.get(name, 0.0) + value
        clipped: Any = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.optim.clip)
        norm = float(clipped)
        if math.isfinite(norm):
            self.optimizer.step()
            self.student.version += 1
        else:
            sums["refused"] = 1.0 / self.accelerator.num_processes
        self.optimizer.zero_grad(set_to_none=True)
        self.wrapped.eval()
        return sums | {"grad_norm": norm / self.accelerator.num_processes}

    def _tree(self, rows: Sequence[Row]) -> Tree:
        assert len({row.sample.id for row in rows}) == 1, "rows of several prompts in one group"
        return Tree(self.student.encode(rows[0].sample), tuple(self.student.response_ids(row.response) for row in rows))

    def _totals(self, pieces: Pieces) -> tuple[float, float, float]:
        """Groups, rows and completion tokens of the step, over all processes."""
        local = torch.tensor(
            [
                len(pieces),
                sum(len(rows) for _, rows in pieces),
                sum(len(b) for tree, _ in pieces for b in tree.branches),
            ],
            dtype=torch.float64,
        )
        summed: Any = self.accelerator.reduce(local.to(self.accelerator.device).float(), "sum")
        groups, rows, tokens = summed.tolist()
        return groups, rows, tokens

    def _plan(self, pieces: Pieces) -> list[Pieces]:
        """Micro-batches of whole groups, similar sizes together; an oversize group is a micro-batch of its own.

        A process without rows takes part with an empty micro-batch, since the others wait for its gradients.
        """
        by_size = sorted(pieces, key=lambda piece: piece[0].tokens)
        return within_budget(by_size, lambda piece: piece[0].tokens, self.optim.tokens_per_pass) or [[]]

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped)

    def _backward(self, chunk: Pieces, totals: tuple[float, float, float]) -> dict[str, float]:
        if not chunk:
            zero = sum(p.sum() for p in self.student.parameters() if p.requires_grad) * 0.0
            self.accelerator.backward(zero)
            return {}
        trees = [tree for tree, _ in chunk]
        batch = self._batch(chunk, totals)
        reference = self._reference(trees, batch)
        scale = self.accelerator.num_processes  # processes' gradients are averaged; ours must add up
        if len(trees) > 1 or trees[0].tokens <= self.optim.tokens_per_pass:
            logp_BT = self._logp(self.wrapped, trees, batch)
            loss, metrics = self.method.loss(Quantities(logp_BT, reference), batch)
            self.accelerator.backward(loss * scale)
        else:
            loss, metrics = self._two_passes(trees[0], batch, reference, scale)
        return {"loss": loss.item(), **{name: float(value) for name, value in metrics.items()}}

    def _two_passes(
        self, tree: Tree, batch: Batch, reference: Tensor | None, scale: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pieces = self._split(tree)
        with torch.no_grad():
            logp_BT = torch.cat([self._logp(self.student, [p], batch) for p in pieces])
        logp_BT.requires_grad_(True)
        loss, metrics = self.method.loss(Quantities(logp_BT, reference), batch)
        (coefficient_BT,) = torch.autograd.grad(loss, logp_BT)
        row = 0
        for piece in pieces:
            here = coefficient_BT[row : row + len(piece.branches)]
            row += len(piece.branches)
            with self._synchronised(row == len(coefficient_BT)):
                self.accelerator.backward((self._logp(self.wrapped, [piece], batch) * here).sum() * scale)
        return loss.detach(), metrics

    def _split(self, tree: Tree) -> list[Tree]:
        """The same branches in pieces within the budget."""
        budget, trunk = self.optim.tokens_per_pass, len(tree.trunk.ids)
        pieces: list[list[tuple[int, ...]]] = []
        used = budget + 1
        for branch in tree.branches:
            if trunk + len(branch) > budget:
                raise UserError(
                    f"optim.tokens_per_pass={budget} is too small for a prompt of {trunk} tokens with a response of "
                    f"{len(branch)}; set at least {trunk + len(branch)}"
                )
            used += len(branch)
            if used > budget:
                pieces.append([])
                used = trunk + len(branch)
            pieces[-1].append(branch)
        return [Tree(tree.trunk, tuple(branches)) for branches in pieces]

    def _reference(self, trees: list[Tree], batch: Batch) -> Tensor | None:
        if "reference" not in self.method.needs:
            return None
        self.student.eval()
        with torch.no_grad(), self.student.frozen():
            passes = [trees] if len(trees) > 1 else [[piece] for piece in self._split(trees[0])]
            logp = torch.cat([self._logp(self.student, each, batch) for each in passes])
        self.wrapped.train()
        return logp

    def _logp(self, model: Any, trees: list[Tree], batch: Batch) -> Tensor:
        """(rows of `trees`, T) log-probabilities, zero at padding."""
        packed = self.student.pack(trees)
        logp_N: Tensor = model(packed)
        rows = sum(len(tree.branches) for tree in trees)
        index = (packed.branch_N.to(logp_N.device), packed.step_N.to(logp_N.device))
        return logp_N.new_zeros(rows, batch.mask_BT.shape[1]).index_put(index, logp_N)

    def _batch(self, chunk: Pieces, totals: tuple[float, float, float]) -> Batch:
        lengths = [len(branch) for tree, _ in chunk for branch in tree.branches]
        rows = [row for _, group in chunk for row in group]
        group = [g for g, (_, members) in enumerate(chunk) for _ in members]
        mask_BT = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        old = None
        if "old_logp" in self.method.needs:
            old = torch.zeros(mask_BT.shape)
            for b, row in enumerate(rows):
                assert len(row.response.logp) == lengths[b], "a row without the sampler's log-probabilities"
                old[b, : lengths[b]] = torch.tensor(row.response.logp)
        device = self.student.device
        return Batch(
            mask_BT.to(device),
            torch.tensor([row.weight for row in rows], device=device),
            torch.tensor(group, device=device),
            len(chunk),
            None if old is None else old.to(device),
            *totals,
        )
