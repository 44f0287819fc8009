"""Trunk and branches: a long shared context and several short continuations, as one sequence.

    [trunk | branch 1 | … | branch K]

Every branch sees the trunk and itself, not its siblings, and its positions go on from the trunk's end, so the hidden
states equal those of K separate sequences while trunk and images are encoded once. Sampling, policy and reference
log-probs, anchored self-evaluation and judging all have this shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from mmpu.student.layout import Layout, layout
from mmpu.student.vision import Features, Images, stacked

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as a model reads it."""

    ids: tuple[int, ...]
    positions_RL: Tensor
    features: tuple[Features, ...] = ()
    """Inputs of the vision tower, per image."""
    images: tuple[str, ...] = ()
    """Fingerprints of the images, in order: two prompts share a trunk only if these agree."""
    image_end: int = 0
    """Index behind the last placeholder; from there on positions count up by one."""
    image_lengths: tuple[int, ...] = ()
    """Placeholder tokens of each image, in order."""
    blocks: Tensor | None = None
    """Where tokens of an image see each other in both directions: a number per image, -1 elsewhere, (length,)."""

    @property
    def media(self) -> Features:
        """The features of all images, concatenated along dimension 0."""
        return stacked(self.features)

    @property
    def next_position(self) -> int:
        return int(self.positions_RL.max()) + 1


@dataclass(frozen=True, eq=False)
class Tree:
    """A trunk with its branches."""

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
    segment_SL: Tensor
    """0 in the trunk, k in branch k, -1 at padding."""
    block_SL: Tensor
    """A number per image whose tokens see each other in both directions; -1 elsewhere."""
    depth_SL: Tensor
    """How many tokens stand before this one in its own sequence; -1 at padding."""
    tree: Layout
    images: Images
    source_N: Tensor
    """For each branch token, the hidden state that predicts it: the trunk's last for a branch's first token."""
    target_N: Tensor
    branch_N: Tensor
    """Which branch the token belongs to, counted over all trees."""
    step_N: Tensor
    """Its index within the branch."""
    end_M: Tensor
    """For each branch, the hidden state that predicts its last token."""
    sources_E: Tensor
    """The distinct ones of `source_N`."""
    ends_E: Tensor
    """The distinct ones of `end_M`."""
    deepest: int
    """The largest depth. Known here, like the next, so that nobody waits for a device to tell."""
    blocks: bool
    """Whether there is an image whose tokens see each other."""

    def to(self, device: torch.device) -> Pack:
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, tree=self.tree.to(device))


def pack(trees: Sequence[Tree], pad: int) -> Pack:
    """Lays out trees as one right-padded batch.

    A branch's last token is predicted, and predicts nothing: it is a target without a place of its own.
    """
    laid = [[branch[:-1] for branch in tree.branches] for tree in trees]
    length = max(len(t.trunk.ids) + sum(map(len, branches)) for t, branches in zip(trees, laid, strict=True))
    axes = max(tree.trunk.positions_RL.shape[0] for tree in trees)
    ids = torch.full((len(trees), length), pad)
    positions = torch.zeros(axes, len(trees), length, dtype=torch.long)
    segment = torch.full((len(trees), length), -1)  # -1 pad, 0 trunk, k branch k
    depth = torch.full((len(trees), length), -1)
    block = torch.full((len(trees), length), -1)
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
        depth[s, :trunk_length] = torch.arange(trunk_length)
        if tree.trunk.blocks is not None:
            block[s, :trunk_length] = tree.trunk.blocks
        base, at = s * length, trunk_length
        for k, (branch, known) in enumerate(zip(tree.branches, laid[s], strict=True), 1):
            stop = at + len(known)
            if known:
                ids[s, at:stop] = torch.tensor(known)
                positions[:, s, at:stop] = torch.arange(len(known)) + tree.trunk.next_position
                segment[s, at:stop] = k
                depth[s, at:stop] = torch.arange(len(known)) + trunk_length
            read = [base + trunk_length - 1, *range(base + at, base + stop)]
            source += read[: len(branch)]
            target += branch
            branch_of += [len(end)] * len(branch)
            step_of += range(len(branch))
            end.append(read[-1])
            at = stop
    tree = layout([len(t.trunk.ids) for t in trees], [list(map(len, branches)) for branches in laid], length)
    distinct = [sorted(set(source)), sorted(set(end))]
    return Pack(
        ids,
        positions,
        segment,
        block,
        depth,
        tree,
        shown([t.trunk for t in trees]),
        *(torch.tensor(v, dtype=torch.long) for v in (source, target, branch_of, step_of, end, *distinct)),
        deepest=int(depth.max()),
        blocks=bool((block >= 0).any()),
    )


def shown(prompts: Sequence[Encoded]) -> Images:
    """The images of a batch of prompts."""
    return Images.of(pair for p in prompts for pair in zip(p.images, p.features, strict=True))


def visible(segment_SL: Tensor, block_SL: Tensor) -> Tensor:
    """Who sees whom, (S, L, L): what stands before in the trunk and in one's own branch, and one's own image block.

    Padding looks at itself only, which keeps softmax finite.

    Args:
        segment_SL: -1 at padding, 0 in the trunk, k in branch k.
        block_SL: A number per image block, -1 elsewhere.
    """
    length, device = segment_SL.shape[1], segment_SL.device
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same = segment_SL[:, :, None] == segment_SL[:, None, :]
    allow = (same | (segment_SL == 0)[:, None, :]) & causal
    if (block_SL >= 0).any():
        allow |= (block_SL[:, :, None] == block_SL[:, None, :]) & (block_SL >= 0)[:, :, None]
    return torch.where((segment_SL >= 0)[:, :, None], allow, torch.eye(length, dtype=torch.bool, device=device))


def alone(tree: Tree) -> list[Tree]:
    """The same branches, each behind a trunk of its own."""
    return [Tree(tree.trunk, (branch,)) for branch in tree.branches]


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
    branches, where that leaves fewer tokens than a trunk for each.

    Returns pairs of trunk and branches which, read in order, are the prompts again. No image lies in a branch.
    """
    groups: list[list[Encoded]] = []
    shared: list[int] = []
    for i, prompt in enumerate(prompts):
        if groups:
            first = groups[-1][0]
            common = min(shared[-1], _common_prefix(first.ids, prompt.ids))
            # Joining shortens the trunk, and lengthens every branch but one by as much, and those that follow too.
            lost = (len(groups[-1]) - 1) * (shared[-1] - common) + _forgone(prompts[i:], common)
            if first.images == prompt.images and common >= least * len(prompt.ids) and lost < common:
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
            trunk = replace(
                first,
                ids=first.ids[:common],
                positions_RL=first.positions_RL[:, :common],
                blocks=None if first.blocks is None else first.blocks[:common],
            )
        result.append((trunk, [member.ids[common:] for member in members]))
    return result


def _forgone(prompts: Sequence[Encoded], common: int) -> int:
    """Tokens beyond the `common` ones that the prompts behind the first would share with it, were it a trunk's."""
    first, shared, more = prompts[0], len(prompts[0].ids), 0
    for prompt in prompts[1:]:
        n = min(shared, _common_prefix(first.ids, prompt.ids))
        if n <= common or prompt.images != first.images:
            break
        shared, more = n, more + 1
    return more * (shared - common)


def _common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Found by halving: slices are compared faster than their elements one by one."""
    same, most = 0, min(len(a), len(b))
    while same < most:
        middle = (same + most + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
