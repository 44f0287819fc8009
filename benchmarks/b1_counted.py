"""B1: how much work one step of LDL-GRPO is, counted at the model's own modules. Deterministic; no clock.

Every pipeline generates, scores and updates for real on a tiny model; hooks on the first decoder layer, the vision
tower and the image processor, and a look at every matrix product with the output head, count what is computed. The
counts depend on lengths only, so they are those of any model of the family. In forward-token equivalents a backward
pass counts as two forward passes. It shows nothing about time: a token costs more attention behind a longer context,
and small batches use hardware badly.

    python -m benchmarks.b1_counted [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

from benchmarks.timing import machine, quiet, table

quiet()

from benchmarks import arms, pipeline  # noqa: E402
from benchmarks.counting import Counts, counting  # noqa: E402
from benchmarks.problem import METHOD, Setting  # noqa: E402

LIMIT = 13_500
"""Forward-token equivalents per prompt that the project allows itself at P = 512, A = C = 256, K = 8."""
HEADER = (
    *("pipeline", "part", "decoder tokens, no grad", "with grad", "equivalents", "decoder passes", "head rows"),
    *("images through the tower", "images preprocessed"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short candidates")
    options = parser.parse_args()
    print(machine("cpu"), flush=True)
    completion = 32 if options.quick else 256
    text = Setting("tiny-qwen2", 512, completion, k=8, ragged=False)
    within = True
    for setting in (text, replace(text, model="tiny-llava"), replace(text, model="tiny-qwen2.5-vl")):
        rows: list[list[object]] = []
        for name in ("trl-ldl", "plain", "ours"):
            if reason := arms.missing(name):
                print(f"left out: {name} ({reason}; pip install -r benchmarks/requirements.txt)", flush=True)
                continue
            parts = measure(name, setting)
            total = sum(counts.equivalents for counts in parts.values())
            rows += [_cells(name, part, counts) for part, counts in parts.items()]
            rows.append([f"**{name}**", "**step**", "", "", f"**{total:,}**", "", "", "", ""])
            if name == "ours" and setting.model == "tiny-qwen2" and not options.quick:
                within = total <= LIMIT
        print(f"\n**{setting.name}, one prompt, anchor of {completion} tokens, judge template 32**\n")
        print(table(HEADER, rows), flush=True)
    if not options.quick:
        print(f"\nlimit of {LIMIT:,} equivalents for ours on text: {'met' if within else 'NOT MET'}")
    return int(not within)


def measure(name: str, setting: Setting) -> dict[str, Counts]:
    """Counts of a step's parts, the encoding of its prompt included, on a fresh model."""
    pipe = pipeline.make(name, replace(setting, method=METHOD))
    parts: dict[str, Callable[[], object]] = {
        "generate": pipe.generate,
        "score": pipe.score,
        "update": pipe.update,
    }
    found: dict[str, Counts] = {}
    for part, run in parts.items():
        with counting(pipe.model, pipe.work.encoder.image_processor) as counts:
            run()
        found[part] = counts
    return found


def _cells(name: str, part: str, counts: Counts) -> list[object]:
    numbers = (counts.forward, counts.trained, counts.equivalents, counts.passes, round(counts.head_rows))
    # The others' batches come prepared here.
    prepared = counts.preprocessed if name == "ours" else "not counted"
    return [name, part, *(f"{n:,}" for n in (*numbers, counts.tower_images)), prepared]


if __name__ == "__main__":
    sys.exit(main())
