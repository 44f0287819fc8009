"""Does a stage's method fit its scorer, sampling, prompts and teacher? What could only fail later, or silently teach
nothing, is refused before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmpu.core import Group, Sampling, UserError
from mmpu.learning import Method
from mmpu.recipes import wiring
from mmpu.recipes.wiring import Wired
from mmpu.task import parse_split

if TYPE_CHECKING:
    from mmpu.train.stage import StageConfig


def check(stage: StageConfig, method: Method, wired: Wired, sampling: Sampling) -> None:
    """Raises:
    UserError: the reason, and the way out.
    """
    where = f"stage {stage.name!r}"
    task, split = wired.task, parse_split(stage.split, where)[0]
    if task.config.for_evaluation(split):
        raise UserError(f"{where}: the split {stage.split!r} of {task.name} is for evaluation; train on another")
    if same := task.same_rows(split):
        raise UserError(
            f"{where}: {task.name} would be trained and evaluated on the same rows, those of {split!r} and "
            f"{same[0]!r}; {task.way_out}"
        )
    samples = task.ready(stage.split)
    scored = "scores" in method.needs
    if scored and stage.scorer is None:
        raise UserError(f"{where}: its method needs scores; set `scorer:`, for example `scorer: self_eval`")
    if not scored and stage.scorer is not None:
        raise UserError(f"{where}: its method uses no scores; remove `scorer:`")
    scorer = wiring.scorer(stage.scorer, wired, f"stages.{stage.name}.scorer") if stage.scorer is not None else None
    if (method.listwise or (scorer is not None and scorer.listwise)) and stage.k < 2:
        raise UserError(
            f"{where}: k={stage.k}, and a listwise {'method' if method.listwise else 'scorer'} learns from differences "
            "within a group; set k to 2 or more, 8 is usual"
        )
    needs = method.needs | (scorer.needs if scorer is not None else frozenset())
    if "anchor" in needs and wired.teacher is None:
        raise UserError(f"{where}: it needs anchors; set `teacher:` in the config")
    if "anchor" in needs and wired.teacher is not None and (lacking := wired.teacher.lacking(samples)):
        raise UserError(
            f"{where}: the teacher has no answer for {len(lacking)} of the {len(samples)} prompts of {stage.split}, "
            f"first {lacking[0]!r}; complete its file, name a `fallback:` engine, or set `partial: true` to leave "
            "those out"
        )
    if min(stage.prompts_per_step, stage.k, stage.optim.updates) < 1:
        raise UserError(f"{where}: prompts_per_step, k and optim.updates must be positive")
    if (stage.steps is not None and stage.steps < 1) or stage.epochs <= 0:
        raise UserError(f"{where}: steps and epochs must be positive")
    if "old_logp" in method.needs and not (
        sampling.temperature > 0 and sampling.top_p == 1 and sampling.top_k == 0 and sampling.min_p == 0
    ):
        raise UserError(
            f"{where}: this method compares with the sampler's log-probabilities and needs plain sampling "
            "(a temperature above 0, no top_p, top_k, min_p)"
        )
    if stage.optim.updates > 1 and "old_logp" not in method.needs:
        raise UserError(
            f"{where}: optim.updates={stage.optim.updates}, and this method cannot tell how far it has moved from its "
            "samples; leave it at 1, or take grpo, dapo, ppo, srpo or ldl_grpo with `form: ratio`"
        )
    if "context" in method.needs:
        for sample in samples:
            method.context(Group(sample, anchor="an anchor"))
    reason = scorer.abstains(samples) if scorer is not None else None
    if reason is not None:
        raise UserError(f"{where}: its scorer would abstain on every prompt: {reason}")
