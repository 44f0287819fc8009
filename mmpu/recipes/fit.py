"""Does a stage's method fit its scorer, sampling, prompts and teacher? What could only fail later, or silently teach
nothing, is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpu.core import Engine, Group, Sample, Sampling, UserError
from mmpu.learning import Method
from mmpu.recipes import wiring
from mmpu.recipes.rollout_choice import hindrance
from mmpu.recipes.run_config import RunConfig
from mmpu.recipes.wiring import Wired
from mmpu.task import YamlTask, parse_split
from mmpu.train import shadow as shadows
from mmpu.train.preflight import uncheckable
from mmpu.train.stage_config import StageConfig


@dataclass(frozen=True)
class Planned:
    """A stage that fits."""

    config: StageConfig
    method: Method
    sampling: Sampling


def plan(run: RunConfig, wired: Wired) -> list[Planned]:
    """The stages of a run; every mistake shows before anything is trained.

    Raises:
        UserError: the reason, and the way out.
    """
    if run.student.dtype == "float16":
        raise UserError(
            "student.dtype: float16 holds nothing below 6e-8, so small gradients become zero while it trains; take "
            "`dtype: bfloat16` with student.lora, or `autocast: bfloat16`"
        )
    if run.student.lora is None and run.student.dtype != "float32":
        raise UserError(
            f"student.dtype: weights in {run.student.dtype} would lose most updates to rounding; train all of them "
            "with `dtype: float32` and `autocast: bfloat16`, or set student.lora"
        )
    if run.student.lora is not None and run.student.lora.dropout:
        raise UserError(
            f"student.lora.dropout={run.student.lora.dropout}: with dropped units the update's log-probabilities "
            "differ from the sampler's before anything is learned, and gradients depend on tokens_per_pass; leave it 0"
        )
    stages = [Planned(stage, stage.method.make({}), _sampling(stage, wired.task)) for stage in run.stages]
    for stage in stages:
        check(stage.config, stage.method, wired, stage.sampling)
        teacher = stage.method.shadow
        if teacher is not None and teacher.kind == "external":
            shadows.check_tokenizers(run.student.model, teacher.model)
    engine = run.rollout.name
    if engine != "hf" and (reason := hindrance(engine, run.student, [stage.method for stage in stages])):
        raise UserError(f"rollout: {reason}")
    wiring.sampler(run.rollout, wired.task, None, run.folder / ".rollout")
    return stages


def _sampling(stage: StageConfig, task: YamlTask) -> Sampling:
    """Likelihoods are compared at temperature 1, so candidates come from the plain distribution unless the stage says
    otherwise."""
    own = task.config.sampling
    return stage.sampling or Sampling(max_tokens=own.max_tokens, stop=own.stop)


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
    if "pair" in method.needs and (bare := [sample.id for sample in samples if sample.pair is None]):
        raise UserError(
            f"{where}: its method trains on pairs of the data's own, and {len(bare)} of the {len(samples)} rows of "
            f"{stage.split} hold none, first {bare[0]!r}; take rows with `chosen` and `rejected` (`format: "
            "preference`), or a method that samples"
        )
    scored = "scores" in method.needs
    if scored and stage.scorer is None:
        raise UserError(f"{where}: its method needs scores; set `scorer:`, for example `scorer: self_eval`")
    if not scored and stage.scorer is not None:
        raise UserError(f"{where}: its method uses no scores; remove `scorer:`")
    scorer = wiring.scorer(stage.scorer, wired) if stage.scorer is not None else None
    if (method.listwise or (scorer is not None and scorer.listwise)) and stage.k < 2:
        raise UserError(
            f"{where}: k={stage.k}, and a listwise {'method' if method.listwise else 'scorer'} learns from differences "
            "within a group; set k to 2 or more, 8 is usual"
        )
    needs = method.needs | (scorer.needs if scorer is not None else frozenset())
    _check_anchors(stage, method, needs, samples, wired.teacher)
    if scored and "anchor" in needs and wired.teacher is not None:
        _foresee_preflight(stage, samples, wired.teacher)
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


def _foresee_preflight(stage: StageConfig, samples: Sequence[Sample], teacher: Engine) -> None:
    """Raises:
    UserError: the pre-flight could only refuse, by what is known of the teacher's answers without asking.
    """
    known = teacher.known(samples[: stage.preflight.prompts])
    anchors = [None if answer is None else answer.text for answer in known]
    if known and None not in anchors and (reason := uncheckable(anchors)) is not None:
        raise UserError(f"stage {stage.name!r}: {reason}")


def _check_anchors(
    stage: StageConfig, method: Method, needs: frozenset[str], samples: Sequence[Sample], teacher: Engine | None
) -> None:
    """Raises:
    UserError: the teacher lacks what is needed of it, or what is left out goes by what is not asked for.
    """
    where = f"stage {stage.name!r}"
    if "anchor" in needs and teacher is None:
        raise UserError(f"{where}: it needs anchors; set `teacher:` in the config")
    if "anchor" in needs and teacher is not None and (lacking := teacher.lacking(samples)):
        raise UserError(
            f"{where}: the teacher has no answer for {len(lacking)} of the {len(samples)} prompts of {stage.split}, "
            f"first {lacking[0]!r}; complete its file, name a `fallback:` engine, or set `partial: true` to leave "
            "those out"
        )
    if ("cut" in stage.leave_out and "anchor" not in needs) or (
        "low" in stage.leave_out and "anchor_score" not in method.needs
    ):
        raise UserError(
            f"{where}: `leave_out: {list(stage.leave_out)}` goes by the anchor, `low` by its own score s*, which this "
            "method does not ask for; remove it"
        )
