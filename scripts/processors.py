"""The numerical tests on other processors than this one, imitated: torch, oneDNN, MKL and OpenBLAS can be told which
instructions to use. Also with more threads than one, on a busy machine, and always in a random order.

    python scripts/processors.py [NAME …] [-- ARGUMENT …]     # of pytest

A test that fails on one of them compares what is not exact, or found a fault: see CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

MACHINES: dict[str, dict[str, str]] = {
    "no-avx": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "threads": {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive"},
    "busy": {},
}
"""Environment variables, beside those of `make test`: one thread, no network. Threads that spin while they wait would
be minutes slower where cores are fewer."""
SPIN = "while True: pass"


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Other processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(name: str, seed: int, arguments: list[str]) -> bool:
    base = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "pytest", "-m", "numerical", f"--shuffle={seed}", *arguments]
    settings = " ".join(f"{key}={value}" for key, value in MACHINES[name].items())
    print(f"{name}: {settings or 'every core busy with something else'}; --shuffle={seed}", flush=True)
    start = time.monotonic()
    with load(os.cpu_count() or 1 if name == "busy" else 0):
        passed = subprocess.run(command, env={**os.environ, **base, **MACHINES[name]}).returncode == 0
    print(f"{name}: {'passed' if passed else 'FAILED'} after {time.monotonic() - start:.0f} s\n", flush=True)
    return passed


def main(given: list[str]) -> int:
    names, arguments = given, []
    if "--" in given:
        names, arguments = given[: given.index("--")], given[given.index("--") + 1 :]
    if unknown := set(names) - set(MACHINES):
        print(f"no machine {', '.join(sorted(unknown))}; there is: {', '.join(MACHINES)}", file=sys.stderr)
        return 2
    seed = int(time.time())
    results = [run(name, seed + number, arguments) for number, name in enumerate(names or MACHINES)]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
