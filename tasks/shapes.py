"""Visual questions about generated pictures: two to four coloured shapes in a loose grid on a light background.

    python tasks/shapes.py > tasks/shapes.anchors.jsonl

A picture's content (its scene) decides its split through a stable hash, so no scene, and hence no picture, occurs
in two splits. Whoever pretrains on the endless split "pretrain" has seen no picture of the other three.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

COLOURS = {
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
    "red": (230, 25, 25),
    "blue": (25, 45, 235),
    "green": (20, 215, 30),
    "teal": (10, 130, 130),
    "brown": (150, 65, 35),
    "yellow": (245, 230, 20),
}
SHAPES = ("circle", "rectangle", "triangle", "diamond", "cross")
SIDE = 64
CELL = SIDE // 2
LETTERS = "ABC"
TEACHER = (
    "Looking at the picture, I would say it is {x}.",
    "From what I can see here, it must be {x}.",
    "I looked at the picture, and the answer is {x}.",
    "The picture shows this well: the answer is {x}.",
)
"""Wordings of the teacher; all end with the answer."""
BUCKETS = 20
SPLITS = {
    "pretrain": (range(14), None),
    "train": (range(14, 17), 3000),
    "validation": (range(17, 18), 300),
    "test": (range(18, 20), 2000),
}
"""Split -> (the hash buckets that belong to it, how many rows it has)."""
STEPS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation -> the (column, row) step from the named thing to the one asked for."""


class Item(NamedTuple):
    """One shape and the cell of the 2 x 2 grid it lies in."""

    column: int
    row: int
    colour: str
    shape: str


Scene = tuple[Item, ...]


class Problem(NamedTuple):
    """A question with its answer, and wrong answers of the same sort."""

    question: str
    answer: str
    rivals: tuple[str, ...]


def scene_of(rng: random.Random) -> Scene:
    """Two to four shapes out of few colours and kinds, so that counts above one and near misses are common."""
    cells = rng.sample([(column, row) for column in (0, 1) for row in (0, 1)], rng.randint(2, 4))
    colours, shapes = rng.sample(list(COLOURS), 3), rng.sample(SHAPES, 3)
    return tuple(Item(column, row, rng.choice(colours), rng.choice(shapes)) for column, row in sorted(cells))


def bucket(scene: Scene) -> int:
    """The hash bucket of a scene, the same on every machine and in every process."""
    return int.from_bytes(blake2b(repr([tuple(i) for i in scene]).encode(), digest_size=4).digest()) % BUCKETS


def outline(shape: str, x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
    """The corners of a shape that fills the box at (x, y); a circle has none."""
    right, bottom, middle, centre = x + width, y + height, x + width // 2, y + height // 2
    dx, dy = width // 3, height // 3
    return {
        "circle": [],
        "rectangle": [(x, y), (right, y), (right, bottom), (x, bottom)],
        "triangle": [(middle, y), (right, bottom), (x, bottom)],
        "diamond": [(middle, y), (right, centre), (middle, bottom), (x, centre)],
        "cross": [
            *[(x + dx, y), (right - dx, y), (right - dx, y + dy), (right, y + dy)],
            *[(right, bottom - dy), (right - dx, bottom - dy), (right - dx, bottom), (x + dx, bottom)],
            *[(x + dx, bottom - dy), (x, bottom - dy), (x, y + dy), (x + dx, y + dy)],
        ],
    }[shape]


def canvas(rng: random.Random) -> Image.Image:
    """An empty picture with a light tint."""
    return Image.new("RGB", (SIDE, SIDE), tuple(rng.randint(228, 255) for _ in range(3)))


def paint(picture: Image.Image, colour: str, shape: str, box: tuple[int, int, int, int], rng: random.Random) -> None:
    """Draw one shape into the box (x, y, width, height) in some shade of its colour."""
    x, y, width, height = box
    shade = tuple(min(255, max(0, level + rng.randint(-15, 15))) for level in COLOURS[colour])
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((x, y, x + width, y + height), fill=shade)
    else:
        pen.polygon(outline(shape, x, y, width, height), fill=shade)


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """A picture of the scene; sizes and places vary within the cells."""
    picture = canvas(rng)
    for item in scene:
        width = height = rng.randint(13, 25)
        if item.shape == "rectangle":
            height = rng.randint(13, 25)
        x = item.column * CELL + rng.randint(2, CELL - 3 - width)
        y = item.row * CELL + rng.randint(2, CELL - 3 - height)
        paint(picture, item.colour, item.shape, (x, y, width, height), rng)
    return picture


def others(values: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """What else the answer might have been."""
    return tuple(v for v in values if v != answer)


def problems(scene: Scene) -> dict[str, list[Problem]]:
    """Every question with exactly one answer, by kind."""
    colours, shapes = Counter(i.colour for i in scene), Counter(i.shape for i in scene)
    pairs = Counter((i.colour, i.shape) for i in scene)
    at = {(i.column, i.row): i for i in scene}
    found: dict[str, list[Problem]] = {k: [] for k in ("colour", "shape", "count", "exist", "beside")}
    numbers = tuple(map(str, range(5)))

    def add(kind: str, question: str, answer: str, values: tuple[str, ...]) -> None:
        found[kind].append(Problem(question, answer, others(values, answer)))

    for colour, shape, n in [(i.colour, i.shape, pairs[i.colour, i.shape]) for i in scene]:
        if shapes[shape] == 1:
            add("colour", f"What colour is the {shape}?", colour, tuple(COLOURS))
        if colours[colour] == 1:
            add("shape", f"Which shape is {colour}?", shape, SHAPES)
        if n == 1:
            add("exist", f"Is there a {colour} {shape}?", "yes", ("yes", "no"))
    for shape in sorted(shapes):
        add("count", f"How many {shape} shapes are there?", str(shapes[shape]), numbers)
    add("count", "How many shapes are there?", str(len(scene)), numbers)
    for colour in sorted(colours):
        add("count", f"How many {colour} shapes are there?", str(colours[colour]), numbers)
        for shape in sorted(set(shapes) | {SHAPES[len(colour) % len(SHAPES)]}):
            if (colour, shape) not in pairs:
                add("exist", f"Is there a {colour} {shape}?", "no", ("yes", "no"))
    for item in scene:
        if pairs[item.colour, item.shape] > 1:
            continue
        for relation, (dx, dy) in STEPS.items():
            if target := at.get((item.column + dx, item.row + dy)):
                place = f"{relation} the {item.colour} {item.shape}"
                add("beside", f"Which shape is {place}?", target.shape, SHAPES)
                add("beside", f"What colour is the shape {place}?", target.colour, tuple(COLOURS))
    return found


def pick(scene: Scene, rng: random.Random) -> Problem:
    """One question about the scene: kinds are equally likely, and so are yes and no."""
    found = problems(scene)
    kind = rng.choice([k for k, v in found.items() if v])
    choices = found[kind]
    if kind == "exist":
        answer = rng.choice(("yes", "no"))
        choices = [p for p in choices if p.answer == answer] or choices
    return rng.choice(choices)


def lettered(answer: str, choices: list[str]) -> str:
    """The answer as it is to be given: with its letter where there are choices."""
    return f"({LETTERS[choices.index(answer)]}) {answer}" if choices else answer


def options(problem: Problem, rng: random.Random) -> list[str]:
    """Three choices in random order, or none: numbers and colours and shapes can be offered, yes and no cannot."""
    if len(problem.rivals) < 2 or rng.random() < 0.5:
        return []
    return rng.sample([problem.answer, *rng.sample(problem.rivals, 2)], 3)


def offer(question: str, choices: list[str]) -> str:
    """The question with its lettered choices written out."""
    return " ".join([question, *(lettered(c, choices) for c in choices)])


def scenes(split: str, rng: random.Random) -> Iterator[Scene]:
    """Scenes of one split, without end; those of the finite splits do not repeat."""
    buckets, size = SPLITS[split]
    seen: set[Scene] = set()
    while True:
        scene = scene_of(rng)
        if bucket(scene) in buckets and scene not in seen:
            if size is not None:
                seen.add(scene)
            yield scene


def rows(split: str) -> Iterator[dict[str, Any]]:
    """The rows of "train", "validation" or "test", or the endless "pretrain"; the same ones every time."""
    rng = random.Random(f"shapes {split}")
    numbers = count() if SPLITS[split][1] is None else range(SPLITS[split][1])
    for number, scene in zip(numbers, scenes(split, rng), strict=False):
        problem = pick(scene, rng)
        choices = options(problem, rng)
        yield {
            "id": f"shapes-{split}-{number:04d}",
            "question": offer(problem.question, choices),
            "choices": choices,
            "answer": problem.answer,
            "letter": LETTERS[choices.index(problem.answer)] if choices else "",
            "reference": f"The answer is {problem.answer}.",
            "anchor": rng.choice(TEACHER).format(x=problem.answer),
            "image": draw(scene, rng),
        }


def main() -> None:
    """Prints the teacher's answers to everything that may be trained on."""
    for split in ("train", "validation"):
        for row in rows(split):
            print(json.dumps({"id": row["id"], "output": row["anchor"]}))


if __name__ == "__main__":
    main()
