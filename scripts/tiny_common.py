"""What the scripts that pretrain the bundled tiny students share: tokenizer, examples, training, measuring.

An `Example` is one prompt with the answer to learn; the loss falls on the answer alone. A model with pictures
differs in one place: `extras(examples, input_ids)` returns what its forward needs besides the token ids.

Shapes: B examples, T tokens of the longest, N target tokens of a batch, V vocabulary.
"""

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
SELF_EVAL = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(
    (ROOT / "mmpu/scorers/self_eval.txt").read_text(encoding="utf-8")
)
SPECIAL_TEXT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL_VL = [*SPECIAL_TEXT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IGNORE = -100

Content = str | list[dict[str, str]]
Row = dict[str, Any]


def build_tokenizer(corpus: Iterable[str], special: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's word pattern (every digit its own token), learned from `corpus`."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def grading_prompt(question: str, anchor: str | None, candidate: str) -> str:
    """The text the toolkit's self-evaluation asks, word for word."""
    return SELF_EVAL.render(question=question, anchor=anchor, candidate=candidate)


@dataclass(frozen=True, slots=True)
class Example:
    """One user turn and the answer to it, as token ids."""

    prompt: list[int]
    answer: list[int]
    payload: Any = None
    """Whatever `extras` needs of this example: a picture, for instance."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


Extras = Callable[[Sequence[Example], torch.Tensor], dict[str, torch.Tensor]]


def no_extras(_examples: Sequence[Example], _input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The extras of a text model."""
    return {}


def encode(
    tokenizer: PreTrainedTokenizerFast,
    content: Content,
    answer: str | None = None,
    payload: Any = None,
    image_tokens: int = 1,
) -> Example:
    """One chat turn as an `Example`; the answer, when given, ends with the end-of-turn token."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * image_tokens)
    target = "" if answer is None else answer + tokenizer.eos_token
    return Example(
        tokenizer.encode(prompt, add_special_tokens=False),
        tokenizer.encode(target, add_special_tokens=False),
        payload,
    )


def bucketed(
    examples: Iterator[Example], batch: int, pool: int, rng: random.Random
) -> Iterator[list[Example]]:
    """Batches of like lengths in random order: sorting `pool` batches at a time keeps padding small."""
    while True:
        chunk = sorted((next(examples) for _ in range(batch * pool)), key=len)
        batches = [chunk[i : i + batch] for i in range(0, len(chunk), batch)]
        rng.shuffle(batches)
        yield from batches


def answer_loss(
    model: PreTrainedModel, examples: Sequence[Example], extras: Extras = no_extras
) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens.

    Right padding under a causal mask needs no attention mask, and logits are wanted at target positions only:
    both save time where there is no accelerator.
    """
    width = max(map(len, examples))
    ids_BT = torch.full((len(examples), width), model.config.pad_token_id)
    labels_BT = torch.full((len(examples), width), IGNORE)
    for row, example in enumerate(examples):
        start, stop = len(example.prompt), len(example)
        ids_BT[row, :stop] = torch.tensor(example.prompt + example.answer)
        labels_BT[row, start - 1 : stop - 1] = torch.tensor(example.answer)
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False, **extras(examples, ids_BT)).last_hidden_state
    wanted_BT = labels_BT != IGNORE
    logits_NV = model.lm_head(hidden_BTD[wanted_BT])
    return F.cross_entropy(logits_NV, labels_BT[wanted_BT])


def train(
    model: PreTrainedModel,
    batches: Iterator[list[Example]],
    steps: int,
    lr: float,
    extras: Extras = no_extras,
    warmup: int = 100,
    report_every: int = 200,
) -> float:
    """AdamW with a linear warm-up and a cosine down to a twentieth; returns the seconds it took."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    began, recent = time.perf_counter(), []
    for step in range(1, steps + 1):
        loss = answer_loss(model, next(batches), extras)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        recent.append(loss.item())
        if step % report_every == 0 or step == steps:
            seconds = time.perf_counter() - began
            print(f"step {step:6d}  loss {sum(recent) / len(recent):.3f}  {seconds:6.0f} s", flush=True)
            recent = []
    model.eval()
    return time.perf_counter() - began


def finetune(
    model: PreTrainedModel,
    examples: list[Example],
    lr: float = 3e-4,
    epochs: int = 2,
    batch: int = 16,
    extras: Extras = no_extras,
    seed: int = 0,
) -> float:
    """The short SFT of the quickstart in plain torch: what the student becomes before it grades itself."""
    rng = random.Random(seed)

    def shuffled() -> Iterator[list[Example]]:
        while True:
            order = rng.sample(examples, len(examples))
            yield from (order[i : i + batch] for i in range(0, len(order), batch))

    steps = epochs * math.ceil(len(examples) / batch)
    return train(model, shuffled(), steps, lr, extras, warmup=max(1, steps // 10), report_every=steps)


def _left_padded(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(e.prompt) for e in examples)
    ids = [[pad] * (width - len(e.prompt)) + e.prompt for e in examples]
    mask = [[0] * (width - len(e.prompt)) + [1] * len(e.prompt) for e in examples]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    sampled: bool,
    extras: Extras = no_extras,
    batch: int = 100,
    max_new_tokens: int = 40,
) -> list[str]:
    """One answer per prompt, at temperature 1 or greedily. One that never ends comes back as it stands."""
    knobs = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}
    texts: list[str] = []
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        inputs = _left_padded(part, tokenizer.pad_token_id)
        inputs |= extras(part, inputs["input_ids"])
        out = model.generate(**inputs, **knobs, do_sample=sampled, max_new_tokens=max_new_tokens)
        new = out[:, inputs["input_ids"].shape[1] :]
        texts += [t.strip() for t in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return texts


@torch.no_grad()
def digit_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    extras: Extras = no_extras,
    batch: int = 100,
) -> torch.Tensor:
    """(B, 10): the probability of each digit as the first token of the answer, not normalised."""
    digits = torch.tensor([tokenizer.convert_tokens_to_ids(str(v)) for v in range(10)])
    parts = []
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        inputs = _left_padded(part, tokenizer.pad_token_id)
        inputs |= extras(part, inputs["input_ids"])
        logits_BV = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        parts.append(logits_BV.softmax(-1)[:, digits])
    return torch.cat(parts)


def is_right(row: Row, output: str) -> bool:
    """Whether the last letter `output` names is right, or its last value where it names no letter."""
    if row["choices"]:
        letters = re.findall(r"\(([A-C])\)|\b([BC])\b|^(A)\b", output)
        if letters:
            return "".join(letters[-1]) == row["letter"]
    values = re.findall(r"\d+|[a-z]+", output.lower())
    found = [v for v in values if v.isdigit() == row["answer"].isdigit()]
    return bool(found) and found[-1] == row["answer"].lower()


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Chance that a right answer is scored above a wrong one; ties count half."""
    right = [s for s, y in zip(scores, labels, strict=True) if y]
    wrong = [s for s, y in zip(scores, labels, strict=True) if not y]
    if not right or not wrong:
        return float("nan")
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a student does on held-out rows."""

    sampled_accuracy: float
    greedy_accuracy: float
    auc: float
    """Of the expected digit against correctness, over the student's own samples."""
    auc_no_anchor: float
    digit_mass: float
    """Mean probability of any digit at all."""
    digit_right: float
    digit_wrong: float
    answer_tokens: float
    grading_tokens: float

    def __str__(self) -> str:
        return "  ".join(f"{name} {getattr(self, name):.3f}" for name in self.__slots__)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    ask: Callable[[Row], Example],
    grade: Callable[[Row, str | None, str], Example],
    extras: Extras = no_extras,
    right: Callable[[Row, str], bool] = is_right,
    seed: int = 0,
    show: int = 0,
) -> Measured:
    """Sample and grade held-out rows.

    `ask(row)` is the task prompt; `grade(row, anchor, candidate)` the self-evaluation one, without a reference
    where `anchor` is None. `show` prints that many graded samples.
    """
    model.eval()
    torch.manual_seed(seed)
    prompts = [ask(row) for row in rows]
    greedy = generate(model, tokenizer, prompts, False, extras)
    samples = generate(model, tokenizer, prompts, True, extras)
    correct = [right(r, s) for r, s in zip(rows, samples, strict=True)]
    graded = [grade(r, r["anchor"], s) for r, s in zip(rows, samples, strict=True)]
    digit = torch.arange(10.0)
    probs = digit_probs(model, tokenizer, graded, extras)
    score = ((probs @ digit) / probs.sum(-1)).tolist()
    alone = digit_probs(
        model, tokenizer, [grade(r, None, s) for r, s in zip(rows, samples, strict=True)], extras
    )
    for row, text, ok, s in list(zip(rows, samples, correct, score, strict=True))[:show]:
        verdict = "right" if ok else "wrong"
        print(f"{verdict} {s:4.1f}  {row['question']!r} -> {text!r}  (reference {row['anchor']!r})")
    return Measured(
        sampled_accuracy=_mean(correct),
        greedy_accuracy=_mean(right(r, g) for r, g in zip(rows, greedy, strict=True)),
        auc=auc(score, correct),
        auc_no_anchor=auc(((alone @ digit) / alone.sum(-1)).tolist(), correct),
        digit_mass=probs.sum(-1).mean().item(),
        digit_right=_mean(s for s, y in zip(score, correct, strict=True) if y),
        digit_wrong=_mean(s for s, y in zip(score, correct, strict=True) if not y),
        answer_tokens=_mean(len(tokenizer.encode(s)) + 1 for s in samples),
        grading_tokens=_mean(len(g.prompt) for g in graded),
    )


def save_student(model: PreTrainedModel, saver: Any, out: Path) -> None:
    """Write the student; `saver` is its tokenizer or processor."""
    tokenizer = getattr(saver, "tokenizer", saver)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(out)
    saver.save_pretrained(out)


def write_anchors(rows: Iterable[Row], path: Path) -> None:
    """One compact line per row: its id and what the teacher says."""
    lines = (json.dumps({"id": r["id"], "output": r["anchor"]}, separators=(",", ":")) for r in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
