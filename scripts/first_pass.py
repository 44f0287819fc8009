"""How many process starts compute their first pass as the later ones? See mmpu/student/vector_math.py.

    python scripts/first_pass.py [--starts 200] [--threads 2]

Each start loads tiny-text, and computes the log-probabilities of eight responses twice, over several threads: once with
the vector functions settled as a student settles them, once without. The starts are forks of a process that has
imported everything and computed nothing, so that no function has been chosen in it.
"""

from __future__ import annotations

import argparse
import os
import struct

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM  # noqa: F401  (before the fork)

from mmpu.core import Sample, user
from mmpu.student import StudentConfig, Tree, load_student, vector_math

PROMPT = Sample("a", user("How many apples are there, and what do they cost together? " * 8))
RESPONSES = tuple(tuple(range(9 + k, 49 + k)) for k in range(8))


def error(threads: int) -> float:
    """The largest difference between a first pass and a second."""
    torch.set_num_threads(threads)
    student = load_student(StudentConfig("tiny-text"))
    tree = Tree(student.encode(PROMPT), RESPONSES)
    with torch.no_grad():
        first, second = (student(student.pack([tree])) for _ in range(2))
    return float((first - second).abs().max())


def started(threads: int) -> float:
    """`error` in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, struct.pack("d", error(threads)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        found = stream.read()
    os.waitpid(child, 0)
    if not found:
        raise SystemExit("a process failed; its error is above")
    return float(struct.unpack("d", found)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name, functions in (("settled", vector_math.FUNCTIONS), ("left alone", ())):
        vector_math.FUNCTIONS = functions
        errors = [started(options.threads) for _ in range(options.starts)]
        off = [each for each in errors if each > 0]
        print(f"{name}: {len(off)} of {len(errors)} first passes differ, by {max(errors):.1e} at most", flush=True)


if __name__ == "__main__":
    main()
