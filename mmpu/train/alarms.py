"""Keeps an eye on a stage: refused updates, unusable groups, answers that grow or shrink, scores that rise while the
task's own grades fall."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmpu.core import UserError

if TYPE_CHECKING:
    from mmpu.train.record import Record
    from mmpu.train.stage_config import StageConfig

START: dict[str, Any] = {
    "step": 0,
    "position": 0,
    "refused": 0,
    "first_length": None,
    "mean_score": None,
    "windows": [],
    "warned": [],
}
"""A stage's counters before its first step; checkpoints keep them."""
SCORE_MEMORY = 0.9


def drift(state: dict[str, Any], metrics: dict[str, float]) -> dict[str, float]:
    """How far the mean response length has moved from the stage's first step, as a share of it."""
    if "length" not in metrics:
        return {}
    first = state["first_length"] if state["first_length"] is not None else metrics["length"]
    return {"length_drift": metrics["length"] / max(first, 1e-9) - 1}


def watch(
    config: StageConfig,
    state: dict[str, Any],
    metrics: dict[str, float],
    record: Record,
    examples: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The state after a step with these metrics; warns, once about each thing.

    Args:
        examples: A case of what a metric counts, by the metric.

    Raises:
        UserError: too many updates were refused, or too many groups had no usable scores.
    """
    state = {**state, "warned": list(state["warned"])}

    def warn_once(about: str, text: str) -> None:
        if about not in state["warned"]:
            state["warned"].append(about)
            record.warn(f"stage {config.name}: {text}")

    if metrics.get("refused"):
        state["refused"] += 1
        record.warn(f"stage {config.name}: the gradient was not finite; the update was refused (refused.jsonl)")
        if state["refused"] >= config.max_refused:
            raise UserError(
                f"stage {config.name}: {state['refused']} updates had a non-finite gradient; lower optim.lr, or look "
                "at the samples in the run's refused.jsonl"
            )
    if metrics["unusable_groups"] > config.max_skipped:
        raise UserError(
            f"stage {config.name}: {metrics['unusable_groups']:.0%} of the groups had fewer than two usable scores; "
            "look at the scorer's replies, or raise `max_skipped`"
        )
    for name, limit in config.alarms.items():
        if metrics.get(name, 0.0) > limit:
            example = f"; {examples[name]}" if name in examples else ""
            warn_once(name, f"{name} is {metrics[name]:.3f}, above {limit}{example}")
    if "length" in metrics and state["first_length"] is None:
        state["first_length"] = metrics["length"]
    if abs(metrics.get("length_drift", 0.0)) > config.length_alarm:
        warn_once("length", f"response length moved by {metrics['length_drift']:+.0%} since the stage's start")
    if metrics.get("score") == metrics.get("score", float("nan")):
        before = state["mean_score"] if state["mean_score"] is not None else metrics["score"]
        state["mean_score"] = SCORE_MEMORY * before + (1 - SCORE_MEMORY) * metrics["score"]
        state["windows"] = _windows(state["windows"], metrics, config.hacking_window, config.hacking_rises)
        if hacked(state["windows"], config.hacking_window, config.hacking_rises):
            warn_once(
                "hacking",
                f"over {config.hacking_rises} windows of {config.hacking_window} steps the score rose each time and "
                "the task's accuracy fell: the student may have learned to please the scorer instead",
            )
    return state


def _windows(windows: Sequence[Sequence[float]], metrics: dict[str, float], size: int, rises: int) -> list[list[float]]:
    """Sums of score and accuracy and the count of each window of steps, the newest last; no more than are needed."""
    kept = [list(window) for window in windows]
    if "accuracy" not in metrics:
        return kept
    if not kept or kept[-1][2] >= size:
        kept.append([0.0, 0.0, 0])
    accuracy = metrics.get("accuracy_trained", metrics["accuracy"])  # of the same candidates as the score
    for place, value in enumerate((metrics["score"], accuracy, 1)):
        kept[-1][place] += value
    return kept[-(rises + 1) :]


def hacked(windows: Sequence[Sequence[float]], size: int, rises: int) -> bool:
    """True if over the last `rises` full windows the mean score rose each time while the accuracy fell."""
    means = [(score / n, accuracy / n) for score, accuracy, n in windows if n >= size]
    last = means[-(rises + 1) :]
    steps = list(itertools.pairwise(last))
    return len(steps) == rises and all(b[0] > a[0] and b[1] < a[1] for a, b in steps)
