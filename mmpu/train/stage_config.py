"""What a config says of a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mmpu.core import Sampling, Scorer
from mmpu.knobs import MAY_CHANGE, Count, CountOrZero, Parallel, Positive, Share
from mmpu.learning import Method
from mmpu.specs import Spec
from mmpu.train.optim import Optim
from mmpu.train.preflight import Preflight


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run. `method` and `scorer` are components: a name, or a mapping with `name` and their own keys."""

    name: str
    """Of its folder, and what prompts and seeds of the stage hang on."""
    method: Spec[Method]
    """What is learned from a scored group; see `mmpu methods`."""
    split: str
    """Prompts to train on, such as `train[400:1400]`."""
    scorer: Spec[Scorer] | None = None
    """What candidates are worth, for methods that need scores."""
    k: Parallel = 8
    """Candidates sampled per prompt."""
    sampling: Sampling | None = None
    """None takes the task's, at temperature 1 and untruncated."""
    prompts_per_step: Count = 32
    """Over all processes together."""
    epochs: Positive = 1.0
    """Passes over the prompts of the split."""
    steps: Count | None = None
    """None follows from `epochs`."""
    optim: Optim = field(default_factory=Optim)
    """AdamW and its schedule."""
    preflight: Annotated[Preflight, MAY_CHANGE] = field(default_factory=Preflight)
    """How the evaluator is checked before it is trusted."""
    checkpoint_every: Annotated[Count, MAY_CHANGE] = 50
    """Steps."""
    max_refused: Annotated[Count, MAY_CHANGE] = 5
    """Updates with a non-finite gradient before the stage gives up."""
    max_skipped: Annotated[Share, MAY_CHANGE] = 0.5
    """Largest share of a step's groups that may be without an anchor, left out, or without a usable score, before the
    stage gives up."""
    leave_out: tuple[Literal["long", "unreadable", "cut", "low"], ...] = ()
    """What to do without. Before the first step, prompts that with their answer or what a scorer shows are too `long`
    for the model, or `unreadable` by it; otherwise the stage does not begin. In a step, prompts whose anchor is `cut`
    by the teacher's length limit, or has a `low` s*; otherwise a cut one is trained on without an end of sequence.
    All are counted, the first two in the stage's `left_out.json`, the others as `cut_anchors` and `low_anchors`."""
    low_anchor: float = 0.5
    """An s* below this is low: the evaluator does not think much of the teacher's answer."""
    length_alarm: Annotated[Positive, MAY_CHANGE] = 0.5
    """Warn when the mean response length has moved by more than this share since the stage's start."""
    kl_every: Annotated[CountOrZero, MAY_CHANGE] = 10
    """Steps between two measurements of the KL to the stage's start, for methods that sample and do not need it at
    every step; 0 never. Under full training it takes a frozen copy of the weights."""
    hacking_window: Annotated[Count, MAY_CHANGE] = 10
    """Steps whose mean score and accuracy are compared with the window before."""
    hacking_rises: Annotated[Count, MAY_CHANGE] = 3
    """Warn when over so many windows in a row the score rose and the accuracy fell."""
    alarms: Annotated[dict[str, float], MAY_CHANGE] = field(
        default_factory=lambda: {
            "flat_groups": 0.8,
            "truncated": 0.5,
            "skipped_groups": 0.1,
            "unanchored_groups": 0.0,
            "cut_anchors": 0.0,
            "damaged_anchors": 0.0,
            "low_anchors": 0.5,
            "fallback_groups": 0.0,
            "infinite_scores": 0.0,
            "cut_contexts": 0.0,
            "dropped_thoughts": 0.0,
            "overlong_groups": 0.0,
            "masked_candidates": 0.1,
            "kl_ref": 5.0,
            "sampler_gap": 0.1,
            "sampler_kl": 0.02,
        }
    )
    """Warn, once per metric, when a step's value is above this."""
