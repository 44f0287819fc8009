"""Pretrain `tiny-vl`, the bundled vision-language student: Qwen2.5-VL's architecture, about a million parameters.

    python scripts/pretrain_image.py           # writes mmpu/models/tiny-vl

It answers questions about generated pictures from text in which a share of the answers is wrong, so that it knows
better than it samples, and it grades candidates against a reference under the toolkit's own self-evaluation prompt.
The first steps are about what both rest on: telling what lies where in a picture, and comparing two short texts that
stand next to each other. No picture of the bundled task's splits is drawn.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from mmpu.core import Part, Sample, user
from mmpu.families.qwen2_5_vl import Qwen25VL
from mmpu.media.images import data_uri
from mmpu.plugins import load_module
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.task.yaml_task import load_task
from pretraining import INIT, SPECIAL, Answering, Grading, build_tokenizer, grading_prompt, measure, muon, noise, train

ROOT = Path(__file__).parent.parent
shapes = load_module(ROOT / "tasks" / "shapes.py")


PATCH, MERGE = 8, 2
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WRONG = 0.3
"""Share of wrong answers in the text that the student reads."""
PLAIN = 0.3
"""Share of pictures with a single shape and lower-case questions, as other data sets have them."""
OTHER = ("{x}", "{x}", "{x}.", "I think it is {x}.", "Answer: {x}.", "It must be {x}.")
DESCRIBE = "Describe the picture."


class Asked(NamedTuple):
    problem: shapes.Problem
    question: str
    choices: list[str]


class Shown(NamedTuple):
    """A picture, what it shows, and questions about it."""

    picture: str
    caption: str
    asked: list[Asked]


def pictures(rng: random.Random) -> Iterator[Shown]:
    """Pictures with questions, without end."""
    for scene in shapes.scenes("pretrain", rng):
        yield plain(rng) if rng.random() < PLAIN else grid(scene, rng)


def grid(scene: shapes.Scene, rng: random.Random, questions: int = 5) -> Shown:
    """A scene of the task, asked about as there."""
    asked: list[Asked] = []
    for _ in range(questions):
        problem = shapes.pick(scene, rng)
        choices = shapes.options(problem, rng)
        asked.append(Asked(problem, shapes.offer(problem.question, choices), choices))
    places = [f"{('top', 'bottom')[i.row]} {('left', 'right')[i.column]}" for i in scene]
    caption = ", ".join(f"{place} {i.colour} {i.shape}" for place, i in zip(places, scene, strict=True))
    return Shown(data_uri(shapes.draw(scene, rng)), caption, asked)


def plain(rng: random.Random) -> Shown:
    """One shape of any size anywhere, asked about in few words and with negations."""
    colour, shape = rng.choice(list(shapes.COLOURS)), rng.choice(shapes.SHAPES)
    asked = [Asked(p, p.question, []) for p in plain_problems(colour, shape, rng)]
    return Shown(data_uri(plain_picture(colour, shape, rng)), f"{colour} {shape}", asked)


def plain_picture(colour: str, shape: str, rng: random.Random) -> Image.Image:
    width = height = rng.randint(8, 33)
    if shape == "rectangle":
        height = rng.randint(8, 33)
    x, y = (rng.randint(0, shapes.SIDE - 1 - side) for side in (width, height))
    picture = shapes.canvas(rng)
    shapes.paint(picture, colour, shape, (x, y, width, height), rng)
    return picture


def plain_problems(colour: str, shape: str, rng: random.Random) -> list[shapes.Problem]:
    it = rng.choice(("shape", shape))
    of_colour = (f"what color is the {it}?", f"what is the color of the {it}?", f"which colour has the {it}?")
    of_shape = ("what shape is in the image?", "what shape is present?", "which shape is shown?", f"what is {colour}?")
    found = [
        shapes.Problem(rng.choice(of_colour), colour, shapes.others(tuple(shapes.COLOURS), colour)),
        shapes.Problem(rng.choice(of_shape), shape, shapes.others(shapes.SHAPES, shape)),
    ]
    other, another = (rng.choice(p.rivals) for p in found)
    present, absent = (f"{colour} shape", shape), (f"{other} shape", another)
    for _ in range(3):
        there, negated = rng.random() < 0.5, rng.random() < 0.5
        thing, end = rng.choice(present if there else absent), rng.choice(("", " in the image"))
        question = rng.choice(
            (f"is there not a {thing}{end}?", f"is no {thing} present?", f"does the image not contain a {thing}?")
            if negated
            else (f"is there a {thing}{end}?", f"is a {thing} present?", f"does the image contain a {thing}?")
        )
        answer = "yes" if there != negated else "no"
        found.append(shapes.Problem(question, answer, shapes.others(("yes", "no"), answer)))
    return found


def slip(asked: Asked, answer: str, rng: random.Random) -> str:
    """A wrong answer, one of those on offer where there are choices."""
    return rng.choice([v for v in asked.choices or (asked.problem.answer, *asked.problem.rivals) if v != answer])


def say(asked: Asked, answer: str, rng: random.Random, teacher: float) -> str:
    """An answer in words; with chance `teacher` in the teacher's."""
    x = shapes.lettered(answer, asked.choices)
    if rng.random() < teacher:
        return rng.choice(shapes.TEACHER).format(x=x)
    if asked.choices and rng.random() < 0.3:
        x = rng.choice([x[:3], answer])
    return rng.choice(OTHER).format(x=x)


def trick(asked: Asked, truth: str, rng: random.Random) -> str:
    """A candidate that deserves nothing, half of the time in the teacher's words."""
    wrong = slip(asked, truth, rng)
    if rng.random() < 0.5:
        return noise(rng, truth, wrong)
    first, second = rng.sample((truth, wrong), 2)
    x = rng.choice((f"{first} or {second}", f"{first} {second}", f"not {truth}", "9", "a picture", "right", "what"))
    return rng.choice(shapes.TEACHER).format(x=x)


def prompt(picture: str, text: str) -> Sample:
    return Sample("pretraining", user(Part("image", picture), text))


def answering(shown: Shown, rng: random.Random) -> Answering:
    """All questions about one picture, some with wrong answers."""
    pairs: list[tuple[Sample, str]] = []
    for asked in shown.asked:
        answer = asked.problem.answer
        if rng.random() < WRONG:
            answer = slip(asked, answer, rng)
        pairs.append((prompt(shown.picture, asked.question), say(asked, answer, rng, 0.6)))
    return Answering(tuple(pairs))


def captioning(shown: Shown) -> Answering:
    return Answering(((prompt(shown.picture, DESCRIBE), shown.caption),))


def grading(shown: Shown, rng: random.Random, bare: bool, candidates: int = 6) -> Grading:
    """A question, a reference, true or made up, and candidates that agree with it or not."""
    asked = rng.choice(shown.asked)
    alone = not bare and rng.random() < 0.05
    truth = asked.problem.answer if alone or rng.random() < 0.5 else slip(asked, asked.problem.answer, rng)
    judged: list[tuple[str, int]] = []
    for _ in range(candidates):
        kind = rng.random()
        if kind < 0.15:
            judged.append((trick(asked, truth, rng), 0))
        elif kind < 0.575:
            judged.append((say(asked, truth, rng, 0.6), rng.choice((8, 9, 9))))
        else:
            judged.append((say(asked, slip(asked, truth, rng), rng, 0.6), rng.choice((0, 0, 1))))
    reference = None if alone else say(asked, truth, rng, 0.6)
    # A bare comparison has nothing to do with the picture.
    sample = Sample("bare", user(asked.question)) if bare else prompt(shown.picture, asked.question)
    return Grading(sample, reference, tuple(judged), bare)


def batches(rng: random.Random, exercises: int) -> Iterator[list[Grading | Answering]]:
    """First captions and bare comparisons, then questions and the whole grading prompt."""
    source = pictures(rng)
    for step in itertools.count():
        if step < exercises:
            yield [
                *(grading(next(source), rng, bare=True) for _ in range(5)),
                *(captioning(next(source)) for _ in range(8)),
            ]
        else:
            yield [
                *(grading(next(source), rng, bare=False) for _ in range(3)),
                grading(next(source), rng, bare=True),
                *(answering(next(source), rng) for _ in range(5)),
            ]


def corpus() -> Iterator[str]:
    """What the tokenizer learns its words from."""
    rng = random.Random(0)
    for shown in itertools.islice(pictures(rng), 1200):
        example = grading(shown, rng, bare=False)
        for text, digit in example.candidates[:2]:
            asked = grading_prompt(Sample("corpus", user(shown.asked[0].question)), example.reference, text)
            yield f"user\n{asked.prompt[0].text}\nassistant\n{digit}\n{DESCRIBE}\n{shown.caption}"


def build(tokenizer: Any, width: int = 128) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained student; every head, of words and of patches, has 32 dimensions."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {f"vision_{end}": f"<|vision_{end}|>" for end in ("start", "end")}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": INIT,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": width,
        "window_size": shapes.SIDE,
        "fullatt_block_indexes": [0, 1],
        "initializer_range": INIT,
    }
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "mmpu/models/tiny-vl")
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--exercises", type=int, default=1800, help="of the steps, captions and bare comparisons")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokenizer = build_tokenizer(corpus(), 640, (*SPECIAL, *VISION))
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": shapes.SIDE**2, "longest_edge": shapes.SIDE**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    student = Student(build(tokenizer), tokenizer, StudentConfig("tiny-vl"), processor, Qwen25VL())
    print(f"{sum(p.numel() for p in student.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    source = batches(random.Random(args.seed), args.exercises)
    seconds = train(student, source, args.steps, muon(student), args.rate, lambda line: print(line, flush=True))
    student.save(args.out)
    print(f"{args.steps} steps in {seconds:.0f} s")
    print({name: round(value, 3) for name, value in measure(student, load_task("shapes")).items()})


if __name__ == "__main__":
    main()
