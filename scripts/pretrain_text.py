"""Pretrain `tiny-text`, the bundled text student.

    python scripts/pretrain_text.py            # writes mmpu/models/tiny-text

A small Qwen2 learns two things from generated text. It answers market problems, but, as with text from the web, a
share of the answers it reads is wrong, so it knows better than it samples: the room that alignment works in. And it
grades: under the toolkit's own self-evaluation prompt it compares a candidate with a reference that is as often made
up as true, so it has to read it. A grading prompt's candidates share one trunk, as everywhere in mmpu.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from mmpu.core import Sample, user
from mmpu.plugins import load_module
from mmpu.student.loading import load_student
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.task.yaml_task import load_task
from pretraining import INIT, Answering, Grading, adamw, build_tokenizer, grading_prompt, measure, noise, train

ROOT = Path(__file__).parent.parent
market = load_module(ROOT / "tasks" / "market.py")


WRONG = 0.25
"""Share of wrong answers in the text that the student reads."""
OTHER = ("{x}", "{x}.", "I think it is {x}.", "Answer: {x}.", "It must be {x}.", "{name} has {x}.", "So {x}.")


def sample(row: market.Row) -> Sample:
    return Sample("pretraining", user(row["question"]))


def slip(row: market.Row, rng: random.Random) -> str:
    """A wrong answer of the likely sort."""
    if row["choices"]:
        return rng.choice([c for c in row["choices"] if c != row["answer"]])
    if row["answer"] in market.NAMES:
        return rng.choice([n for n in market.NAMES if n in row["question"] and n != row["answer"]])
    value = market.NUMBERS.index(row["answer"])
    near = [v for v in range(max(1, value - 3), min(20, value + 3) + 1) if v != value]
    return market.NUMBERS[rng.choice(near)]


def shown(row: market.Row, answer: str) -> str:
    return f"({market.LETTERS[row['choices'].index(answer)]}) {answer}" if row["choices"] else answer


def say(row: market.Row, answer: str, rng: random.Random, teacher: float) -> str:
    """An answer in words; with chance `teacher` in the teacher's."""
    wordings = market.TEACHER[:1] if row["choices"] else market.TEACHER[:3]
    wording = rng.choice(wordings if rng.random() < teacher else OTHER)
    x = shown(row, answer)
    if row["choices"] and rng.random() < 0.3 * (1 - teacher):
        x = rng.choice([x[:3], answer])
    return wording.format(x=x, name=rng.choice(market.NAMES)) if "{name}" in wording else wording.format(x=x)


def answering(rng: random.Random, largest: int) -> Answering:
    row = problem(rng, largest)
    answer = slip(row, rng) if rng.random() < WRONG else row["answer"]
    return Answering(((sample(row), say(row, answer, rng, 0.6)),))


def problem(rng: random.Random, largest: int = 12) -> market.Row:
    """A problem from the training side: its calculation is in no other split."""
    while True:
        numbers = market.draw(rng, largest)
        if market.side(*numbers) in ("train", "any"):
            return market.make(*numbers, rng)


def grading(rng: random.Random, candidates: int = 6) -> Grading:
    """A problem, a reference, true or made up, and candidates that agree with it or not."""
    row = problem(rng)
    alone = rng.random() < 0.05
    if not alone and rng.random() < 0.5:
        row = {**row, "answer": slip(row, rng)}
    judged: list[tuple[str, int]] = []
    for _ in range(candidates):
        kind = rng.random()
        if kind < 0.1:
            judged.append((noise(rng, row["answer"], slip(row, rng)), 0))
        elif kind < 0.55:
            judged.append((say(row, row["answer"], rng, 0.6), rng.choice((8, 9, 9))))
        else:
            judged.append((say(row, slip(row, rng), rng, 0.6), rng.choice((0, 0, 1))))
    reference = None if alone else say(row, row["answer"], rng, 0.7)
    return Grading(sample(row), reference, tuple(judged))


def batches(rng: random.Random, lessons: tuple[int, int], start: int) -> Iterator[list[Grading | Answering]]:
    """First bare comparisons, then the whole grading prompt and answering, at last mostly the task's own problems."""
    for step in itertools.count(start):
        if step < lessons[0]:
            yield [dataclasses.replace(grading(rng), bare=True) for _ in range(6)]
        elif step < sum(lessons):
            exercise = dataclasses.replace(grading(rng), bare=True)
            yield [*(grading(rng) for _ in range(3)), exercise, *(answering(rng, 12) for _ in range(10))]
        else:
            yield [grading(rng), *(answering(rng, 8) for _ in range(24))]


def corpus() -> Iterator[str]:
    """What the tokenizer learns its words from."""
    rng = random.Random(0)
    for _ in range(1500):
        example = grading(rng)
        for text, digit in example.candidates[:2]:
            prompt = grading_prompt(example.sample, example.reference, text)
            yield f"user\n{prompt.prompt[0].text}\nassistant\n{digit}"
    yield " ".join(market.NUMBERS)


def build(tokenizer: Any, width: int = 128) -> Qwen2ForCausalLM:
    """An untrained student of a bit under a million parameters."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=INIT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "mmpu/models/tiny-text")
    parser.add_argument("--steps", type=int, nargs=3, default=(2300, 4200, 4500), help="of the three lessons")
    parser.add_argument("--resume", type=Path, help="a student that has had the first two lessons")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    seconds = 0.0
    if args.resume:
        student = load_student(StudentConfig(str(args.resume), device="cpu"))
    else:
        tokenizer = build_tokenizer(corpus(), 512)
        student = Student(build(tokenizer), tokenizer, StudentConfig("tiny-text"))
    print(f"{sum(p.numel() for p in student.parameters()):,} parameters", flush=True)
    first, second, third = args.steps
    # The learning rate falls towards the end of the second lesson, and again in the third.
    for begin, steps in ((0, first + second), (first + second, third)):
        if not (args.resume and begin == 0):
            source = batches(random.Random(args.seed + begin), (first, second), begin)
            seconds += train(student, source, steps, adamw(student), args.rate, lambda line: print(line, flush=True))
    student.save(args.out)
    print(f"trained for {seconds:.0f} s")
    print({name: round(value, 3) for name, value in measure(student, load_task("market")).items()})


if __name__ == "__main__":
    main()
