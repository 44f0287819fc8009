"""Can the evaluator tell right from wrong? Measured without labels, before a stage trusts it, and at intervals after.

A scorer that sees the teacher's answer must at least prefer a prompt's own anchor to another prompt's: AUC of g(x, a,
a) against g(x, a, a'). An evaluator that fails this destroys a student: LDL drives it towards noise, within tens of
steps to nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmpu.core import Group, Response, Sample, Scorer, Task, UserError
from mmpu.knobs import Count, CountOrZero, Share
from mmpu.statistics import auc
from mmpu.train.cases import another

if TYPE_CHECKING:
    from mmpu.train.evaluator import Trial
    from mmpu.train.rollout import Rollout

FIRST, PIECE = 4, 16
"""Prompts that are graded at first, and at a time from then on."""
LONG = 5.0
"""Seconds to go from which one is told."""


@dataclass(frozen=True)
class Preflight:
    """How the evaluator is checked."""

    prompts: CountOrZero = 64
    """Prompts it is tried on; 0 switches the check off."""
    min_auc: Share = 0.75
    """Below this the stage does not start, or stops."""
    every: Count = 50
    """Steps between two checks."""
    graded: CountOrZero = 16
    """Prompts among them whose candidates are sampled and, where the task can, graded, for `score_auc`."""
    seconds: CountOrZero = 16
    """Prompts of which the teacher is asked for a second answer where `scorer.mode: auto` looks for a way to grade; 0
    asks for none, and then what may merely recognise an anchor is not tried."""

    tokens: Count = 50_000
    """The most that go through the model while `scorer.mode: auto` looks for a way to grade, sampling not included: two
    minutes of two cores for a student of 135 million parameters."""

    @property
    def trial(self) -> Trial:
        """What a search for a way to grade is made of."""
        from mmpu.train.evaluator import Trial

        return Trial(self.prompts, self.seconds, self.graded, self.min_auc, self.tokens)

    def __call__(
        self,
        rollout: Rollout,
        samples: Sequence[Sample],
        task: Task,
        seed: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> dict[str, float]:
        """AUCs of the scorer: `anchor_auc` (own anchor against another's) and, where the task grades, `score_auc`.

        Args:
            say: Told how long it will take, where that is more than some seconds, and how far it is.

        Raises:
            UserError: the evaluator cannot tell a prompt's anchor from another's, or there is no other.
        """
        from mmpu.train.diagnostics import describe

        groups = [group for group in rollout.anchored(samples[: self.prompts]) if isinstance(group, Group)]
        if rollout.scorer is None:
            return {}
        pairs = [
            replace(group, responses=(Response(group.anchor), Response(other)))
            for i, group in enumerate(groups)
            if group.anchor is not None and (other := another(i, [g.anchor for g in groups])) is not None
        ]
        if (reason := uncheckable([group.anchor for group in groups])) is not None:
            raise UserError(reason)
        scores = [s for s in scored(rollout.scorer, pairs, say) if not any(map(math.isnan, s))]
        result = {"anchor_auc": auc([s[0] for s in scores], [s[1] for s in scores])}
        candidates = rollout.scored(rollout.sampled(groups[: self.graded], seed))
        found = describe(candidates, [[]] * len(candidates), task)
        result |= {name: found[name] for name in ("score_auc", "accuracy", "score") if name in found}
        if not result["anchor_auc"] >= self.min_auc:  # NaN, nothing readable, fails too
            raise UserError(
                f"pre-flight: on {len(scores)} readable of {len(pairs)} prompts the evaluator tells a prompt's own "
                "anchor "
                f"from another's with AUC {result['anchor_auc']:.3f}, below {self.min_auc}. Training on it would "
                "destroy the student. Use a larger student or another scorer mode (`scorer.mode`), train stage I "
                "longer or more gently, or set `preflight.min_auc` if you know better. The same command with other "
                "settings of this stage goes on after the stages that are done"
            )
        return result


def scored(scorer: Scorer, pairs: Sequence[Group], say: Callable[[str], None]) -> list[tuple[float, ...]]:
    """The scores of all groups: a few first, by which the rest is foreseen."""
    found: list[tuple[float, ...]] = []
    began = time.perf_counter()
    while len(found) < len(pairs):
        found += scorer.score(pairs[len(found) : len(found) + (PIECE if found else FIRST)])
        left = (time.perf_counter() - began) / len(found) * (len(pairs) - len(found))
        if left > LONG:
            say(f"pre-flight: {len(found)} of {len(pairs)} prompts graded, about {left:.0f} s to go")
    return found


def uncheckable(anchors: Sequence[str | None]) -> str | None:
    """Why an evaluator cannot be checked with these anchors; None if it can. Costs no model call."""
    if any(anchor is not None and another(i, anchors) is not None for i, anchor in enumerate(anchors)):
        return None
    way_out = "set `preflight: {prompts: 0}` if you know better"
    if len(anchors) < 2:
        return f"pre-flight: {len(anchors)} prompts with an anchor are too few to check the evaluator with; {way_out}"
    return (
        f"pre-flight: the teacher says the same to all of the first {len(anchors)} prompts, {anchors[0]!r:.80}. "
        "Whether the evaluator can tell a prompt's own anchor from another's cannot be checked, and such anchors teach "
        f"one answer to everything. Look at the teacher's answers; {way_out}"
    )
