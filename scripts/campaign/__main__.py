"""A campaign against mmpu: kills, hostile replies, fuzzed input, a full disk, races. Seeded; one table at the end.

    python -m scripts.campaign [--seed N] [--scale X] [ARM …]        # kills replies fuzz disk races; default: all

A scale of 1 takes some minutes on two cores; 0.1 is a smoke test. Exit 1 if anything failed. Each failure is printed
with what is needed to see it again.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts.campaign import disk, fuzz, kills, races, replies
from scripts.campaign.outcome import Outcome

ARMS: dict[str, Callable[[Path, int, float], list[Outcome]]] = {
    "kills": kills.run,
    "replies": replies.run,
    "fuzz": fuzz.run,
    "disk": disk.run,
    "races": races.run,
}


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts.campaign")
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args(given)
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"no arm {', '.join(sorted(unknown))}; there is: {', '.join(ARMS)}")
    found: list[tuple[str, Outcome, float]] = []
    for arm in options.arms or ARMS:
        with tempfile.TemporaryDirectory(prefix=f"campaign-{arm}-") as folder:
            start = time.monotonic()
            outcomes = ARMS[arm](Path(folder), options.seed, options.scale)
            spent = time.monotonic() - start
        found += [(arm, outcome, spent / len(outcomes)) for outcome in outcomes]
        for outcome in outcomes:
            for failure in outcome.failures[:10]:
                print(f"{arm}, {outcome.what}: {failure}", file=sys.stderr, flush=True)
    print(f"seed {options.seed}, scale {options.scale:g}; Python {platform.python_version()}, {platform.machine()}\n")
    print("| arm | what | trials | failures | seen | s |\n| --- | --- | ---: | ---: | --- | ---: |")
    for arm, outcome, seconds in found:
        told = f"{outcome.what} | {outcome.trials:,} | {len(outcome.failures)} | {outcome.note or '–'} | {seconds:.0f}"
        print(f"| {arm} | {told} |")
    return int(any(outcome.failures for _, outcome, _ in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
