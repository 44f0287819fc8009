"""Trunk and branches: a long shared context and several short continuations, as one sequence.

    [trunk | branch 1 | … | branch K]

Every branch sees the trunk and itself, not its siblings, and its positions go on from the trunk's end, so the hidden
states equal those of K separate sequences while trunk and images are encoded once. Sampling, policy and reference
log-probs, anchored self-evaluation and judging all have this shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as a model reads it."""

    ids: tuple[int, ...]
    positions_RL: Tensor
    media: Mapping[str, Tensor]
    """Inputs of the vision tower, concatenated over the prompt's images along dimension 0."""
    images: tuple[str, ...] = ()
    """Fingerprints of the images, in order: two prompts share a trunk only if these agree."""
    image_end: int = 0
    """Index behind the last placeholder; from there on positions count up by one."""
    image_lengths: tuple[int, ...] = ()
    """Placeholder tokens of each image, in order."""

    @property
    def next_position(self) -> int:
        return int(self.positions_RL.max()) + 1


@dataclass(frozen=True, eq=False)
class Tree:
    """A trunk with its branches; a branch may be empty, then its end is the trunk's end."""

    trunk: Encoded
    branches: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.trunk.ids) + sum(map(len, self.branches))


@dataclass(frozen=True, eq=False)
class Pack:
    """Trees side by side, padded to the longest, with indices into the flattened (S·L) hidden states."""

    ids_SL: Tensor
    positions_RSL: Tensor
    allow_SLL: Tensor
    """True where a query (row) may look at a key (column)."""
    media: Mapping[str, Tensor]
    source_N: Tensor
    """For each branch token, the hidden state that predicts it: the trunk's last for a branch's first token."""
    target_N: Tensor
    branch_N: Tensor
    """Which branch the token belongs to, counted over all trees."""
    step_N: Tensor
    """Its index within the branch."""
    end_M: Tensor
    """For each branch, its last hidden state, which predicts what would follow."""

    def to(self, device: torch.device) -> Pack:
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, media={k: v.to(device) for k, v in self.media.items()})


def pack(trees: Sequence[Tree], pad: int) -> Pack:
    """Lays out trees as one right-padded batch. Pad queries look at themselves only, which keeps softmax finite."""
    length = max(tree.tokens for tree in trees)
    axes = max(tree.trunk.positions_RL.shape[0] for tree in trees)
    ids = torch.full((len(trees), length), pad)
    positions = torch.zeros(axes, len(trees), length, dtype=torch.long)
    segment = torch.full((len(trees), length), -1)  # -1 pad, 0 trunk, k branch k
    source: list[int] = []
    target: list[int] = []
    branch_of: list[int] = []
    step_of: list[int] = []
    end: list[int] = []
    for s, tree in enumerate(trees):
        trunk_length = len(tree.trunk.ids)
        ids[s, :trunk_length] = torch.tensor(tree.trunk.ids)
        positions[:, s, :trunk_length] = tree.trunk.positions_RL
        segment[s, :trunk_length] = 0
        at = trunk_length
        for k, branch in enumerate(tree.branches, 1):
            stop = at + len(branch)
            base = s * length
            if branch:
                ids[s, at:stop] = torch.tensor(branch)
                positions[:, s, at:stop] = torch.arange(len(branch)) + tree.trunk.next_position
                segment[s, at:stop] = k
                source += [base + trunk_length - 1, *range(base + at, base + stop - 1)]
                target += branch
                branch_of += [len(end)] * len(branch)
                step_of += range(len(branch))
            end.append(base + (stop - 1 if branch else trunk_length - 1))
            at = stop
    same = segment[:, :, None] == segment[:, None, :]
    trunk_key = (segment == 0)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    real = (segment >= 0)[:, :, None]
    allow = torch.where(real, (same | trunk_key) & causal, torch.eye(length, dtype=torch.bool))
    keys = {key for tree in trees for key in tree.trunk.media}
    media = {k: torch.cat([t.trunk.media[k] for t in trees if k in t.trunk.media]) for k in sorted(keys)}
    return Pack(
        ids,
        positions,
        allow,
        media,
        *(torch.tensor(v, dtype=torch.long) for v in (source, target, branch_of, step_of, end)),
    )


def within_budget(items: Sequence[T], tokens: Callable[[T], int], budget: int) -> list[list[T]]:
    """Consecutive items whose padded size, longest times count, stays within the budget; a larger one goes alone."""
    chunks: list[list[T]] = []
    longest = 0
    for item in items:
        longest = max(longest, tokens(item))
        if chunks and longest * (len(chunks[-1]) + 1) <= budget:
            chunks[-1].append(item)
        else:
            chunks.append([item])
            longest = tokens(item)
    return chunks


def share(prompts: Sequence[Encoded], least: float = 0.5) -> list[tuple[Encoded, list[tuple[int, ...]]]]:
    """Groups consecutive prompts that share at least `least` of their tokens and the same images into trunk and
    branches.

    Returns pairs of trunk and branches which, read in order, are the prompts again. No image lies in a branch.
    """
    groups: list[list[Encoded]] = []
    shared: list[int] = []
    for prompt in prompts:
        if groups:
            first = groups[-1][0]
            common = min(shared[-1], _common_prefix(first.ids, prompt.ids))
            if first.images == prompt.images and common >= least * len(prompt.ids):
                groups[-1].append(prompt)
                shared[-1] = common
                continue
        groups.append([prompt])
        shared.append(len(prompt.ids))
    result: list[tuple[Encoded, list[tuple[int, ...]]]] = []
    for members, common in zip(groups, shared, strict=True):
        first = members[0]
        trunk = first
        if common < len(first.ids):
            if common < first.image_end:
                result += [(member, [()]) for member in members]  # an image follows the shared part
                continue
            trunk = replace(first, ids=first.ids[:common], positions_RL=first.positions_RL[:, :common])
        result.append((trunk, [member.ids[common:] for member in members]))
    return result


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))
