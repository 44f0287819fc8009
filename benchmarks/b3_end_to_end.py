"""B3: a whole step of LDL-GRPO, generate, score and update, and generation alone.

Pipelines (`pipeline.py`): trl (its own generation and update, padded scoring), plain, ours; one process each, steps
interleaved A B C, C B A, lengths forced. Printed only if the pipelines' scores agree to 1e-4 and the lengths are as
forced; what the updates compute is held against autograd by B0 and B2.

    python -m benchmarks.b3_end_to_end            rows within a time limit each
    python -m benchmarks.b3_end_to_end --full     3 warm-ups and 10 steps, however long it takes
    python -m benchmarks.b3_end_to_end --quick    every code path on tiny models; the numbers mean nothing

Seconds are medians with quartiles, `tokens/s` counts sampled tokens. Sampling draws tokens one by one from random
weights; it does not show what an inference server would do, and nothing about several devices. The update has neither
reference model nor evaluator copy, which all pipelines would pay for alike per token.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import replace
from typing import Any

from benchmarks import timing
from benchmarks.timing import Clock, Plan, Timing, Worker, WorkerError, machine, quiet, table

quiet()

import torch  # noqa: E402

from benchmarks import arms, pipeline  # noqa: E402
from benchmarks.counting import counting  # noqa: E402
from benchmarks.problem import Setting  # noqa: E402

PARTS = ("generate", "score", "update")
RIVALS = {"trl": "trl-ldl", "plain": "plain", "ours": "ours"}
"""Pipelines, and the arm of the update that each needs."""
GENERATION_TARGET = 2.0


class Bench:
    """One pipeline; lives in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.setting: Setting | None = None
        self.parts: tuple[str, ...] = PARTS
        self.pipe: pipeline.Pipeline | None = None

    def load(self, setting: Setting, parts: tuple[str, ...]) -> None:
        self.unload()
        self.setting, self.parts = setting, parts

    def unload(self) -> None:
        """Gives memory back."""
        self.pipe = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _ready(self) -> tuple[pipeline.Pipeline, Setting]:
        assert self.setting is not None
        if self.pipe is None:
            self.pipe = pipeline.make(self.name, self.setting)
        return self.pipe, self.setting

    def check(self) -> tuple[list[int], list[float], int]:
        """Lengths that were generated, scores, and decoder tokens of generating."""
        pipe, _ = self._ready()
        with counting(pipe.model) as counts:
            lengths = pipe.generate()
        return lengths, pipe.score() if "score" in self.parts else [], counts.forward

    def visit(self) -> tuple[float, ...]:
        """Seconds of each part of a step."""
        pipe, setting = self._ready()
        return tuple(timing.timed(getattr(pipe, part), setting.device) for part in self.parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true")
    mode.add_argument("--full", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=100.0, help="limit of a row's rounds, unless --full")
    options = parser.parse_args()
    print(machine(options.device), flush=True)
    names: list[str] = []
    for name, arm in RIVALS.items():
        if reason := arms.missing(arm):
            print(f"left out: {name} ({reason}; pip install -r benchmarks/requirements.txt)", flush=True)
        else:
            names.append(name)
    plan = Plan() if options.full else Plan(1, 2) if options.quick else Plan(1, 10, options.seconds)
    workers = {name: Worker(Bench, name) for name in names}
    agreed = True
    try:
        for setting, parts in _rows(options):
            agreed &= _measure(setting, parts, plan, workers)
    finally:
        for worker in workers.values():
            worker.close()
    return int(not agreed)


def _rows(options: argparse.Namespace) -> list[tuple[Setting, tuple[str, ...]]]:
    if options.quick:
        text = Setting("tiny-qwen2", 64, 16, device=options.device)
        return [
            (text, PARTS),
            (replace(text, model="tiny-llava", prompt=290), PARTS),
            (replace(text, model="tiny-qwen2.5-vl", prompt=290), PARTS),
            (text, ("generate",)),
        ]
    if options.device == "cuda":
        text = Setting("qwen2.5-1.5b", 512, 256, device="cuda", dtype="bfloat16")
        image = replace(text, model="qwen2.5-vl-3b", prompt=320, completion=128)
        return [(text, PARTS), (image, PARTS)]
    text = Setting("small-qwen2", 512, 64)
    wide = replace(text, vocabulary=151_936)
    return [(text, PARTS), (replace(text, model="small-llava", prompt=320), PARTS), (wide, ("generate",))]


def _measure(setting: Setting, parts: tuple[str, ...], plan: Plan, workers: dict[str, Worker]) -> bool:
    """One row; prints its table. True if all pipelines agree."""
    print(f"\n**{setting.name}: {', '.join(parts)}**\n", flush=True)
    clock = Clock(plan.seconds)
    checks: dict[str, tuple[list[int], list[float], int]] = {}
    for name, worker in workers.items():
        try:
            worker.call("load", setting, parts)
            checks[name] = worker.call("check")
        except WorkerError as error:
            print(f"left out: {name} ({str(error).strip().splitlines()[-1]})", flush=True)
    if not _agree(checks, setting):
        return False
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in checks}
    order = list(checks)
    for index in range(-plan.warmup, plan.steps):
        if index > 0 and clock.over:
            break
        for name in order:
            value = workers[name].call("visit")
            if index >= 0:
                seconds[name].append(value)
        order.reverse()
    for name in checks:
        workers[name].call("unload")
    totals = {name: Timing(tuple(sum(step) for step in steps)) for name, steps in seconds.items()}
    tokens = setting.k * setting.groups * setting.completion
    body: list[list[object]] = []
    for name, steps in seconds.items():
        each = [Timing(values) for values in zip(*steps, strict=True)]
        first, third = totals[name].spread
        body.append(
            [
                name,
                *(f"{t.median:.3g}" for t in each),
                f"{totals[name].median:.3g} ({first:.3g}–{third:.3g})",
                f"{min(totals[name].seconds):.3g}",
                len(steps),
                f"{tokens / each[0].median:,.0f}",
                f"{checks[name][2]:,}",
            ]
        )
    header = ("pipeline", *(f"{part} s" for part in parts), "step s", "min", "n", "sampled tokens/s")
    print(table((*header, "decoder tokens of generating"), body))
    _verdict(parts, totals)
    return True


def _verdict(parts: tuple[str, ...], totals: dict[str, Timing]) -> None:
    rivals = [name for name in totals if name != "ours"]
    if "ours" not in totals or not rivals:
        return
    fastest = min(rivals, key=lambda name: totals[name].median)
    speedup = totals[fastest].median / totals["ours"].median
    line = f"\nours over the faster of {' and '.join(rivals)}, {fastest}: {speedup:.2f}×"
    if parts == ("generate",):
        met = "met" if speedup >= GENERATION_TARGET else "not met"
        line += f"; target {GENERATION_TARGET}×: {met}"
    print(line, flush=True)


def _agree(checks: dict[str, Any], setting: Setting) -> bool:
    """Whether all pipelines did the same work; float32 only, in bf16 the difference is told."""
    expected = [setting.completion] * (setting.k * setting.groups)
    for name, (lengths, _, _) in checks.items():
        if lengths != expected:
            print(f"gate failed: {name} generated {lengths} tokens instead of {setting.completion} each", flush=True)
            return False
    scores = [torch.tensor(score, dtype=torch.float64) for _, score, _ in checks.values() if score]
    if not scores:
        return True
    apart = max(float((score - scores[0]).abs().max()) for score in scores)
    print(f"scores differ by {apart:.0e} at most\n")
    if setting.dtype == "float32" and not apart <= 1e-4:
        print("gate failed: the pipelines' scores differ", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
