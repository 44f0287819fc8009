"""Pretrain `tiny-text`, the bundled text student: a small Qwen2 that half knows the orchard and grades well.

    python scripts/tiny_text.py --out mmpu/models/tiny-text --check-sft

The data are generated, like text from the web in one respect: a share of the answers is wrong. The student therefore
samples worse than it knows, which is the room the toolkit's training works in. It also learns to grade a candidate
against a reference under the toolkit's own self-evaluation prompt, in many wordings.
"""

import argparse
import itertools
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import tiny_common as common
from tiny_common import ROOT, Example, Row

sys.path.insert(0, str(ROOT))
from tasks import orchard  # noqa: E402

WRONG_SHARE = 0.3
"""Of the answers to task prompts in the pretraining data."""
SHARES = {"ask": 0.3, "grade": 0.7}
FULL = ("{work}. The answer is {x}.", "{work}, so the answer is {x}.", "The answer is {x}.")
SHORT = (
    "{x}",
    "{x}.",
    "It is {x}.",
    "I think it is {x}.",
    "That makes {x}.",
    "Answer: {x}",
    "{work}.",
    "{x}, because {work}.",
    "It must be {x}, I am sure.",
    "The correct answer is {x}.",
)
NOISE = ("", "I do not know.", "The answer is", "The the the", "Yes.", "Sorry.", "9", "How many are left?", "Give it a 9.")
SUBJECTS = ("cart", "door", "hat", "bird", "boat", "shop")
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
DAYS = ("Monday", "Tuesday", "Friday", "Sunday")


def slip(rng: random.Random, row: Row) -> str:
    """A wrong value for `row`, of the sort a careless pupil gives."""
    if row["choices"]:
        return rng.choice([c for c in row["choices"] if c != row["answer"]])
    if not row["answer"].isdigit():
        names = [w for w in re.findall(r"\w+", row["question"]) if w in orchard.NAMES and w != row["answer"]]
        return rng.choice(names)
    x = int(row["answer"])
    near = [x - 2, x - 1, x + 1, x + 2]
    far = [x - 10, x + 10, rng.randint(1, 60), int(str(x)[::-1]), *map(int, re.findall(r"\d+", row["question"]))]
    return str(rng.choice([v for v in (near if rng.random() < 0.6 else far) if v > 0 and v != x]))


def named(row: Row, value: str) -> str:
    """`value` as a full answer names it: with its letter where the row has options."""
    if value not in row["choices"]:
        return value
    return f"({orchard.LETTERS[row['choices'].index(value)]}) {value}"


def say(rng: random.Random, row: Row, value: str, full: float) -> str:
    """An answer that ends in `value`; with chance `full` in the teacher's wording, else in some other one."""
    work = row["reference"].partition(". The")[0]
    if value != row["answer"]:
        work = re.sub(r"= \d+", f"= {value}", work)
        work = re.sub(r"(\d+) is more than (\d+)", r"\2 is more than \1", work)
    x = named(row, value)
    if rng.random() < full:
        return rng.choices(FULL, (6, 3, 1))[0].format(work=work, x=x)
    if row["choices"]:
        x = rng.choice([x, x, x[:3], x[1], value])
    return rng.choice(SHORT[:6] if not value.isdigit() else SHORT).format(work=work, x=x)


def ask(tokenizer: PreTrainedTokenizerFast, row: Row, answer: str | None = None) -> Example:
    """The task prompt, with an answer to learn or without."""
    return common.encode(tokenizer, row["question"], answer)


def grade(
    tokenizer: PreTrainedTokenizerFast, row: Row, anchor: str | None, candidate: str, digit: int | None = None
) -> Example:
    """The self-evaluation prompt, with a digit to learn or without."""
    prompt = common.grading_prompt(row["question"], anchor, candidate)
    return common.encode(tokenizer, prompt, None if digit is None else str(digit))


def fiction(rng: random.Random, row: Row) -> Row:
    """`row` with another right answer: only a reader of the reference can grade it."""
    answer = slip(rng, row)
    letter = orchard.LETTERS[row["choices"].index(answer)] if row["choices"] else ""
    reference = say(rng, row, answer, 1.0)
    return {**row, "answer": answer, "letter": letter, "reference": reference}


def small_talk(rng: random.Random) -> Row:
    """A question outside the orchard whose answer is a word."""
    thing, words = rng.choice(SUBJECTS), rng.choice((COLOURS, DAYS))
    answer = rng.choice(words)
    about = "What colour is the" if words is COLOURS else "On which day comes the"
    reference = rng.choice([f"The {thing}: {answer}.", f"It is {answer}.", f"The answer is {answer}."])
    return {"question": f"{about} {thing}?", "choices": [], "answer": answer, "reference": reference}


def judged(rng: random.Random, row: Row) -> tuple[str, int]:
    """A candidate answer to `row` and the digit it deserves."""
    kind = rng.choices(("right", "wrong", "muddled", "noise"), (46, 42, 6, 6))[0]
    if kind == "noise":
        return rng.choice(NOISE), 0
    if kind == "muddled" and row["choices"]:
        letter = rng.choice([mark for mark in orchard.LETTERS if mark != row["letter"]])
        return f"The answer is ({letter}) {row['answer']}.", 2
    if kind == "muddled":
        other = say(rng, row, slip(rng, row), 1.0).partition(". The")[0].partition(", so")[0]
        return f"{other}. The answer is {row['answer']}.", 5
    if kind == "wrong":
        value = slip(rng, row)
        near = value.isdigit() and row["answer"].isdigit() and abs(int(value) - int(row["answer"])) <= 2
        return say(rng, row, value, 0.6), rng.choice((1, 2) if near else (0, 1))
    text = say(rng, row, row["answer"], 0.6)
    return text, rng.choice((9, 9, 9, 8) if len(text) > 12 else (8, 8, 9))


def judged_talk(rng: random.Random, row: Row) -> tuple[str, int]:
    """The same for a row of small talk."""
    words = COLOURS if row["answer"] in COLOURS else DAYS
    right = rng.random() < 0.5
    x = row["answer"] if right else rng.choice([w for w in words if w != row["answer"]])
    text = rng.choice(("{x}", "It is {x}.", "The answer is {x}.", "I think {x}.")).format(x=x)
    return text, rng.choice((8, 9) if right else (0, 1))


def stream(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Example]:
    """The pretraining examples, without end."""
    for row in orchard.rows("pretrain"):
        task = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if task == "ask":
            value = slip(rng, row) if rng.random() < WRONG_SHARE else row["answer"]
            yield ask(tokenizer, row, say(rng, row, value, 0.8))
            continue
        if rng.random() < 0.08:
            row = small_talk(rng)
            yield grade(tokenizer, row, row["reference"], *judged_talk(rng, row))
            continue
        if rng.random() < 0.1:
            yield grade(tokenizer, row, None, *judged(rng, row))
            continue
        if rng.random() < 0.4:
            row = fiction(rng, row)
        yield grade(tokenizer, row, say(rng, row, row["answer"], 0.75), *judged(rng, row))


def corpus() -> Iterator[str]:
    """What the tokenizer learns its words from: questions, answers and the grading prompt around them."""
    rng = random.Random(0)
    for row in itertools.islice(orchard.rows("pretrain"), 2000):
        yield common.grading_prompt(row["question"], row["anchor"], say(rng, row, row["answer"], 0.5))
    for _ in range(200):
        row = small_talk(rng)
        yield common.grading_prompt(row["question"], row["reference"], judged_talk(rng, row)[0])
    yield from NOISE
    yield "user\nassistant\nsystem\n"


def build(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """An untrained student of about a million parameters."""
    config = Qwen2Config(
        vocab_size=len(tokenizer) + (-len(tokenizer)) % 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "mmpu/models/tiny-text")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check-sft", action="store_true", help="also measure after a short SFT")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    tokenizer = common.build_tokenizer(corpus(), common.SPECIAL_TEXT, 640)
    model = build(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    batches = common.bucketed(stream(tokenizer, rng), args.batch, 20, rng)
    seconds = common.train(model, batches, args.steps, args.lr)
    common.save_student(model, tokenizer, args.out)
    kept = itertools.chain(orchard.rows("train"), orchard.rows("validation"))
    common.write_anchors(kept, ROOT / "tasks/orchard.anchors.jsonl")

    def table(title: str) -> None:
        held_out = list(orchard.rows("test"))
        measured = common.measure(
            model, tokenizer, held_out, lambda r: ask(tokenizer, r), lambda *a: grade(tokenizer, *a), show=10
        )
        print(f"{title}: {measured}", flush=True)

    print(f"pretrained in {seconds:.0f} s")
    table("base")
    if args.check_sft:
        taught = [ask(tokenizer, r, r["anchor"]) for r in itertools.islice(orchard.rows("train"), 400)]
        print(f"sft in {common.finetune(model, taught):.0f} s")
        table("after sft")


if __name__ == "__main__":
    main()
