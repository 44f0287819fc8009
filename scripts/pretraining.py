"""What the pretraining of both bundled students shares: tokenizer, training on trees, the figures reported."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mmpu.core import Group, Response, Sample, Sampling, Task, user
from mmpu.engines.hf import HF
from mmpu.prompts import about
from mmpu.scorers.self_eval import ASK, PROMPT, SelfEval
from mmpu.statistics import auc
from mmpu.student.packing import Encoded, Tree, pack, share
from mmpu.student.student import Student

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer: digits stand alone."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INIT = 0.06
"""Standard deviation of initial weights. At the usual 0.02 a model this narrow does not learn to compare in minutes;
nor does it from few large batches, so steps are small and many."""


@dataclass(frozen=True)
class Grading:
    """A prompt with a reference, and candidates with the digits they deserve."""

    sample: Sample
    reference: str | None
    candidates: tuple[tuple[str, int], ...]
    bare: bool = False
    """Leave out instructions and question: a short exercise in comparing, to begin with."""


@dataclass(frozen=True)
class Answering:
    """Questions with answers; several only if they are about one picture, which is then encoded once."""

    pairs: tuple[tuple[Sample, str], ...]


def noise(rng: random.Random, right: str, wrong: str) -> str:
    """A candidate that deserves nothing and that a student hungry for digits might try: off the point, a row of high
    digits, both answers at once, the right one denied."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(("I do not know.", "The answer is", "What?", "It is", "Give it a 9!", right[:1] * 3))
    if kind == 1:
        return " ".join(rng.choice(("9", "8", "9.", "nine")) for _ in range(rng.randint(1, 8)))
    first, second = rng.sample((right, wrong), 2)
    return rng.choice((f"It is {first} or {second}.", f"{first} {second}", f"Not {right}.", f"It is not {right}."))


def build_tokenizer(texts: Iterable[str], size: int, special: tuple[str, ...] = SPECIAL) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens with Qwen's pre-tokenizer and chat template."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def grading_prompt(sample: Sample, reference: str | None, candidate: str) -> Sample:
    """The toolkit's own self-evaluation prompt."""
    ask, cue = ASK["expected"]
    return about(sample, PROMPT, anchor=reference, candidate=candidate, ask=ask, cue=cue)


def bare(sample: Sample) -> Sample:
    """Only the blocks of a grading prompt that are to be compared."""
    text = sample.prompt[0].text
    start = text.rindex("<reference>" if "<reference>" in text else "<candidate>")
    return replace(sample, prompt=user(text[start:]))


def tree(student: Student, example: Grading | Answering) -> tuple[Tree, tuple[float, ...]]:
    """A training example as trunk and branches, with a weight per branch token.

    Only answers and digits are to be learned.
    """
    if isinstance(example, Answering):
        trunk, ends = _shared(student, [sample for sample, _ in example.pairs])
        answers = [student.response_ids(Response(answer)) for _, answer in example.pairs]
        weights = tuple(w for e, a in zip(ends, answers, strict=True) for w in (*[0.0] * len(e), *[1.0] * len(a)))
        return Tree(trunk, tuple((*e, *a) for e, a in zip(ends, answers, strict=True))), weights
    asked = [grading_prompt(example.sample, example.reference, text) for text, _ in example.candidates]
    if example.bare:
        asked = [bare(sample) for sample in asked]
    trunk, ends = _shared(student, asked)
    branches = [
        (*end, *student.option_ids(str(digit))) for end, (_, digit) in zip(ends, example.candidates, strict=True)
    ]
    weights = tuple(w for b in branches for w in (*[0.0] * (len(b) - 1), 1.0))
    return Tree(trunk, tuple(branches)), weights


def _shared(student: Student, samples: list[Sample]) -> tuple[Encoded, list[tuple[int, ...]]]:
    """The prompts as one trunk and their remainders."""
    ((trunk, ends),) = share([student.encode(sample) for sample in samples], least=0.0)
    return trunk, ends


def adamw(student: Student) -> list[torch.optim.Optimizer]:
    """AdamW for everything; what is no matrix does not decay."""
    decayed = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 0.02},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)]


def muon(student: Student) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, convolutions and vectors. It learns to compare in half of
    AdamW's steps."""
    named = list(student.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    student: Student,
    batches: Iterator[list[Grading | Answering]],
    steps: int,
    optimizers: list[torch.optim.Optimizer],
    rate: float,
    say: Callable[[str], None],
) -> float:
    """A short warm-up and a linear decay; returns the seconds it took."""
    began, sums = time.time(), {Grading: [0.0, 0], Answering: [0.0, 0]}
    student.train()
    for step in range(steps):
        for group in itertools.chain(*(o.param_groups for o in optimizers)):
            group["lr"] = rate * min(1.0, (step + 1) / 50, 1.05 - step / steps)
        examples = next(batches)
        for kind in (Grading, Answering):
            chosen = [tree(student, e) for e in examples if isinstance(e, kind)]
            if not chosen:
                continue
            logp = student(pack([t for t, _ in chosen], student.pad))
            weight = torch.tensor([w for _, weights in chosen for w in weights])
            counted = weight == 1.0
            (-(logp * weight).sum() / counted.sum()).backward()
            sums[kind][0] -= float(logp.detach()[counted].mean())
            sums[kind][1] += 1
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 200 == 0:
            told = "  ".join(f"{k.__name__.lower()} {total / max(n, 1):.3f}" for k, (total, n) in sums.items())
            say(f"step {step + 1:5d}  {told}  {time.time() - began:.0f} s")
            sums = {kind: [0.0, 0] for kind in sums}
    student.eval()
    return time.time() - began


def measure(student: Student, task: Task, limit: int = 400) -> dict[str, float]:
    """Accuracy, sampled and greedy, and how well the student's grades tell its own right answers from wrong ones."""
    samples = task.samples(f"test[:{limit}]")
    engine = HF(student)

    def accuracy(sampling: Sampling, n: int) -> tuple[float, list[tuple[Response, ...]]]:
        answers: Any = engine.generate(samples, n, sampling)
        grades = [task.grade(s, r.text) for s, rs in zip(samples, answers, strict=True) for r in rs]
        return sum(g or 0.0 for g in grades) / len(grades), answers

    sampled, answers = accuracy(Sampling(max_tokens=32), 4)
    greedy, _ = accuracy(Sampling(max_tokens=32, temperature=0.0), 1)
    groups = [Group(s, s.reference, rs) for s, rs in zip(samples, answers, strict=True)]
    pairs = [
        (score, task.grade(g.sample, r.text))
        for g, scores in zip(groups, SelfEval(engine).score(groups), strict=True)
        for r, score in zip(g.responses, scores, strict=True)
    ]
    right, wrong = [s for s, g in pairs if g], [s for s, g in pairs if not g]
    mass = engine.choose(
        [grading_prompt(g.sample, g.anchor, g.responses[0].text) for g in groups], [str(d) for d in range(10)]
    )
    return {
        "sampled": sampled,
        "greedy": greedy,
        "grading_auc": auc(right, wrong),
        "score_right": sum(right) / max(1, len(right)),
        "score_wrong": sum(wrong) / max(1, len(wrong)),
        "digit_mass": sum(1 - c.outside for c in mass) / len(mass),
    }
