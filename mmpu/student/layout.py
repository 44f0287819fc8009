"""Where the trunks and branches of packed rows lie, as runs of tokens that attend to runs of tokens.

    trunks     over themselves, causal
    branches   over themselves, causal
    shared     all branches of a tree over its trunk
    ends       of trunks, the last token alone over all of it

No run is padded to another's length where they differ much, and there is no mask: memory is linear in tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

Places = slice | Tensor
"""Flat places (S·L) of tokens: neighbours, or an index of one or two dimensions."""
Run = tuple[int, int]
"""Where a run begins, and its length."""
ALONE = 256
"""Runs of at least so many tokens are no part of a batch: copying them costs more than a further call."""
RAGGED = 2
"""How many times as long as its shortest the longest run of a batch may be; those of up to 32 tokens are together."""
SHORT = 32
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Bucket:
    """Runs that are computed as a batch."""

    query: Places
    """Of one run a slice, of several (B, C); padding repeats a run's last token, so that its weights stay finite."""
    key: Places
    places: Places
    """Of the queries that are no padding."""
    real: Tensor | None = None
    """Their places in the flat (B·C); None: all."""
    padding: Tensor | None = None
    """(B, C); None: there is none."""


@dataclass(frozen=True, eq=False)
class Part:
    """Runs of queries, each over its run of keys."""

    queries: tuple[Run, ...]
    keys: tuple[Run, ...]
    causal: bool
    device: torch.device = CPU

    @property
    def longest_q(self) -> int:
        return max(n for _, n in self.queries)

    @property
    def longest_k(self) -> int:
        return max(n for _, n in self.keys)

    @cached_property
    def query(self) -> Places:
        """All queries, run after run."""
        return self._all(self.queries)

    @cached_property
    def key(self) -> Places:
        return self._all(self.keys)

    @cached_property
    def starts_q(self) -> Tensor:
        """Where each run begins among the queries, and their number, as variable-length kernels want it."""
        return self._starts(self.queries)

    @cached_property
    def starts_k(self) -> Tensor:
        return self._starts(self.keys)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        return tuple(self._bucket(numbers) for numbers in self._alike())

    def _starts(self, runs: Sequence[Run]) -> Tensor:
        return torch.tensor([0, *accumulate(n for _, n in runs)], dtype=torch.int32).to(self.device)

    def _all(self, runs: Sequence[Run]) -> Places:
        if all(a + n == b for (a, n), (b, _) in pairwise(runs)):
            return slice(runs[0][0], runs[-1][0] + runs[-1][1])
        return torch.cat([torch.arange(at, at + n) for at, n in runs]).to(self.device)

    def _alike(self) -> Iterator[list[int]]:
        """Numbers of runs that make a batch. Without a causal mask keys cannot be padded, and are equally many."""
        of = [(0 if self.causal else n, m) for (_, m), (_, n) in zip(self.queries, self.keys, strict=True)]
        together: list[int] = []
        for number in sorted(range(len(of)), key=lambda i: of[i], reverse=True):
            if together:
                (keys, longest), (mine, length) = of[together[0]], of[number]
                near = length * RAGGED >= longest or longest <= SHORT
                if keys != mine or not near or max(keys, longest) >= ALONE:
                    yield together
                    together = []
            together.append(number)
        if together:
            yield together

    def _bucket(self, numbers: Sequence[int]) -> Bucket:
        if len(numbers) == 1:
            (at, n), (start, m) = self.queries[numbers[0]], self.keys[numbers[0]]
            return Bucket(slice(at, at + n), slice(start, start + m), slice(at, at + n))
        query, padding = self._rows([self.queries[i] for i in numbers])
        key, _ = self._rows([self.keys[i] for i in numbers])
        real = None if not padding.any() else (~padding).flatten().nonzero()[:, 0]
        places = query.flatten() if real is None else query.flatten()[real]
        query, key, places = (x.to(self.device) for x in (query, key, places))
        if real is None:
            return Bucket(query, key, places)
        return Bucket(query, key, places, real.to(self.device), padding.to(self.device))

    @staticmethod
    def _rows(runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
        at, n = torch.tensor(runs).unbind(1)
        step = torch.arange(int(n.max()))
        return at[:, None] + torch.minimum(step, n[:, None] - 1), step >= n[:, None]


@dataclass(frozen=True, eq=False)
class Layout:
    """Parts of packed rows; None where no token is in one."""

    trunks: Part
    ends: Part
    branches: Part | None
    shared: Part | None

    def to(self, device: torch.device) -> Layout:
        if device == self.trunks.device:
            return self
        parts = (self.trunks, self.ends, self.branches, self.shared)
        return Layout(*(None if part is None else replace(part, device=device) for part in parts))  # pyright: ignore


def layout(trunks: Sequence[int], branches: Sequence[Sequence[int]], length: int) -> Layout:
    """The layout of rows with these trunk and branch lengths, each row padded to `length`."""
    own: list[Run] = []
    tails: list[Run] = []
    over: list[Run] = []
    heads: list[Run] = []
    for row, (trunk, lengths) in enumerate(zip(trunks, branches, strict=True)):
        at, tail = row * length + trunk, sum(lengths)
        heads.append((row * length, trunk))
        if tail:
            tails.append((at, tail))
            over.append(heads[-1])
        for n in lengths:
            own += [(at, n)] if n else []
            at += n
    ends = [(at + n - 1, 1) for at, n in heads]
    return Layout(
        Part(tuple(heads), tuple(heads), causal=True),
        Part(tuple(ends), tuple(heads), causal=False),
        Part(tuple(own), tuple(own), causal=True) if own else None,
        Part(tuple(tails), tuple(over), causal=False) if own else None,
    )
