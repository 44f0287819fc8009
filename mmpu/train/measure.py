"""Rows → per-token quantities, in passes within the token budget: the student's with gradient, and what is known
before (reference, teacher, old values) without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmpu.core import UserError
from mmpu.learning import Method, Row
from mmpu.student import AMPLE, Ask, Pack, Room, Student, Teacher, Tree, within_budget
from mmpu.train.shadow import Shadow

KNOWN = {
    "reference": "ref_logp",
    "value": "old_value",
    "teacher_logp": "teacher_logp",
    "teacher_entropy": "teacher_entropy",
}
"""Quantities of an update's start, by the needs that they meet."""
Known = Mapping[str, Sequence[Tensor]]
"""Quantities by name, each one tensor (tokens,) per row."""


@dataclass(frozen=True)
class Piece:
    """The rows of a group as a tree, and what is known of their tokens."""

    tree: Tree
    rows: tuple[Row, ...]
    known: Known = field(default_factory=dict[str, Sequence[Tensor]])
    old: Sequence[Tensor] | None = None
    """Log-probabilities before the first update, one tensor (tokens,) per row; None leaves them to its pass."""


@dataclass(frozen=True)
class Measure:
    """Args:
    temperature: At which responses were sampled.
    """

    student: Student
    method: Method
    budget: int
    temperature: float
    shadow: Shadow | None

    @property
    def scale(self) -> float:
        """The temperature of log-probabilities and divergences."""
        return self.temperature if self.method.tempered else 1.0

    @property
    def names(self) -> list[str]:
        """What the method needs to be known of every row."""
        return [name for need, name in KNOWN.items() if need in self.method.needs]

    def tree(self, rows: Sequence[Row]) -> Tree:
        """The rows of a group under their prompt, or under its first token where they are trained on as a whole.

        Raises:
            UserError: a prompt to be trained on has images, whose tokens cannot be predicted.
        """
        assert len({row.sample.id for row in rows}) == 1, "rows of several prompts in one group"
        prompt = self.student.encode(rows[0].sample)
        branches = tuple(self.student.response_ids(row.sample, row.response) for row in rows)
        if not rows[0].whole:
            return Tree(prompt, branches)
        if prompt.images:
            raise UserError(f"sample {rows[0].sample.id!r} has images; train on its answer alone")
        first = replace(prompt, ids=prompt.ids[:1], positions_RL=prompt.positions_RL[:, :1])
        return Tree(first, tuple(prompt.ids[1:] + branch for branch in branches))

    def live(
        self, model: Any, trees: Sequence[Tree], rows: Sequence[Row], width: int, room: Room = AMPLE
    ) -> dict[str, Tensor]:
        """What carries a gradient, in one pass: (rows, width) each, zero at padding.

        Args:
            model: The student, or what accelerate made of it.
            rows: The rows of the trees' branches, in order.
        """
        packed = self.student.pack(trees)
        form = self.method.divergence
        teacher = self._teacher(packed, trees, rows) if form is not None else None
        valued = "value" in self.method.needs
        found = model(packed, Ask(self.scale, value=valued, divergence=form, teacher=teacher, room=room))
        index = (packed.branch_N.to(self.student.device), packed.step_N.to(self.student.device))
        result = {n: v.new_zeros(len(rows), width).index_put(index, v) for n, v in found.items()}
        if form is not None and teacher is None:  # it reads none of these rows
            result["divergence"] = torch.zeros_like(result["logp"])
        return result

    def known(self, pieces: Sequence[Piece], reference: bool, old: bool = False) -> list[Piece]:
        """The pieces with what is the same over a rollout's updates.

        Args:
            reference: Make reference log-probabilities even if the method does not need them.
            old: Measure log-probabilities before the first update.
        """
        if not pieces:
            return []
        needs = self.method.needs
        trees = [piece.tree for piece in pieces]
        by_name: dict[str, list[Tensor]] = {}
        if reference or "reference" in needs:
            with self.student.frozen():
                by_name["ref_logp"] = self._scan(self.student, trees, Ask(self.scale))["logp"]
        before: Sequence[Tensor] | None = None
        if old or "value" in needs:
            seen = self._scan(self.student, trees, Ask(self.scale, value="value" in needs))
            by_name |= {"old_value": seen["value"]} if "value" in needs else {}
            before = seen["logp"] if old else None
        wanted = {"logp": "teacher_logp", "entropy": "teacher_entropy"}
        wanted = {found: name for found, name in wanted.items() if name in needs}
        if wanted:
            assert self.shadow is not None
            with self.shadow.speaking() as speaker:
                rows = [row for piece in pieces for row in piece.rows]
                branches = [branch for tree in trees for branch in tree.branches]
                contextual, order = _under_contexts(speaker, rows, branches)
                found = self._scan(speaker, contextual, Ask(self.scale, entropy="entropy" in wanted))
            for short, name in wanted.items():
                zero = torch.zeros((), dtype=self.student.exact, device=self.student.device)
                by_name[name] = [zero.expand(len(branch)) for branch in branches]
                for row, value in zip(order, found.get(short, ()), strict=True):  # none reads a context
                    by_name[name][row] = value.to(zero)
        result: list[Piece] = []
        at = 0
        for piece in pieces:
            mine = slice(at, at + len(piece.rows))
            own = {name: values[mine] for name, values in by_name.items()}
            result.append(replace(piece, known=own, old=None if before is None else before[mine]))
            at += len(piece.rows)
        return result

    def split(self, tree: Tree) -> list[Tree]:
        """The same branches in trees within the budget.

        Raises:
            UserError: not even one branch fits.
        """
        trunk = len(tree.trunk.ids)
        pieces: list[list[tuple[int, ...]]] = []
        used = self.budget + 1
        for branch in tree.branches:
            if trunk + len(branch) > self.budget:
                raise UserError(
                    f"optim.tokens_per_pass={self.budget} is too small for a prompt of {trunk} tokens with a response "
                    f"of {len(branch)}; set at least {trunk + len(branch)}"
                )
            used += len(branch)
            if used > self.budget:
                pieces.append([])
                used = trunk + len(branch)
            pieces[-1].append(branch)
        return [Tree(tree.trunk, tuple(branches)) for branches in pieces]

    def _passes(self, trees: Sequence[Tree]) -> list[list[tuple[Tree, int]]]:
        """Trees within the budget, several to a pass, each with the number of its first branch among all."""
        numbered: list[tuple[Tree, int]] = []
        at = 0
        for tree in trees:
            for part in self.split(tree):
                numbered.append((part, at))
                at += len(part.branches)
        by_size = sorted(numbered, key=lambda item: item[0].tokens)
        return within_budget(by_size, lambda item: item[0].tokens, self.budget)[::-1]

    def _scan(self, speaker: Student, trees: Sequence[Tree], ask: Ask) -> dict[str, list[Tensor]]:
        """Quantities of every branch, in order, without gradient."""
        training = speaker.model.training
        speaker.model.eval()
        found: dict[str, dict[int, Tensor]] = {}
        with torch.no_grad():
            for chunk in self._passes(trees):
                packed = speaker.pack([tree for tree, _ in chunk])
                lengths = [len(branch) for tree, _ in chunk for branch in tree.branches]
                numbers = [at + b for tree, at in chunk for b in range(len(tree.branches))]
                for name, value_N in speaker(packed, ask).items():
                    found.setdefault(name, {}).update(zip(numbers, value_N.split(lengths), strict=True))
        speaker.model.train(training)
        return {name: [values[n] for n in sorted(values)] for name, values in found.items()}

    def _teacher(self, packed: Pack, trees: Sequence[Tree], rows: Sequence[Row]) -> Teacher | None:
        """The teacher's hidden states of the tokens of `packed` whose rows it reads, and its head."""
        assert self.shadow is not None
        branches = [branch for tree in trees for branch in tree.branches]
        first = [0]
        for branch in branches:
            first.append(first[-1] + len(branch))
        hidden: list[Tensor] = []
        at: list[Tensor] = []
        device = self.student.device
        with torch.no_grad(), self.shadow.speaking() as speaker:
            training = speaker.model.training
            speaker.model.eval()
            contextual, order = _under_contexts(speaker, rows, branches)
            for chunk in self._passes(contextual):
                theirs = speaker.pack([tree for tree, _ in chunk]).to(speaker.device)
                hidden.append(speaker.hidden(theirs, theirs.source_N).to(device))
                numbers = [order[start + b] for tree, start in chunk for b in range(len(tree.branches))]
                at += [torch.arange(first[n], first[n + 1], device=device) for n in numbers]
            head = replace(speaker.head.fixed(), banned=self.student.banned)
            speaker.model.train(training)
        return Teacher(head, torch.cat(hidden), torch.cat(at)) if at else None


def _under_contexts(
    speaker: Student, rows: Sequence[Row], branches: Sequence[tuple[int, ...]]
) -> tuple[list[Tree], list[int]]:
    """The branches under their rows' contexts, one tree per context, and the number of each branch; rows without a
    context are left out."""
    members: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        if row.context is not None:
            members.setdefault((row.group, row.context.prompt), []).append(number)
    trees: list[Tree] = []
    for numbers in members.values():
        context = rows[numbers[0]].context
        assert context is not None
        trees.append(Tree(speaker.encode(context), tuple(branches[n] for n in numbers)))
    return trees, [n for numbers in members.values() for n in numbers]
