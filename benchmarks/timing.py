"""One process per arm, driven through pipes so that only one computes at a time; rounds run A B C, C B A, ….

On a CPU all processes stay alive, and the arms alternate step by step. On a GPU their models and optimisers would not
fit beside each other; there a process lives for a block of steps, and the blocks alternate.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any


def quiet() -> None:
    """Settings that child processes inherit: no hub, no chatter."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["PYTHONWARNINGS"] = "ignore"


class Worker:
    """A process that holds one object and calls its methods when asked.

    Args:
        make: Builds the object inside the process; a module-level function.
    """

    def __init__(self, make: Callable[..., object], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, method: str, *args: Any) -> Any:
        """The method's result.

        Raises:
            WorkerError: it failed there, or the process died.
        """
        try:
            self.pipe.send((method, args))
            ok, value = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            self.process.join(10)
            raise WorkerError(f"the process ended with exit code {self.process.exitcode}") from None
        if not ok:
            raise WorkerError(value)
        return value

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(None)
        self.process.join(30)
        if self.process.is_alive():
            self.process.kill()


class WorkerError(RuntimeError):
    """A failure inside a process, with its traceback."""


def _serve(pipe: Connection, make: Callable[..., object], args: tuple[Any, ...]) -> None:
    served: object = None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request is None:
            return
        method, values = request
        try:
            if served is None:
                served = make(*args)
            pipe.send((True, getattr(served, method)(*values)))
        except Exception:  # whatever it was, the parent is told and raises it; a silent worker would be waited for
            pipe.send((False, traceback.format_exc()))


# ---------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated steps."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = quantiles(self.seconds, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True)
class Plan:
    """How often an arm is measured."""

    warmup: int = 3
    steps: int = 10
    seconds: float | None = None
    """Stop a row's rounds after so long, though not before one measured step of each arm."""


@dataclass
class Clock:
    """Time left to a row."""

    limit: float | None
    start: float = field(default_factory=time.perf_counter)

    @property
    def over(self) -> bool:
        return self.limit is not None and time.perf_counter() - self.start > self.limit


def interleave(workers: Mapping[str, Worker], plan: Plan, resident: bool) -> dict[str, Timing]:
    """Seconds per step by arm, through the workers' `visit(warmup, steps)`; arms take turns A B C, C B A, ….

    Args:
        resident: Turns of one step each; else two turns, each with warm-ups of its own.
    """
    results: dict[str, list[float]] = {name: [] for name in workers}
    half = max(1, plan.steps // 2)
    turns = [(1, 0)] * plan.warmup + [(0, 1)] * plan.steps if resident else [(plan.warmup, half)] * 2
    clock, order = Clock(plan.seconds), list(workers)
    for index, (warmup, steps) in enumerate(turns):
        if clock.over and results[order[0]]:
            break
        if clock.over and 0 < index < plan.warmup:
            continue
        for name in order:
            results[name] += workers[name].call("visit", warmup, steps)
        order.reverse()
    return {name: Timing(tuple(seconds)) for name, seconds in results.items()}


def synchronise(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


@contextlib.contextmanager
def peak_memory(device: str) -> Generator[list[float]]:
    """Fills a list with the MiB by which memory rose above its start inside the block.

    CUDA's own counter on a GPU; else the resident set, sampled every 2 ms, after freed memory was handed back.
    """
    found: list[float] = []
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        torch.cuda.synchronize()
        found.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = highest = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        highest = max(highest, _resident())
        done.set()
        thread.join()
        found.append((highest - before) / 2**20)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_flops(device: str, dtype: str) -> float:
    """FLOP/s that MFU refers to: the data sheet's dense figure of a known GPU in bf16, else the best matrix product
    measured here."""
    import torch

    sheet = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
    if device != "cpu" and dtype == "bfloat16":
        name = torch.cuda.get_device_name()
        for chip, value in sheet.items():
            if chip in name:
                return value
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    return 2 * n**3 / min(timed(lambda: a @ a, device) for _ in range(5))


# ----------------------------------------------------------------------------------------------------------- reporting


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine(device: str) -> str:
    """One line: what this ran on, with which versions."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def version_of(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    if device == "cpu":
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
        where = f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    else:
        where = torch.cuda.get_device_name()
    packages = [version_of(p) for p in ("torch", "transformers", "accelerate", "trl", "datasets")]
    return f"{where}; Python {platform.python_version()}, {', '.join(packages)}"
