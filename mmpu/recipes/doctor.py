"""Is a model computed right here? Every shortcut the toolkit takes, held against the long way, with numbers.

Wrong placeholders, padding sides, positions, masks and templates do not raise: they train on something else. So the
checks need no labels and no trust: log-probabilities of random responses, computed twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from mmpu.core import Response, Sample, Sampling, UserError
from mmpu.engines.hf import HF
from mmpu.student import (
    GRADIENTS,
    LIMITS,
    Lora,
    Student,
    StudentConfig,
    Tree,
    Untouched,
    assembled,
    before_answer,
    ending,
    judged,
    load_parts,
    load_student,
    probes,
    sharing_error,
    thinking,
    transformers_says,
)

OPTIONS = (*"0123456789", "A", "B", "yes", "no")
SAVED = 4 * 2**30
"""Bytes of weights up to which the round trip through a folder is made."""


@dataclass(frozen=True)
class Check:
    """A check's outcome; `value` within `limit` passes, a check without a limit only tells."""

    name: str
    value: float | None
    limit: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.limit is None or (self.value is not None and self.value <= self.limit)


def examine(config: StudentConfig) -> Iterator[Check]:
    """All checks of a model, each as soon as it is known.

    Raises:
        UserError: the model cannot be loaded.
    """
    parts = load_parts(config)
    limit, slope = LIMITS[config.computes_in], GRADIENTS[config.computes_in]
    try:  # before a student is made of the parts
        said: Untouched | UserError = transformers_says(parts, config)
    except UserError as error:
        said = error
    student = assembled(parts, config)
    checks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("as transformers", partial(_as_transformers, student, said, limit, slope)),
        ("prompt", partial(_prompts, student)),
        ("options", partial(_options, student)),
        ("batched = single", partial(_batched, student, limit)),
        ("sampled = teacher-forced", partial(_forced, student, limit)),
        ("trunk and branches = plain", partial(_shared, student, limit)),
        ("saved = loaded", partial(_saved, student, limit)),
        ("adapter off = reference", partial(_adapter, student, limit)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except (UserError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            yield Check(name, None, limit, f"{type(error).__name__}: {error}".splitlines()[0])


def _as_transformers(student: Student, said: Untouched | UserError, limit: float, slope: float) -> Iterator[Check]:
    """What loading asks of an architecture that it does not know; switches off what does not hold."""
    if isinstance(said, UserError):
        raise said
    verdict = judged(student, said)
    verdict.settle(student)
    yield Check("log p = transformers'", verdict.logp, limit, "" if verdict.sharing else "branches apart")
    yield Check("gradients = transformers'", verdict.gradients, slope, "relative, while training")
    note = verdict.unsampled or ("" if verdict.prefixing else "prompts are copied to responses")
    yield Check("sampled = transformers'", None if verdict.unsampled else verdict.sampler, limit, note)


def _prompts(student: Student) -> Iterator[Check]:
    for sample in probes(student):
        encoded = student.encode(sample)
        note = f"{len(encoded.ids)} tokens"
        if student.family.image_token is None:
            yield Check("prompt", None, None, note)
            continue
        count = encoded.ids.count(student.tokenizer.convert_tokens_to_ids(student.family.image_token))
        lengths = [
            student.family.image_length(student.base.config, student.encoder.image(i, sample.id)[1])
            for i in sample.images
        ]
        note += f", {len(lengths)} images of {lengths or 'no'} tokens"
        yield Check("placeholders = features", float(abs(count - sum(lengths))), 0.0, note)
    sample = probes(student)[0]
    yield Check("before the answer", None, None, f"{before_answer(student, sample)!r}; {thinking(student, sample)}")
    yield Check("behind the answer", None, None, ending(student))
    yield Check("prompt", None, None, f"ends a response at ids {sorted(student.eos)}, pads with {student.pad}")


def _options(student: Student) -> Iterator[Check]:
    missing = [option for option in OPTIONS if not student.option_ids(option)]
    note = f"no single token for {', '.join(missing)}" if missing else "digits, A, B, yes, no"
    yield Check("options are single tokens", float(len(missing)), 0.0, note)


def _sampled(student: Student, samples: Sequence[Sample]) -> list[tuple[Response, ...]]:
    answers = HF(student).generate(samples, 3, Sampling(max_tokens=12, seed=1))
    return [a for a in answers if isinstance(a, tuple)]


def _batched(student: Student, limit: float) -> Iterator[Check]:
    """Left-padded prompts in one batch against each prompt alone, through sampling and the cache."""
    samples = probes(student)
    together = _sampled(student, samples)
    worst, compared = 0.0, 0
    for sample, responses in zip(samples, together, strict=True):
        for a, b in zip(responses, _sampled(student, [sample])[0], strict=True):
            same = [t == u for t, u in zip(a.tokens or (), b.tokens or (), strict=False)]
            agreed = same.index(False) if False in same else len(same)  # rounding may tip a token, and all that follow
            worst = max([worst, *(abs(x - y) for x, y in zip(a.logp[:agreed], b.logp[:agreed], strict=True))])
            compared += agreed
    yield Check("batched = single", worst, limit, f"{compared} tokens of {len(samples)} left-padded prompts")


def _forced(student: Student, limit: float) -> Iterator[Check]:
    samples = probes(student)
    drawn = _sampled(student, samples)
    trees = [Tree(student.encode(s), tuple(r.tokens or () for r in rs)) for s, rs in zip(samples, drawn, strict=True)]
    with torch.no_grad():
        forced = student(student.pack(trees)).cpu()
    recorded = torch.tensor([lp for responses in drawn for r in responses for lp in r.logp])
    yield Check("sampled = teacher-forced", float((forced - recorded).abs().max()), limit, f"{len(recorded)} tokens")


def _shared(student: Student, limit: float) -> Iterator[Check]:
    note = "" if student.sharing else "every response in a sequence of its own, since this architecture cannot share"
    yield Check("trunk and branches = plain", sharing_error(student, probes(student)), limit, note)


def _adapter(student: Student, limit: float) -> Iterator[Check]:
    """A moved adapter changes the model, switched off it is the reference, and it survives a folder."""
    sample = probes(student)[0]
    tree = Tree(student.encode(sample), (tuple(student.encode(sample).ids[-6:]),))
    with torch.no_grad():
        before = student(student.pack([tree]))
    tuned = Student(
        student.model,
        student.tokenizer,
        replace(student.config, lora=student.config.lora or Lora(r=4, alpha=8)),
        student.image_processor,
        student.family,
    )
    tuned.sharing = student.sharing
    tuned.start_stage(reference=True)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
        moved = tuned(tuned.pack([tree]))
        with tuned.frozen():
            off = tuned(tuned.pack([tree]))
    change = float((moved - before).abs().max())
    yield Check(
        "adapter off = reference", float((off - before).abs().max()), limit, f"on, it moves log p by {change:.2g}"
    )
    with tempfile.TemporaryDirectory() as folder:
        tuned.save(Path(folder))
        from peft import load_peft_weights, set_peft_model_state_dict

        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.zero_()
        set_peft_model_state_dict(tuned.model, load_peft_weights(folder, device=str(tuned.device)))
    with torch.no_grad():
        again = tuned(tuned.pack([tree]))
    yield Check("adapter saved = loaded", float((again - moved).abs().max()), limit, "peft")


def _saved(student: Student, limit: float) -> Iterator[Check]:
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    if size > SAVED:
        yield Check("saved = loaded", None, None, f"left out: {size / 2**30:.0f} GiB of weights")
        return
    tree = Tree(student.encode(probes(student)[0]), (tuple(student.encode(probes(student)[0]).ids[-6:]),))
    plain = replace(student.config, lora=None, quantize=None)
    with tempfile.TemporaryDirectory() as folder:
        Student(student.model, student.tokenizer, plain, student.image_processor, student.family).save(Path(folder))
        loaded = load_student(replace(plain, model=folder))
    same = loaded.encode(probes(student)[0]).ids == tree.trunk.ids
    with torch.no_grad():
        error = float((loaded(loaded.pack([tree])) - student(student.pack([tree]))).abs().max())
    yield Check("saved = loaded", error if same else None, limit, "transformers" if same else "prompts differ")
