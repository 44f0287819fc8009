"""What a model is held against when it is loaded: transformers' own forward and generate, shortcut by shortcut."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmpu.core import Part, Sample, UserError, user
from mmpu.media import data_uri
from mmpu.student import rms_norm
from mmpu.student.decoding import Decoding
from mmpu.student.encoding import Encoder
from mmpu.student.packing import Tree
from mmpu.student.parts import Parts
from mmpu.student.student import Student, never
from mmpu.student.student_config import StudentConfig
from mmpu.student.untouched import FAILURES, SAID, Alone, Expected, Untouched, compared, within_memory

LIMITS = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.05}
"""Largest difference of a token's log-probability, in nats, that rounding explains."""
GRADIENTS = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.05}
"""Largest relative difference of a parameter's gradient that rounding explains."""
STEPS = 2
"""Steps of a half type's last digit, at the largest logit, that rounding explains where that is more: both sides round
their logits, and the hidden states before them, on their own."""
LEAST = 0.1
"""Gradients are compared relative to their norm, or to this part of the largest one's."""

NOISE = 0.1
"""Part of the limit that two passes over the same may differ by: kernels need not add up in one order."""

_UNSAID = "transformers' own generate does not say what its forward finds likeliest"


@dataclass(frozen=True)
class Verdict:
    """Which shortcuts give what transformers gives, and how far off it all is with those."""

    sharing: bool = True
    """Branches share a trunk."""
    sparing: bool = True
    """The last layer works for what is read."""
    norming: bool = True
    """Norms of known names compute what those do, in fewer passes."""
    prefixing: bool = True
    """A prompt's keys and values are held once for all its responses."""
    unsampled: str = ""
    """Why responses cannot be sampled in process; nothing if they can."""
    logp: float = 0.0
    gradients: float = 0.0
    sampler: float = 0.0

    def settle(self, student: Student) -> None:
        student.sharing, student.sparing = self.sharing, self.sparing
        if not self.norming:
            rms_norm.restore(student.base)
        student.prefixing, student.unsampled = self.prefixing, self.unsampled


def transformers_says(parts: Parts, config: StudentConfig) -> Untouched:
    """What transformers makes of a model. To be called before a student is made of the parts.

    Raises:
        UserError: the probes cannot be encoded, or transformers' own forward raises.
    """
    model, tokenizer = parts.model, parts.tokenizer
    encoder = Encoder(config, model.config, model, tokenizer, parts.image_processor, parts.family)
    asked = _asked(parts.family.marker is not None)
    chosen = [encoder(asked[i]) for i in ((0, 2) if parts.family.marker else (0, 1))]
    banned = never(tokenizer, parts.family)
    image = parts.family.image_token
    alone = Alone(
        model,
        None if image is None else tokenizer.convert_tokens_to_ids(image),
        banned,
        _ordinary(model, tokenizer, banned),
    )
    device = alone.device.type
    with torch.autocast(device, torch.bfloat16, enabled=config.autocast is not None), _undisturbed(alone.device):
        try:
            return alone.measured(chosen)
        except FAILURES as error:
            raise UserError(
                f"{config.model} is a {model.config.model_type}, and transformers' own forward of a prompt with a "
                f"continuation raises {_first(within_memory(error))}: it cannot be trained as it is"
            ) from error


def judged(student: Student, said: Untouched) -> Verdict:
    """The shortcuts that hold; with those that do not switched off, a student that computes what transformers does.

    Raises:
        UserError: it is off even without them; says by how much.
    """
    limit, slope = _limit(student, said), GRADIENTS[student.config.computes_in]
    tried: list[str] = []
    with _undisturbed(student.device):
        for verdict in _candidates(student):
            verdict.settle(student)
            try:
                logp, gradients = _errors(student, said)
            except FAILURES as error:
                tried.append(_first(within_memory(error)))
                continue
            verdict = replace(verdict, logp=logp, gradients=gradients)
            if logp <= limit and gradients <= slope:
                return _sampled(student, said, verdict, limit)
            tried.append(f"log-probabilities {logp:.2g} nats off, gradients {gradients:.1%}")
    kind = student.base.config.model_type
    eager = ", or `student.attention: eager`" if student.config.attention != "eager" else ""
    raise UserError(
        f"{student.config.model} is a {kind}, which mmpu computes otherwise than transformers' own forward with eager "
        f"attention ({tried[-1]}; {limit:g} nats and {slope:g} of a gradient are rounding). It would train on "
        f"something else. Take another architecture (docs/students.md){eager}"
    )


def _limit(student: Student, said: Untouched) -> float:
    """Largest difference of a log-probability, in nats, that rounding explains at logits of this size."""
    kind = student.config.computes_in
    digit = 0.0 if kind == "float32" else torch.finfo(getattr(torch, kind)).eps
    return max(LIMITS[kind], STEPS * digit * said.largest)


def _errors(student: Student, said: Untouched) -> tuple[float, float]:
    """Largest |Δ log p|, and the largest relative difference of a gradient, while training.

    Raises:
        UserError: two passes of training, or one of training and one without, differ.
    """
    trees = [expected.tree for expected in said.prompts]
    packed = student.pack(trees)
    parameters = compared(student.base)
    student.train()
    try:
        logp = student(packed)
        found = torch.autograd.grad(logp.sum(), list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            again = student(packed)
    finally:
        student.eval()
    with torch.no_grad():
        quiet = student(packed)
    noise = max(float((logp.detach() - other).abs().max()) for other in (again, quiet))
    expected = torch.cat([e.logp_N for e in said.prompts])
    off = float((logp.detach() - expected.to(logp.device)).abs().max())
    if off == off and noise > NOISE * LIMITS[student.config.computes_in]:
        raise UserError(
            f"{student.config.model} is a {student.base.config.model_type} that drops or adds noise while training "
            f"(log-probabilities of two passes are {noise:.2g} nats apart), which mmpu cannot switch off; "
            "take another architecture (docs/students.md)"
        )
    return _finite(off), _slopes(dict(zip(parameters, found, strict=True)), said.gradients)


def _slopes(found: dict[str, Tensor | None], expected: dict[str, Tensor]) -> float:
    largest = max(float(g.norm()) for g in expected.values()) if expected else 0.0
    worst = 0.0
    for name, theirs in expected.items():
        ours = found[name]
        difference = theirs if ours is None else ours.to_dense() - theirs
        scale = max(float(theirs.norm()), LEAST * largest)
        worst = max(worst, _finite(float(difference.norm()) / scale) if scale else 0.0)
    return worst


def _candidates(student: Student) -> Iterator[Verdict]:
    """From all shortcuts to none; without those of norms last, since they seldom are what is wrong."""
    tricks = [(sharing, sparing) for sharing in (True, False) for sparing in (True, False)]
    yield from (Verdict(*trick) for trick in tricks)
    if rms_norm.restore(student.base):
        yield from (Verdict(*trick, norming=False) for trick in tricks)


def _sampled(student: Student, said: Untouched, verdict: Verdict, limit: float) -> Verdict:
    """The verdict with what sampling needs."""
    why = ""
    for prefixing in (True, False):
        verdict = replace(verdict, prefixing=prefixing)
        verdict.settle(student)
        try:
            off = _forced(student, said.prompts, limit)
        except (*FAILURES, UserError) as error:
            why = _first(within_memory(error))
            continue
        if off <= limit:
            unsaid = "" if all(e.generated or e.tie < limit for e in said.prompts) else _UNSAID
            return replace(verdict, sampler=off, unsampled=unsaid)
        why = f"log-probabilities of its tokens are {off:.2g} nats off transformers' own forward"
    return replace(verdict, unsampled=why)


def _forced(student: Student, prompts: Sequence[Expected], limit: float) -> float:
    """Largest |Δ log p| of continuations that the sampler is made to say, and of leads that it sees over the likeliest
    ones."""
    texts = [branch[:SAID] for e in prompts for branch in e.tree.branches[-2:]]
    expected: list[list[float]] = []
    for e in prompts:
        parts = e.logp_N.split([len(branch) for branch in e.tree.branches])
        expected += [part[:SAID].tolist() for part in parts[-2:]]
    at = Counter[int]()
    worst = 0.0

    def draw(logits_BV: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        nonlocal worst
        token = torch.tensor([texts[row][at[row]] for row in rows], device=logits_BV.device)
        logp = logits_BV.double().log_softmax(1)
        said = logp.gather(1, token[:, None])[:, 0]
        lead = logp.amax(1) - said
        for place, row in enumerate(rows):
            worst = max(worst, _finite(abs(float(said[place]) - expected[row][at[row]])))
            if row % 2 and float(lead[place]) > 2 * limit:
                worst = max(worst, float(lead[place]))
            at[row] += 1
        return token, said

    with torch.no_grad(), student.computing():
        Decoding(student, 2, SAID, draw, lambda _: None, frozenset())([e.tree.trunk for e in prompts])
    return worst


def _finite(number: float) -> float:
    return number if number == number else float("inf")


def _first(error: Exception) -> str:
    text = str(error).strip() or "nothing more"
    return f"{type(error).__name__}: {text.splitlines()[0]}"


def _undisturbed(device: torch.device) -> Any:
    """Inside, drawing leaves the global random state as it was."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _ordinary(model: Any, tokenizer: Any, banned: Sequence[int]) -> list[int]:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return [i for i in range(min(vocabulary, len(tokenizer))) if i not in banned]


def can_share(student: Student) -> bool:
    """Whether branches on one trunk come out right; an architecture that mixes positions in its own way cannot."""
    try:
        return sharing_error(student, probes(student)) <= LIMITS[student.config.computes_in]
    except FAILURES as error:
        within_memory(error)
        return False


def sharing_error(student: Student, samples: Sequence[Sample]) -> float:
    """Largest |Δ log p| between branches on a shared trunk and transformers' own forward of every single sequence."""
    generator = torch.Generator().manual_seed(0)
    ordinary = _ordinary(student.base, student.tokenizer, student.banned)
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
    return _asked(student.family.marker is not None)


def _asked(sees: bool) -> list[Sample]:
    texts = ("What colour is the shape?", "Which is larger, the first or the second? " * 3, "0 1 2")
    if not sees:
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
