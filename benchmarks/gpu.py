"""One GPU in ten minutes: is mmpu right on CUDA, what does it keep, how fast is it, against whom.

    python -m benchmarks.gpu              with CUDA: shapes of Qwen2.5-1.5B and 3B and Qwen2.5-VL-3B, random weights
    python -m benchmarks.gpu --tiny       every code path on a CPU, in a minute or two; the numbers mean nothing

Sections run in order of worth, each in a process of its own: one that fails, runs out of memory or out of time costs no
other. Every line is printed as it comes, and all in one table at the end; `--json FILE` keeps them for programs.
The exit code is 1 if something that is checked is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_sections import SECTIONS, Line
from benchmarks.timing import table

MARK = "#line "
"""Begins a line of a section's output that is for this command."""


def main() -> int:
    options = _options()
    if options.section:
        for line in SECTIONS[options.section].run(options.tiny):
            print(MARK + json.dumps(line.__dict__), flush=True)
        return 0
    began, found = time.monotonic(), list[Line]()
    for name, section in SECTIONS.items():
        if options.only and name not in options.only.split(","):
            continue
        left = options.seconds - (time.monotonic() - began)
        for line in _run(name, options.tiny, min(left, section.seconds) if not options.tiny else left):
            found.append(line)
            print(f"[{time.monotonic() - began:5.0f} s] {line.section} · {line.case}: {line.said}", flush=True)
    print(f"\n{table(('section', 'case', 'right', 'found'), [line.cells for line in found])}")
    if options.json:
        options.json.write_text("".join(json.dumps(line.__dict__) + "\n" for line in found))
    return int(any(line.right is False for line in found))


def _run(name: str, tiny: bool, seconds: float) -> Iterator[Line]:
    """A section's lines as they come, and what became of it where it did not end well."""
    if seconds < 5:
        yield Line(name, "all", None, {"left out": "no time"})
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, *(["--tiny"] if tiny else [])]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"HF_HUB_OFFLINE": "1", **os.environ},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        complaints: list[str] = []
        reader = threading.Thread(target=_keep, args=(process.stderr, complaints))
        reader.start()
        late = threading.Event()
        timer = threading.Timer(seconds, _stop, (process, late))
        timer.start()
        for text in process.stdout:
            if text.startswith(MARK):
                yield Line(**json.loads(text.removeprefix(MARK)))
        code = process.wait()
        timer.cancel()
        reader.join()
    if late.is_set():
        yield Line(name, "the rest", None, {"left out": f"stopped after {seconds:.0f} s"})
    elif code:
        said = [line.strip() for line in complaints if line.strip()]
        yield Line(name, "the rest", False, {"ended with": code, "said": (said or ["nothing"])[-1][:200]})


def _keep(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
        del lines[:-50]


def _stop(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    os.killpg(process.pid, signal.SIGKILL)  # with what it has started


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--seconds", type=float, default=600, help="for everything")
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, help="where lines are kept")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.tiny:
        import torch

        if not torch.cuda.is_available():
            parser.error("there is no CUDA device here; --tiny tries every section on a CPU")
    return options


if __name__ == "__main__":
    sys.exit(main())
