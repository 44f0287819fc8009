"""What a model is held against when it is loaded: branches on a shared trunk, and transformers' own forward."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw

from mmpu.core import Part, Sample, user
from mmpu.media import data_uri
from mmpu.student.packing import Tree
from mmpu.student.student import Student

LIMITS = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.05}
"""Largest difference of a token's log-probability, in nats, that rounding explains."""


def can_share(student: Student) -> bool:
    """Whether branches on one trunk come out right; an architecture that mixes positions in its own way cannot."""
    try:
        return sharing_error(student, probes(student)) <= LIMITS[student.config.computes_in]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False


def sharing_error(student: Student, samples: Sequence[Sample]) -> float:
    """Largest |Δ log p| between branches on a shared trunk and transformers' own forward of every single sequence."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = student.base.get_output_embeddings().weight.shape[0]
    ordinary = [i for i in range(min(vocabulary, len(student.tokenizer))) if i not in student.banned]
    worst = 0.0
    for sample in samples:
        drawn = [torch.randint(len(ordinary), (n,), generator=generator).tolist() for n in (5, 2, 9)]
        tree = Tree(student.encode(sample), tuple(tuple(ordinary[i] for i in branch) for branch in drawn))
        with torch.no_grad():
            found = student(student.pack([tree]))
            expected = torch.cat([_plain(student, tree, branch) for branch in tree.branches])
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def _plain(student: Student, tree: Tree, branch: tuple[int, ...]) -> torch.Tensor:
    """log p of a branch by transformers' forward of one unpadded sequence, with its own positions and masks."""
    ids = torch.tensor([tree.trunk.ids + branch], device=student.device)
    extra: dict[str, Any] = student.cast(tree.trunk.media)
    if student.family.image_token is not None:
        image = student.tokenizer.convert_tokens_to_ids(student.family.image_token)
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inspect.signature(student.base.forward).parameters:
                extra[name] = (ids == image).int()
    logits = student.base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **extra).logits.float()
    logits[..., list(student.banned)] = float("-inf")
    logp = logits[0, len(tree.trunk.ids) - 1 : -1].double().log_softmax(-1)
    return logp.gather(1, torch.tensor(branch, device=logp.device)[:, None])[:, 0]


def probes(student: Student) -> list[Sample]:
    """Prompts of different lengths; for a model that sees, with one picture, two of different sizes, and none."""
    texts = ("What colour is the shape?", "Which is larger, the first or the second? " * 3, "0 1 2")
    if student.family.marker is None:
        return [Sample(f"probe {i}", user(text)) for i, text in enumerate(texts)]
    pictures = ((_picture(168, 112),), (_picture(112, 224), _picture(168, 112)), ())
    return [
        Sample(f"probe {i}", user(*(Part("image", p) for p in shown), text))
        for i, (text, shown) in enumerate(zip(texts, pictures, strict=True))
    ]


def _picture(width: int, height: int) -> str:
    image = Image.new("RGB", (width, height), (230, 230, 220))
    ImageDraw.Draw(image).rectangle((8, 8, width // 2, height // 2), fill=(200, 30, 30))
    return data_uri(image)
