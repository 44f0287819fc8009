"""Word problems from an orchard: one or two steps with small numbers, free-form or with three lettered options.

The numbers of a problem decide its split: a stable hash of (kind, numbers) puts them into "test", "validation",
"train" or "pretrain", so no two splits share a prompt, and a student meets in the test only sums it was not taught.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jade", "Kim", "Leo")
FRUITS = ("apples", "pears", "plums", "figs", "limes", "cherries", "peaches", "lemons")
LETTERS = "ABC"
SIZES = {"train": 3000, "validation": 300, "test": 1000}
BUCKETS = {"test": range(0, 4), "validation": range(4, 5), "train": range(5, 10), "pretrain": range(10, 20)}
CONCLUSIONS = ("{work}. The answer is {final}.", "{work}, so the answer is {final}.", "The answer is {final}.")


@dataclass(frozen=True)
class _Kind:
    """A family of problems over the numbers (a, b) or (a, b, c)."""

    stories: tuple[str, ...]
    """Texts over a, b, c, two names {n} and {m}, two fruits {f} and {g}."""
    ranges: tuple[range, ...]
    solve: Callable[..., int]
    work: str
    """The teacher's working; {x} is the result."""
    named: bool = False
    """The answer is the name of whoever has the larger number."""


_SMALL, _MIDDLE = range(2, 10), range(2, 25)
_KINDS = {
    "sum": _Kind(
        (
            "{n} picks {a} {f} and {b} {g}. How much fruit is that?",
            "A crate holds {a} {f}. {n} adds {b} more. How many {f} are in the crate?",
            "{n} has {a} {f} and {m} has {b}. How many do they have together?",
        ),
        (_MIDDLE, _MIDDLE),
        lambda a, b: a + b,
        "{a} + {b} = {x}",
    ),
    "difference": _Kind(
        (
            "{n} has {a} {f} and sells {b}. How many are left?",
            "{n} has {a} {f} and {m} has {b}. How many more does {n} have?",
            "The shop wants {a} {f} and has {b}. How many are missing?",
        ),
        (_MIDDLE, _MIDDLE),
        lambda a, b: a - b,
        "{a} - {b} = {x}",
    ),
    "product": _Kind(
        (
            "{n} fills {a} bags with {b} {f} each. How many {f} is that?",
            "There are {a} rows of {b} trees. How many trees are there?",
            "One box of {f} costs {a} coins. {n} buys {b} boxes. How many coins is that?",
        ),
        (_SMALL, _SMALL),
        lambda a, b: a * b,
        "{a} x {b} = {x}",
    ),
    "two steps": _Kind(
        (
            "{n} picks {a} {f}, buys {b} and sells {c}. How many are left?",
            "{n} has {a} {f}. {m} brings {b} more. They eat {c}. How many {f} remain?",
        ),
        (range(2, 16), range(2, 16), _SMALL),
        lambda a, b, c: a + b - c,
        "{a} + {b} - {c} = {x}",
    ),
    "who": _Kind(
        (
            "{n} has {a} {f} and {m} has {b}. Who has more?",
            "{n} sells {a} {f}. {m} sells {b}. Who sells more?",
        ),
        (_MIDDLE, _MIDDLE),
        lambda a, b: abs(a - b),
        "{a} is more than {b}",
        named=True,
    ),
}


def _bucket(kind: str, numbers: tuple[int, ...]) -> int:
    return zlib.crc32(repr((kind, numbers)).encode()) % 20


def _options(rng: random.Random, answer: int, numbers: tuple[int, ...]) -> list[str]:
    """The answer among two likely slips."""
    slips = {answer - 2, answer - 1, answer + 1, answer + 2, answer + 10, sum(numbers), abs(numbers[0] - numbers[1])}
    wrong = rng.sample(sorted(s for s in slips if s > 0 and s != answer), 2)
    return rng.sample([str(answer), *map(str, wrong)], 3)


def _problem(rng: random.Random, split: str) -> dict:
    while True:
        name = rng.choice(list(_KINDS))
        kind = _KINDS[name]
        numbers = tuple(rng.choice(values) for values in kind.ranges)
        x = kind.solve(*numbers)
        if x > 0 and _bucket(name, numbers) in BUCKETS[split]:
            break
    n, m = rng.sample(NAMES, 2)
    f, g = rng.sample(FRUITS, 2)
    a, b, c = (*numbers, 0)[:3]
    question = rng.choice(kind.stories).format(a=a, b=b, c=c, n=n, m=m, f=f, g=g)
    if kind.named:
        answer = n if a > b else m
        options = rng.sample([n, m, "neither"], 3)
        a, b = max(a, b), min(a, b)
    else:
        answer = str(x)
        options = _options(rng, x, numbers)
    letter, choices, final = "", [], answer
    if rng.random() < 0.4:
        letter, choices = LETTERS[options.index(answer)], options
        final = f"({letter}) {answer}"
        question += "\n" + " ".join(f"({mark}) {option}" for mark, option in zip(LETTERS, options, strict=True))
    work = kind.work.format(a=a, b=b, c=c, x=x)
    return {
        "question": question,
        "choices": choices,
        "answer": answer,
        "letter": letter,
        "reference": CONCLUSIONS[0].format(work=work, final=final),
        "anchor": rng.choices(CONCLUSIONS, (6, 3, 1))[0].format(work=work, final=final),
    }


def rows(split: str) -> Iterator[dict]:
    """The rows of a split, the same every time and no prompt twice; the split "pretrain" never ends."""
    rng = random.Random(f"orchard {split}")
    seen: set[str] = set()
    for i in count():
        if i == SIZES.get(split):
            return
        row = _problem(rng, split)
        while split in SIZES and row["question"] in seen:
            row = _problem(rng, split)
        seen.add(row["question"])
        yield {"id": f"orchard-{split}-{i}", **row}
