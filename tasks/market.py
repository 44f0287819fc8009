"""Word problems of a market stall with small numbers in words, one or two steps; a third are multiple choice.

    python tasks/market.py > tasks/market.anchors.jsonl

A problem is its kind, its numbers and its wording; a hash of kind and numbers decides the split, so no calculation of
one split occurs in another, in whatever words. Pretraining of the bundled student draws from the `train` side only.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
THINGS = ("apples", "pears", "plums", "figs", "eggs", "nuts")
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
LETTERS = "ABC"
SIZES = {"train": 3000, "validation": 300, "test": 2000}
KINDS = ("add", "take", "add_take", "more", "twice")
TEACHER = ("The answer is {x}.", "That makes {x}.", "It is {x}.", "{name} has {x}.")
"""Wordings of the teacher; all end with the answer."""

Row = dict[str, Any]


def problem(kind: str, a: int, b: int, c: int) -> int:
    """The number that answers a problem of a kind; for `more`, the larger one."""
    return {"add": a + b, "take": a - b, "add_take": a + b - c, "more": max(a, b), "twice": 2 * a}[kind]


def draw(rng: random.Random, largest: int = 8) -> tuple[str, int, int, int]:
    """A kind with numbers up to `largest` whose answer lies between one and twenty."""
    while True:
        kind = rng.choices(KINDS, (5, 5, 8, 3, 1))[0]
        rest = largest * 3 // 4
        a, b, c = rng.randint(1, largest), rng.randint(1, rest), rng.randint(1, rest)
        if kind == "twice":
            b = 0
        if kind != "add_take":
            c = 0
        if a != b and 1 <= problem(kind, a, b, c) <= 20 and a + b <= 20:
            return kind, a, b, c


def side(kind: str, a: int, b: int, c: int) -> str:
    """The split that a calculation belongs to, by a stable hash. Single steps are few, and all belong to training."""
    if kind != "add_take":
        # The numbers are shared; names and things tell these splits apart.
        return "any"
    bucket = hashlib.sha256(f"{kind}|{a}|{b}|{c}".encode()).digest()[0]
    return "test" if bucket < 64 else "validation" if bucket < 90 else "train"


def word(kind: str, a: int, b: int, c: int, rng: random.Random) -> tuple[str, str]:
    """The question, and the name of whom it is about."""
    x, y = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    m, n, o = NUMBERS[a], NUMBERS[b], NUMBERS[c]
    some = f"{m} {thing[:-1] if a == 1 else thing}"
    text = {
        "add": f"{x} has {some} and buys {n} more.",
        "take": f"{x} has {some} and sells {n}.",
        "add_take": f"{x} has {some}, buys {n} and sells {o}.",
        "more": f"{x} has {some} and {y} has {n}. Who has more?",
        "twice": f"{y} has {some} and {x} has twice as many.",
    }[kind]
    if kind != "more":
        text += f" How many {thing} has {x}?"
    return text, (x if kind != "more" or a > b else y)


def make(kind: str, a: int, b: int, c: int, rng: random.Random) -> Row:
    """A row without its id."""
    text, name = word(kind, a, b, c, rng)
    value = problem(kind, a, b, c)
    answer = name if kind == "more" else NUMBERS[value]
    choices: list[str] = []
    letter = ""
    if kind != "more" and rng.random() < 0.4:
        near = [v for v in range(max(1, value - 4), min(20, value + 4) + 1) if v != value]
        choices = [answer, *(NUMBERS[v] for v in rng.sample(near, 2))]
        rng.shuffle(choices)
        letter = LETTERS[choices.index(answer)]
        text += " " + " ".join(f"({mark}) {choice}" for mark, choice in zip(LETTERS, choices, strict=True))
    wording = rng.choice(TEACHER[:3] if kind == "more" else TEACHER)
    return {
        "question": text,
        "choices": choices,
        "answer": answer,
        "letter": letter,
        "reference": f"The answer is {answer}.",
        "anchor": wording.format(x=answer, name=name),
    }


def rows(split: str) -> Iterator[Row]:
    """The rows of `train`, `validation` or `test`: the same ones each time, no question twice over all splits."""
    seen: set[str] = set()
    for name, size in SIZES.items():  # earlier splits first, since a question they hold is taken
        rng = random.Random(f"market {name}")
        made = 0
        while made < size:
            numbers = draw(rng)
            if side(*numbers) not in (name, "any"):
                continue
            row = make(*numbers, rng)
            if row["question"] in seen:
                continue
            seen.add(row["question"])
            made += 1
            if name == split:
                yield {"id": f"{name}-{made}", **row}
        if name == split:
            return


def main() -> None:
    """Prints the teacher's answers to everything that may be trained on."""
    for split in ("train", "validation"):
        for row in rows(split):
            print(json.dumps({"id": row["id"], "output": row["anchor"]}))


if __name__ == "__main__":
    main()
