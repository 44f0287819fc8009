"""B0: is every arm the same computation? Gradients and log-probabilities against plain autograd, in float32.

For each family and form of LDL-GRPO, with ragged candidates of two prompts: mmpu with budgets that hold everything, two
groups' worth and one branch; mmpu without sharing; the plain loop and TRL's `dr_grpo(D − q)` with the groups split over
micro-batches. Exit code 1 if any relative error exceeds 1e-5. Shows nothing about speed.

    python -m benchmarks.b0_gate [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.timing import machine, quiet, table

quiet()

from benchmarks import arms  # noqa: E402
from benchmarks.problem import METHOD, Setting  # noqa: E402
from benchmarks.reference import TOLERANCE, Check, Reference, compare, reference  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one form, text only")
    options = parser.parse_args()
    print(machine("cpu"), flush=True)
    forms: tuple[Any, ...] = ("mean",) if options.quick else ("sum", "mean", "ratio")
    print(table(("model, form", "arm", "case", "log-probs", "gradient"), []), flush=True)
    worst, passed = 0.0, True
    for model, prompt in (("tiny-qwen2", 48), ("tiny-llava", 290), ("tiny-qwen2.5-vl", 290)):
        if options.quick and model != "tiny-qwen2":
            continue
        for form in forms:
            method = replace(METHOD, form=form)
            setting = Setting(model, prompt, 24, k=6, groups=2, method=method)
            expected = reference(setting, ("ldl", "grpo"))
            for name, case, check in _checks(setting, expected):
                worst = max(worst, check.logp_error, check.gradient_error)
                passed &= check.passed
                errors = f"{check.logp_error:.1e} | {check.gradient_error:.1e}"
                print(f"| {model}, {form} | {name} | {case} | {errors} |", flush=True)
    print()
    for name in arms.NAMES:
        if reason := arms.missing(name):
            print(f"left out: {name} ({reason})")
    print(f"largest relative error {worst:.1e}, tolerance {TOLERANCE:.0e}: {'passed' if passed else 'FAILED'}")
    return int(not passed)


def _checks(setting: Setting, expected: Reference) -> Iterator[tuple[str, str, Check]]:
    one, group = setting.prompt + setting.completion, setting.prompt + setting.k * setting.completion
    for case, budget in (("everything at once", 16384), ("one group at a time", group), ("one branch at a time", one)):
        arm = arms.make("ours", replace(setting, tokens_per_pass=budget), expected.logp)
        yield "ours", case, compare(arm, expected)
    for name in ("unshared", "dense"):
        yield name, "everything at once", compare(arms.make(name, setting, expected.logp), expected)
    for name in ("plain", "trl-ldl"):
        if arms.missing(name):
            continue
        arm = arms.make(name, setting, expected.logp)
        for micro in (1, 4, 12):  # 4 rows at a time split the groups of 6
            arm.choose(micro)
            yield name, f"{micro} rows at a time", compare(arm, expected)
    if not arms.missing("trl"):
        yield "trl", "its own loss", compare(arms.make("trl", setting, expected.logp), expected)


if __name__ == "__main__":
    sys.exit(main())
