"""B2: seconds, memory and FLOPs of one optimiser step of LDL-GRPO on fixed, ragged candidates.

Arms (`arms.py`): trl, trl-ldl, plain, unshared, dense, ours; one process each, interleaved, only one computing at a
time. A row's timings are printed only for arms that pass the gate in the same run: log-probabilities and gradient
within 1e-5 of plain autograd in float32, on the same shapes with two layers.

    python -m benchmarks.b2_update              rows within a time limit each: about two warm-ups, as many steps as fit
    python -m benchmarks.b2_update --full       3 warm-ups and 10 steps of all arms, however long it takes
    python -m benchmarks.b2_update --memory     peak memory at K = 16, C = 512, and with a budget for one branch
    python -m benchmarks.b2_update --sweep      prompt × completion × K of the specification, on --model
    python -m benchmarks.b2_update --quick      every code path on tiny models; the numbers mean nothing

Columns: `s/step` median with quartiles, and minimum; `n` measured steps; `tokens/s` useful tokens, ΣT_k per prompt, so
that neither padding nor repetition of the prompt earns anything; `MFU` of the FLOPs that are needed when nothing is
computed twice, over the peak named in the first line; `decoder tokens` counted at the first layer, those trained on;
`MiB` by which memory rises above weights and optimiser state. It shows nothing about sampling and scoring (see B3), nor
about several devices.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks import timing
from benchmarks.timing import Plan, Timing, Worker, WorkerError, machine, peak_flops, quiet, table

quiet()

import torch  # noqa: E402

from benchmarks import arms, models  # noqa: E402
from benchmarks.counting import counting  # noqa: E402
from benchmarks.problem import Setting, lengths  # noqa: E402
from benchmarks.reference import Check, compare, reference  # noqa: E402

HEADER = ("arm", "s/step", "min", "n", "tokens/s", "MFU", "decoder tokens", "MiB", "log-probs", "gradient", "micro")


@dataclass(frozen=True)
class Row:
    setting: Setting
    arms: tuple[str, ...]
    target: float | None = None
    """Speed-up over the faster of trl-ldl and plain that the project set itself."""
    bound: float | None = None
    """Largest time of ours over unshared's that the project allows itself."""


class Gate:
    """Holds arms against the reference, one after the other; lives in a process of its own."""

    def run(self, setting: Setting, names: Sequence[str]) -> tuple[dict[str, Check], dict[str, int]]:
        """Checks on two layers in float32, and the decoder tokens that each arm trains on."""
        small = replace(setting, layers=2, dtype="float32")
        torch.backends.cuda.matmul.allow_tf32 = False
        expected = reference(small, ("ldl", "grpo") if "trl" in names else ("ldl",))
        checks: dict[str, Check] = {}
        tokens: dict[str, int] = {}
        for name in names:
            arm = arms.make(name, small, expected.logp)
            with counting(arm.model) as counts:
                checks[name] = compare(arm, expected)
            tokens[name] = counts.trained
            del arm
            gc.collect()
        return checks, tokens


class Bench:
    """One arm; lives in a process of its own and is given one setting after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arm: arms.Arm | None = None
        self.setting: Setting | None = None
        self.micro: int | None = None

    def load(self, setting: Setting, micro: int | None = None) -> None:
        self.unload()
        self.setting, self.micro = setting, micro

    def unload(self) -> None:
        """Gives memory back."""
        self.arm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _ready(self) -> arms.Arm:
        assert self.setting is not None
        if self.arm is None:
            # Timing does not depend on the recorded log-probabilities; the gate checked what is made of them.
            self.arm = arms.make(self.name, self.setting)
            if self.micro is not None and self.arm.tunable:
                self.arm.choose(self.micro)
        return self.arm

    def tune(self, sizes: Sequence[int]) -> int | None:
        """The micro-batch size with the fastest gradient, each after one that does not count; None if there is none."""
        arm = self._ready()
        assert self.setting is not None
        if not arm.tunable:
            return None
        best: dict[int, float] = {}
        for size in sizes:
            arm.choose(size)
            try:
                arm.gradient()
                best[size] = timing.timed(arm.gradient, self.setting.device)
            except torch.OutOfMemoryError:
                continue
            finally:
                arm.model.zero_grad(set_to_none=True)
        self.micro = min(best, key=lambda size: best[size])
        arm.choose(self.micro)
        return self.micro

    def visit(self, warmup: int, steps: int) -> list[float]:
        """Seconds of each of `steps` steps after some that do not count."""
        arm = self._ready()
        assert self.setting is not None
        seconds = [timing.timed(arm.step, self.setting.device) for _ in range(warmup + steps)][warmup:]
        if self.setting.device != "cpu":
            self.unload()
        return seconds

    def memory(self) -> tuple[float, float]:
        """Seconds and MiB of one step, after the first one has made the optimiser's state."""
        cold = self.arm is None
        arm = self._ready()
        assert self.setting is not None
        if cold:
            arm.step()
        with timing.peak_memory(self.setting.device) as peak:
            seconds = timing.timed(arm.step, self.setting.device)
        if self.setting.device != "cpu":
            self.unload()
        return seconds, peak[0]


def main() -> int:
    options = _options()
    rows = [] if options.memory else _rows(options)
    wanted = {name for row in rows for name in row.arms}
    if options.memory:
        wanted = set(options.arms.split(",")) if options.arms else {"trl-ldl", "plain", "ours"}
    names = [name for name in arms.NAMES if name in wanted and arms.missing(name) is None]
    peak = peak_flops(options.device, "bfloat16" if options.device == "cuda" else "float32")
    print(f"{machine(options.device)}; peak for MFU {peak / 1e9:,.0f} GFLOP/s", flush=True)
    for name in arms.NAMES:
        if name in wanted and (reason := arms.missing(name)):
            print(f"left out: {name} ({reason}; pip install -r benchmarks/requirements.txt)", flush=True)
    workers = {name: Worker(Bench, name) for name in names}
    gate = Worker(Gate)
    passed = True
    try:
        if options.memory:
            _memory(options, workers)
        else:
            for row in rows:
                passed &= _measure(row, options, workers, gate, peak)
    finally:
        for worker in (*workers.values(), gate):
            worker.close()
    return int(not passed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    for name in ("quick", "full", "memory", "sweep"):
        mode.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", help="a key of models.SHAPES: measure this one at --prompt, --completion, --k")
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--completion", type=int, default=64)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--arms", default=None, help="comma-separated; default: those a row needs, all with --full")
    parser.add_argument("--seconds", type=float, default=40.0, help="limit of a row's rounds, unless --full")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    if options.full:
        return Plan()
    if options.quick:
        return Plan(1, 2)
    return Plan(3 if options.device != "cpu" else 2, 10, options.seconds)


def _rows(options: argparse.Namespace) -> list[Row]:
    rivals = ("trl-ldl", "plain", "ours")
    if options.quick:
        tiny = Setting("tiny-qwen2", 64, 16, device=options.device)
        image = replace(tiny, prompt=290)
        rows = [
            Row(tiny, arms.NAMES, 3.0),
            Row(replace(tiny, prompt=12, completion=32), ("plain", "unshared", "ours"), bound=1.05),
            Row(replace(image, model="tiny-llava"), rivals),
            Row(replace(image, model="tiny-qwen2.5-vl"), rivals),
        ]
    elif options.sweep or options.model:
        model = options.model or ("qwen2.5-1.5b" if options.device == "cuda" else "small-qwen2")
        base = Setting(model, 0, 0, options.k, options.groups, options.vocabulary, device=options.device)
        base = replace(base, dtype="bfloat16" if options.device == "cuda" else "float32")
        cases = [(options.prompt, options.completion, options.k)]
        if options.sweep:
            cases = [(p, c, k) for p in (64, 512, 2048) for c in (128, 256, 512) for k in (4, 8, 16)]
            # an image of 256 tokens needs room
            cases = [(max(p, 320) if base.images else p, c, k) for p, c, k in cases]
        rows = [Row(replace(base, prompt=p, completion=c, k=k), arms.NAMES) for p, c, k in cases]
    elif options.device == "cuda":
        text = Setting("qwen2.5-1.5b", 512, 64, groups=2, device="cuda", dtype="bfloat16")
        rows = [
            Row(text, arms.NAMES),
            Row(replace(text, completion=256), rivals),
            Row(replace(text, prompt=64, completion=512), ("plain", "unshared", "ours"), bound=1.05),
            Row(replace(text, model="qwen2.5-vl-3b", prompt=320, groups=1), arms.NAMES),
        ]
    else:
        text = Setting("small-qwen2", 512, 64)
        wide = replace(text, vocabulary=151_936)
        rows = [
            Row(text, rivals, 3.0),
            Row(replace(text, completion=128), rivals, 2.3),
            Row(wide, rivals, 3.0),
            Row(replace(text, completion=256), ("dense", "ours")),
            Row(replace(text, model="small-llava", prompt=320), rivals, 3.5),
            Row(replace(text, model="small-qwen2.5-vl", prompt=320), rivals, 3.5),
            Row(replace(text, prompt=64, completion=512), ("plain", "unshared", "ours"), bound=1.05),
        ]
        if options.full:
            rows.insert(3, Row(replace(wide, completion=128), rivals, 2.3))
    if options.full:
        rows = [replace(row, arms=arms.NAMES) for row in rows]
    if options.arms:
        rows = [replace(row, arms=tuple(options.arms.split(","))) for row in rows]
    return rows


def _measure(row: Row, options: argparse.Namespace, workers: dict[str, Worker], gate: Worker, peak: float) -> bool:
    """One row: gate, tuning, rounds, memory; prints its table. True if every arm passed the gate."""
    setting = row.setting
    print(f"\n**{setting.name}**\n", flush=True)
    checks, tokens = gate.call("run", setting, [name for name in row.arms if name in workers])
    chosen = {name: workers[name] for name, check in checks.items() if check.passed}
    micro: dict[str, int | None] = {}
    rows = setting.k * setting.groups
    sizes = sorted(
        {rows, max(1, rows // 4)} if not options.full else {s for s in (1, 2, 4, 8, 16, 32) if rows % s == 0}
    )
    for name, worker in list(chosen.items()):
        try:
            worker.call("load", setting)
            micro[name] = worker.call("tune", sizes)
        except WorkerError as error:
            print(f"left out: {name} ({str(error).strip().splitlines()[-1]})", flush=True)
            del chosen[name]
    times = timing.interleave(chosen, _plan(options), resident=setting.device == "cpu")
    memory = {name: worker.call("memory")[1] for name, worker in chosen.items()}
    for worker in chosen.values():
        worker.call("unload")

    completions = [lengths(setting, g) for g in range(setting.groups)]
    useful = sum(map(sum, completions))
    flops = sum(models.minimum_flops(setting.shape, setting.prompt, each, setting.images) for each in completions)
    body: list[list[object]] = []
    for name, check in checks.items():
        accuracy = [f"{check.logp_error:.0e}", f"{check.gradient_error:.0e}"]
        if name not in times:
            body.append([name, "gate failed" if not check.passed else "—", *[""] * 5, "", *accuracy, ""])
            continue
        t = times[name]
        first, third = t.spread
        body.append(
            [
                name,
                f"{t.median:.3g} ({first:.3g}–{third:.3g})",
                f"{min(t.seconds):.3g}",
                len(t.seconds),
                f"{useful / t.median:,.0f}",
                f"{flops / t.median / peak:.1%}",
                f"{tokens[name]:,}",
                f"{memory[name]:,.0f}",
                *accuracy,
                micro[name] or "",
            ]
        )
    print(table(HEADER, body))
    # a completion token's product with the head, in tokens through the decoder
    head = useful * setting.shape.hidden * setting.shape.vocabulary / models.multiplications(setting.shape)
    for line in _verdicts(row, times, tokens, head):
        print(line)
    print(end="", flush=True)
    return all(check.passed for check in checks.values())


def _verdicts(row: Row, times: dict[str, Timing], tokens: dict[str, int], head: float) -> list[str]:
    lines: list[str] = []
    rivals = [name for name in ("trl-ldl", "plain") if name in times]
    if "ours" not in times:
        return lines
    ours = times["ours"].median
    if rivals:
        fastest = min(rivals, key=lambda name: times[name].median)
        speedup, work = times[fastest].median / ours, tokens[fastest] / tokens["ours"]
        line = f"ours over the faster of {' and '.join(rivals)}, {fastest}: {speedup:.2f}× of {work:.2f}× counted work"
        both = (tokens[fastest] + head) / (tokens["ours"] + head)
        line += f" ({speedup / work:.0%}), {both:.2f}× with the head ({speedup / both:.0%})"
        if row.target:
            line += f"; target {row.target}× and 70%: {_met(speedup >= row.target and speedup >= 0.7 * work)}"
        lines.append(line)
    if "unshared" in times:
        share = ours / times["unshared"].median
        line = f"ours takes {share:.2f} of unshared's time"
        lines.append(line + (f"; bound {row.bound}: {_met(share <= row.bound)}" if row.bound else ""))
    return [f"\n{line}" for line in lines]


def _met(condition: bool) -> str:
    return "met" if condition else "not met"


def _memory(options: argparse.Namespace, workers: dict[str, Worker]) -> None:
    """Peak memory with many long candidates, at every size of the rival's, and with a budget for one branch."""
    model = options.model or ("qwen2.5-1.5b" if options.device == "cuda" else "small-qwen2")
    setting = Setting(model, options.prompt, 512, k=16, vocabulary=options.vocabulary, device=options.device)
    setting = replace(setting, dtype="bfloat16" if options.device == "cuda" else "float32")
    one = replace(setting, tokens_per_pass=setting.prompt + setting.completion)
    # the longest candidate comes first, so it is the one that is left
    cases: list[tuple[str, str, Setting, int | None]] = [
        (name, f"{size} rows at a time", setting, size) for name in ("trl-ldl", "plain") for size in (2, 8, 16)
    ]
    cases += [
        ("ours", "all in one pass", setting, None),
        ("ours", "budget for one branch", one, None),
        ("ours", "K = 1", replace(one, k=1), None),
    ]
    cases = [case for case in cases if case[0] in workers]
    found: dict[tuple[str, str], tuple[float, float]] = {}
    body: list[list[object]] = []
    for name, case, each, micro in cases:
        workers[name].call("load", each, micro)
        seconds, mebibytes = found[name, case] = workers[name].call("memory")
        workers[name].call("unload")
        body.append([f"{name}, {case}", f"{mebibytes:,.0f}", f"{seconds:.3g}"])
    print(f"\n**peak memory, {setting.name}**\n\n{table(('arm', 'MiB', 's/step'), body)}")
    rival = [value for (name, _), value in found.items() if name == "trl-ldl"]
    ours = {case: mebibytes for (name, case), (_, mebibytes) in found.items() if name == "ours"}
    if rival and ours:
        best = min(rival)[1]
        share = ours["all in one pass"] / best
        print(f"\nours over trl-ldl at its fastest: {share:.0%}; target 60%: {_met(share <= 0.6)}")
    if ours:
        share = ours["budget for one branch"] / ours["K = 1"]
        print(f"\nbudget for one branch over K = 1: {share:.2f}; bound 1.15: {_met(share <= 1.15)}")


if __name__ == "__main__":
    sys.exit(main())
