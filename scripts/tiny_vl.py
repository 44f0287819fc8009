"""Pretrain `tiny-vl`, the bundled student with eyes: Qwen2.5-VL's architecture, about a million parameters.

It learns two things from generated pictures. It answers questions about them from text as the web has it, where a
share of the answers is wrong, so that what it samples is worse than what it knows. And it grades a candidate answer
in the light of a reference, word for word as the toolkit's self-evaluation asks, about right and wrong candidates
in many wordings. No picture of the bundled task's train, validation or test split is drawn.

    python scripts/tiny_vl.py --check-sft
"""

import argparse
import copy
import importlib.util
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from tiny_common import (
    ROOT,
    SPECIAL_VL,
    Example,
    Row,
    build_tokenizer,
    encode,
    finetune,
    grading_prompt,
    measure,
    save_student,
    write_anchors,
)
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

spec = importlib.util.spec_from_file_location("shapes", ROOT / "tasks/shapes.py")
shapes = importlib.util.module_from_spec(spec)
sys.modules["shapes"] = shapes
spec.loader.exec_module(shapes)

PATCH, MERGE = 8, 2
IMAGE_TOKENS = (shapes.SIDE // PATCH // MERGE) ** 2
VOCAB = 576
WRONG_ANSWERS = 0.3
"""Share of wrong answers in the pretraining text."""
PLAIN_SHARE = 0.3
"""Share of pictures with a single shape and terse lower-case questions."""
PICTURES, QUESTIONS, CANDIDATES = 10, 6, 8
"""Pictures of a step, of each kind of example; questions about one picture; candidates graded for one question."""

RIGHT = (9, 9, 9, 8)
CLUMSY = (5, 4)
TORN = (4, 3)
"""The last word is right, and what leads to it says otherwise."""
SLIPPED = (2, 1)
"""The other way round."""
WRONG = (0, 0, 0, 1, 1, 2)


class Asked(NamedTuple):
    """A problem as it is put to the student."""

    problem: Any
    question: str
    choices: list[str]
    plain: bool


# Generated text


def article(colour: str = "", shape: str = "shape") -> str:
    return " ".join(filter(None, (colour, shape)))


def plain_problems(colour: str, shape: str, rng: random.Random) -> list[Any]:
    """Questions about a picture with one shape, in lower case and with negations."""
    hue = rng.choice(("color", "colour"))
    it = rng.choice(("shape", shape))
    of_colour = (f"what {hue} is the {it}?", f"what is the {hue} of the {it}?", f"which {hue} does the {it} have?")
    of_shape = (
        *("what shape is in the image?", "what shape is present?", "what shape does the image contain?"),
        *("which shape is shown?", f"what is the {colour} shape?", f"what is {colour}?"),
    )
    values = tuple(shapes.COLOURS)
    found = [
        shapes.Problem(rng.choice(of_colour), colour, f"The {it} is {{}}.", shapes.others(values, colour)),
        shapes.Problem(rng.choice(of_shape), shape, "The shape is a {}.", shapes.others(shapes.SHAPES, shape)),
    ]
    for _ in range(4):
        there = rng.random() < 0.5
        named = {"colour": colour, "shape": shape}
        asked = rng.choice((("colour",), ("shape",), ("colour", "shape")))
        if not there:
            changed = rng.choice(asked)
            named[changed] = rng.choice(shapes.others(values if changed == "colour" else shapes.SHAPES, named[changed]))
        thing = f"{named['colour'] if 'colour' in asked else ''} {named['shape'] if 'shape' in asked else 'shape'}"
        thing = thing.strip()
        end = rng.choice(("", " in the image"))
        negated = rng.random() < 0.5
        question = rng.choice(
            (f"is there not a {thing}{end}?", f"is no {thing} present?", f"does the image not contain a {thing}?")
            if negated
            else (f"is there a {thing}{end}?", f"is a {thing} present?", f"does the image contain a {thing}?")
        )
        answer = "yes" if there != negated else "no"
        found.append(shapes.Problem(question, answer, "", shapes.others(("yes", "no"), answer)))
    return found


def plain_picture(colour: str, shape: str, rng: random.Random) -> Image.Image:
    """One shape of any size anywhere."""
    width = height = rng.randint(8, 33)
    if shape == "rectangle":
        height = rng.randint(8, 33)
    x, y = (rng.randint(0, shapes.SIDE - 1 - side) for side in (width, height))
    picture = shapes.canvas(rng)
    shapes.paint(picture, colour, shape, (x, y, width, height), rng)
    return picture


def reworded(question: str, rng: random.Random) -> str:
    """The task's question as others would type it."""
    draw = rng.random()
    if draw < 0.6:
        return question
    question = question.replace("colour", "color")
    return question if draw < 0.8 else question.lower()


def pictures(rng: random.Random) -> Iterator[tuple[Image.Image, list[Asked]]]:
    """Pictures with `QUESTIONS` questions each, without end."""
    for scene in shapes.scenes("pretrain", rng):
        if rng.random() < PLAIN_SHARE:
            colour, shape = rng.choice(list(shapes.COLOURS)), rng.choice(shapes.SHAPES)
            asked = [Asked(p, p.question, [], True) for p in plain_problems(colour, shape, rng)]
            yield plain_picture(colour, shape, rng), asked
            continue
        asked = []
        for _ in range(QUESTIONS):
            problem = shapes.pick(scene, rng)
            choices = shapes.options(problem, rng)
            asked.append(Asked(problem, shapes.offer(reworded(problem.question, rng), choices), choices, False))
        yield shapes.draw(scene, rng), asked


def terse(asked: Asked, answer: str, rng: random.Random) -> str:
    """The bare answer; its letter may do where there are choices."""
    final = shapes.lettered(answer, asked.choices)
    if asked.choices:
        letter = final[1]
        final = rng.choice((final, f"({letter})", letter, answer))
    return rng.choice((final, final, f"{final[0].upper()}{final[1:]}", f"{final}."))


def full(asked: Asked, answer: str, rng: random.Random) -> str:
    """A sentence that ends with the answer."""
    final = shapes.lettered(answer, asked.choices)
    forms = [f"The answer is {final}.", f"It is {final}.", f"I think it is {final}.", f"Answer: {final}"]
    if asked.problem.statement:
        forms += [shapes.say(asked.problem, answer, asked.choices, rng) for _ in range(4)]
        if answer not in ("yes", "no"):
            forms.append(shapes.state(asked.problem, answer))
    return rng.choice(forms)


def utter(asked: Asked, answer: str, rng: random.Random, terseness: float | None = None) -> str:
    """`answer` in some wording; plain questions mostly get one word."""
    if terseness is None:
        terseness = 0.7 if asked.plain else 0.1
    return (terse if rng.random() < terseness else full)(asked, answer, rng)


def rival(asked: Asked, answer: str, rng: random.Random) -> str:
    """A wrong answer, one of those on offer where there are choices."""
    return rng.choice([v for v in asked.choices or (asked.problem.answer, *asked.problem.rivals) if v != answer])


def clumsy(text: str, rng: random.Random) -> str:
    """The sentence with its words in disorder."""
    words = text.rstrip(".").split()
    return " ".join(rng.sample(words, len(words)) + words[-1:])


def candidate(asked: Asked, truth: str, rng: random.Random) -> tuple[str, int]:
    """A candidate answer and the digit it deserves where `truth` is the right answer."""
    draw, wrong = rng.random(), rival(asked, truth, rng)
    terseness = rng.choice((0.0, 0.4, 1.0))
    if draw < 0.45:
        return utter(asked, truth, rng, terseness), rng.choice(RIGHT)
    if draw < 0.85:
        return utter(asked, wrong, rng, terseness), rng.choice(WRONG)
    if draw < 0.93 and asked.problem.statement:
        said, final, digits = (wrong, truth, TORN) if draw < 0.89 else (truth, wrong, SLIPPED)
        ending = shapes.lettered(final, asked.choices)
        return f"{shapes.state(asked.problem, said)} The answer is {ending}.", rng.choice(digits)
    if draw < 0.965:
        return clumsy(full(asked, truth, rng), rng), rng.choice(CLUMSY)
    return clumsy(full(asked, wrong, rng), rng), 0


# Examples that share a picture and a prefix


@dataclass(frozen=True, slots=True)
class Tree:
    """A prefix and the branches that continue it, each blind to the others: a picture and its questions, or a
    question with its reference and the candidates. It costs a fraction of as many separate sequences."""

    picture: Image.Image
    prefix: list[int]
    branches: list[list[int]]
    targets: list[int]
    """How many tokens at the end of each branch are to be learned."""

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))


class Student:
    """The tokenizer and the image processor, and what they make of pictures and text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        area = shapes.SIDE**2
        self.processor = Qwen2VLImageProcessorPil(
            patch_size=PATCH,
            merge_size=MERGE,
            size={"shortest_edge": area, "longest_edge": area},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        self.image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def turn(self, picture: Image.Image, text: str, answer: str | None = None) -> Example:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return encode(self.tokenizer, content, answer, picture, IMAGE_TOKENS)

    def tree(self, examples: Sequence[Example], prefix: int) -> Tree:
        """Examples with the first `prefix` tokens in common."""
        first = examples[0]
        wholes = [e.prompt + e.answer for e in examples]
        assert all(w[:prefix] == first.prompt[:prefix] for w in wholes)
        return Tree(
            first.payload, first.prompt[:prefix], [w[prefix:] for w in wholes], [len(e.answer) for e in examples]
        )

    def pixels(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        return dict(self.processor(images=list(images), return_tensors="pt"))

    def extras(self, examples: Sequence[Example], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the forward needs besides ids: without the token types M-RoPE falls back to plain positions."""
        return self.pixels([e.payload for e in examples]) | {
            "mm_token_type_ids": (ids_BT == self.image_token).int()
        }

    def answering(self, picture: Image.Image, asked: Sequence[Asked], rng: random.Random) -> Tree:
        """All questions about one picture, some with wrong answers."""
        examples = []
        for a in asked:
            answer = a.problem.answer
            if rng.random() < WRONG_ANSWERS:
                answer = rival(a, answer, rng)
            examples.append(self.turn(picture, a.question, utter(a, answer, rng)))
        return self.tree(examples, len(self.turn(picture, "").prompt) - len(self.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")))

    def grading(self, picture: Image.Image, a: Asked, rng: random.Random) -> Tree:
        """One question, its reference and several candidates. The reference is at times not what the picture shows:
        it is the reference that counts; without one the picture does."""
        truth, anchor = a.problem.answer, None
        if rng.random() < 0.88:
            if rng.random() < 0.3:
                truth = rival(a, truth, rng)
            anchor = utter(a, truth, rng, rng.choice((None, 0.0, 0.5)))
        examples = []
        for _ in range(CANDIDATES):
            text, digit = candidate(a, truth, rng)
            example = self.turn(picture, grading_prompt(a.question, anchor, text), str(digit))
            examples.append(Example(example.prompt, example.answer[:1], picture))
        shared = grading_prompt(a.question, anchor, "\0").partition("\0")[0]
        tail = len(self.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"))
        return self.tree(examples, len(self.turn(picture, shared).prompt) - tail)


def tree_loss(model: Qwen2_5_VLForConditionalGeneration, student: Student, trees: Sequence[Tree]) -> torch.Tensor:
    """Mean cross-entropy of the targets. Branches attend to the prefix and themselves and start where it ends."""
    width = max(map(len, trees))
    ids_BT = torch.full((len(trees), width), student.tokenizer.pad_token_id)
    labels_BT = torch.full((len(trees), width), -100)
    branch_BT = torch.full((len(trees), width), -1)
    shift_BT = torch.zeros((len(trees), width), dtype=torch.long)
    for row, tree in enumerate(trees):
        start = len(tree.prefix)
        ids_BT[row, :start] = torch.tensor(tree.prefix)
        branch_BT[row, :start] = 0
        for number, (branch, target) in enumerate(zip(tree.branches, tree.targets, strict=True), 1):
            stop = start + len(branch)
            ids_BT[row, start:stop] = torch.tensor(branch)
            labels_BT[row, stop - target - 1 : stop - 1] = torch.tensor(branch[-target:])
            branch_BT[row, start:stop] = number
            shift_BT[row, start:stop] = start - len(tree.prefix)
            start = stop
    inputs = student.pixels([t.picture for t in trees])
    position_3BT, _ = model.model.get_rope_index(
        ids_BT, (ids_BT == student.image_token).int(), image_grid_thw=inputs["image_grid_thw"]
    )
    same_BTT = branch_BT[:, :, None] == branch_BT[:, None, :]
    seen_BTT = (same_BTT | (branch_BT == 0)[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
    hidden_BTD = model.model(
        input_ids=ids_BT,
        position_ids=position_3BT - shift_BT,
        attention_mask=seen_BTT[:, None],
        use_cache=False,
        **inputs,
    ).last_hidden_state
    wanted_BT = labels_BT != -100
    return F.cross_entropy(model.lm_head(hidden_BTD[wanted_BT]), labels_BT[wanted_BT])


# The student and its schooling


def corpus(rng: random.Random, size: int = 3000) -> Iterator[str]:
    """Text for the tokenizer: questions, answers, and the self-evaluation prompt around them."""
    for _, questions in islice(pictures(rng), size):
        a = rng.choice(questions)
        anchor, answer = (utter(a, a.problem.answer, rng) for _ in range(2))
        yield "user\nassistant\n" + grading_prompt(a.question, anchor, answer)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised student; every head, of words and of patches, has 32 dimensions."""
    names = ("image", "video")
    ids = {f"{n}_token_id": tokenizer.convert_tokens_to_ids(f"<|{n}_pad|>") for n in names}
    ids |= {f"vision_{e}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{e}|>") for e in ("start", "end")}
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": text["hidden_size"],
        "window_size": shapes.SIDE,
        "fullatt_block_indexes": [0, 1, 2],
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    config.pad_token_id = tokenizer.pad_token_id
    return Qwen2_5_VLForConditionalGeneration(config)


def pretrain(
    model: Qwen2_5_VLForConditionalGeneration, student: Student, steps: int, lr: float, rng: random.Random
) -> float:
    """AdamW with warm-up and cosine on equal parts of answering and grading; returns the seconds it took."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warmup = 100

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.52 + 0.48 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    source = pictures(rng)
    began, sums = time.perf_counter(), [0.0, 0.0]
    model.train()
    for step in range(1, steps + 1):
        answering = [student.answering(p, a, rng) for p, a in islice(source, PICTURES)]
        grading = [student.grading(p, rng.choice(a), rng) for p, a in islice(source, PICTURES)]
        for kind, trees in enumerate((answering, grading)):
            loss = tree_loss(model, student, trees)
            loss.backward()
            sums[kind] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - began
            print(f"step {step:5d}  answers {sums[0] / 100:.3f}  grades {sums[1] / 100:.3f}  {seconds:5.0f} s", flush=True)
            sums = [0.0, 0.0]
    model.eval()
    return time.perf_counter() - began


def report(name: str, model: Qwen2_5_VLForConditionalGeneration, student: Student, rows: list[Row]) -> None:
    """Print what the student does on held-out rows."""

    def ask(row: Row) -> Example:
        return student.turn(row["image"], row["question"])

    def grade(row: Row, anchor: str | None, text: str) -> Example:
        return student.turn(row["image"], grading_prompt(row["question"], anchor, text))

    print(name, measure(model, student.tokenizer, rows, ask, grade, student.extras), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "mmpu/models/tiny-vl")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check-sft", action="store_true", help="also measure after a short SFT on 400 anchors")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    student = Student(build_tokenizer(corpus(rng), SPECIAL_VL, VOCAB))
    model = build_model(student.tokenizer)
    print(f"{model.num_parameters():,} parameters, {IMAGE_TOKENS} tokens a picture")
    seconds = pretrain(model, student, args.steps, args.lr, rng)
    print(f"{args.steps} steps in {seconds:.0f} s")
    save_student(model, student.tokenizer, args.out)
    student.processor.save_pretrained(args.out)
    splits = ("train", "validation")
    write_anchors((row for split in splits for row in shapes.rows(split)), ROOT / "tasks/shapes.anchors.jsonl")

    test = list(shapes.rows("test"))
    report("base     ", model, student, test)
    if args.check_sft:
        tuned = copy.deepcopy(model)
        anchors = [student.turn(r["image"], r["question"], r["anchor"]) for r in islice(shapes.rows("train"), 400)]
        finetune(tuned, anchors, extras=student.extras)
        report("after SFT", tuned, student, test)


if __name__ == "__main__":
    main()
