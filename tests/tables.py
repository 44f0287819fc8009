"""Groups and per-token quantities for tests of methods, without a model: every number hangs on the response it belongs
to, so that reordering responses reorders the numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mmpu.core import Group, Response, Sample
from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.methods.dapo import DAPO
from mmpu.methods.dpo import DPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.lopd import LOPD
from mmpu.methods.opsd import OPSD
from mmpu.methods.pbsd import PBSD
from mmpu.methods.ppo import PPO
from mmpu.methods.sdft import SDFT
from mmpu.methods.sft import SFT
from mmpu.methods.srpo import SRPO
from tiny import sample

METHODS: dict[str, Method] = {
    "sft": SFT(),
    "dpo": DPO(),
    "dpo_anchor": DPO("anchor_vs_sample"),
    "dpo_include": DPO("best_worst", include_anchor=True),
    "grpo": GRPO(beta=0.3),
    "grpo_batch": GRPO("token_mean", adv_std="batch", kl="k2", beta=0.3),
    "grpo_full": GRPO(kl="full", beta=0.3),
    "grpo_fixed": GRPO("fixed_len", 20, adv_std="none", kl="k3+"),
    "dapo": DAPO(overlong_length=9, overlong_buffer=4),
    "ppo": PPO(),
    "ppo_ema": PPO("ema", whiten=False),
    **{f"ldl_{form}": LDLGRPO(form=form, beta=0.1) for form in ("sum", "mean", "ratio")},
    "ldl_full": LDLGRPO(kl="full", beta=0.1),
    "pbsd": PBSD(),
    "pbsd_mean": PBSD("mean", refresh_every=3),
    "opsd": OPSD(),
    "opsd_jsd": OPSD(beta=0.5, top_k=20, teacher="live", max_ratio=2.0),
    "opsd_clip": OPSD(clip=0.05, teacher="ema"),
    "sdft": SDFT(),
    "srpo": SRPO(top_k=20),
    "lopd": LOPD(model="another"),
}
"""Every method, with the knobs that change what is computed."""


def measured(method: Method) -> set[str]:
    """The per-token quantities that a trainer makes for a method."""
    needed = {"reference": "ref_logp", "teacher_logp": "teacher_logp", "teacher_entropy": "teacher_entropy"}
    found = {"logp"} | {name for need, name in needed.items() if need in method.needs}
    found |= {"value", "old_value"} if "value" in method.needs else set()
    return found | ({"divergence"} if method.divergence else set())


def _values(tokens: Sequence[int], name: str) -> torch.Tensor:
    """Plausible numbers for each token of a response."""
    generator = torch.Generator().manual_seed(_number(f"{name}{tokens}"))
    drawn = torch.rand(len(tokens), generator=generator, dtype=torch.float64)
    if "logp" in name or name == "old":
        base = torch.rand(
            len(tokens), generator=torch.Generator().manual_seed(_number(str(tokens))), dtype=torch.float64
        )
        return -3 * base - 0.3 * drawn
    return drawn * 2


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def group(name: str, scores: Sequence[float], lengths: Sequence[int], anchor_score: float = 0.9) -> Group:
    """A group of responses of these lengths; no token sequence occurs twice."""

    def response(who: str, i: int, length: int) -> Response:
        tokens = tuple(_number(f"{name}{who}{i}{t}") % 900 + 20 for t in range(length))
        logp = tuple(_values(tokens, "old").tolist())
        return Response(f"{who} {i} of {name}", tokens, logp, finished=length < 8)

    prompt = sample(name)
    return Group(
        prompt,
        "the anchor",
        tuple(response("student", i, n) for i, n in enumerate(lengths)),
        tuple(scores),
        anchor_score,
        Sample(name, sample(name, "privileged").prompt),
        tuple(response("teacher", i, n + 1) for i, n in enumerate(lengths)),
    )


GROUPS = (
    group("a", (0.9, 0.1, 0.5, 0.2), (5, 7, 4, 9)),
    group("b", (0.0, 1.0, 0.8, 0.3), (6, 8, 5, 10)),
    group("c", (0.7, 0.6, 0.2, 0.1), (9, 4, 4, 6)),
)


@dataclass(frozen=True)
class Table:
    """A step's rows with their numbers."""

    method: Method
    rows: tuple[Row, ...]
    batch: Batch
    quantities: Quantities

    def part(self, groups: Sequence[int]) -> Table:
        """The rows of some groups, under the denominators of the whole."""
        keep = [b for b, g in enumerate(self.batch.group_B.tolist()) if g in groups]
        rows = tuple(replace(self.rows[b], group=groups.index(self.rows[b].group)) for b in keep)
        here = build(self.method, rows, len(groups))
        totals = {name: getattr(self.batch, name) for name in ("total_groups", "total_rows", "total_tokens")}
        width = here.batch.mask_BT.shape[1]
        weight = self.quantities.weight_BT
        known = replace(here.quantities, weight_BT=None if weight is None else weight[keep, :width])
        return Table(self.method, rows, replace(here.batch, **totals), known)

    def padded(self, columns: int) -> Table:
        """The same with columns of noise behind every row."""

        def widen(value: object) -> object:
            if not isinstance(value, torch.Tensor) or value.shape[:1] != self.batch.mask_BT.shape[:1] or value.ndim < 2:
                return value
            tail = torch.full((len(value), columns), 0.37, dtype=value.dtype)
            return torch.cat([value, tail if value.is_floating_point() else tail.bool() & False], 1)

        batch = Batch(**{k: v if k == "pairs_P2" else widen(v) for k, v in vars(self.batch).items()})
        return Table(
            self.method, self.rows, batch, Quantities(**{k: widen(v) for k, v in vars(self.quantities).items()})
        )


def table(method: Method, groups: Sequence[Group] = GROUPS) -> Table:
    """What a method makes of groups, with random numbers for everything a trainer would measure."""
    made = [method.supervise(group) for group in groups]
    rows = tuple(replace(row, group=g) for g, each in enumerate(made) for row in each)
    found = build(method, rows, len(groups))
    old = found.batch.old_logp_BT
    assert old is not None
    weight = method.prepare(replace(found.quantities, logp_BT=old), found.batch, lambda value: value)
    return replace(found, quantities=replace(found.quantities, weight_BT=weight))


def build(method: Method, rows: Sequence[Row], groups: int) -> Table:
    tokens = [row.response.tokens or tuple(range(20, 26)) for row in rows]
    lengths = torch.tensor([len(t) for t in tokens])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    group_of = [row.group for row in rows]
    first = [group_of.index(g) for g in group_of]
    pairs = [(b, first[b] + other) for b, row in enumerate(rows) for other in row.beats]

    def pad(values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)

    batch = Batch(
        mask,
        torch.tensor([row.weight for row in rows], dtype=torch.float64),
        torch.tensor(group_of),
        groups,
        pad(
            [
                torch.tensor(row.response.logp or [0.0] * len(t), dtype=torch.float64)
                for row, t in zip(rows, tokens, strict=True)
            ]
        ),
        groups,
        len(rows),
        int(lengths.sum()),
        torch.tensor([row.score for row in rows], dtype=torch.float64),
        torch.tensor([row.context is not None for row in rows]),
        torch.tensor(pairs, dtype=torch.long).view(-1, 2),
        mean_score=0.4,
    )
    named = {f"{name}_BT": pad([_values(t, name) for t in tokens]) for name in measured(method)}
    return Table(method, tuple(rows), batch, Quantities(**named))
