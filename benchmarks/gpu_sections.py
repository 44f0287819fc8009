"""What `benchmarks.gpu` measures, section by section, in order of worth. What needs torch is imported where it runs."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Found = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One case of a section."""

    section: str
    case: str
    right: bool | None
    """Whether what is checked holds; None where it is only measured."""
    found: Found

    @property
    def said(self) -> str:
        return ", ".join(f"{name} {_short(value)}" for name, value in self.found.items())

    @property
    def cells(self) -> list[str]:
        return [self.section, self.case, {True: "yes", False: "NO", None: ""}[self.right], self.said]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def tried(section: str, case: str, run: Callable[[], tuple[bool | None, Found]]) -> Line:
    """A case; what it raises is what was found."""
    import torch

    try:
        right, found = run()
    except Exception as error:  # whatever it is, the next case goes on
        memory = isinstance(error, torch.OutOfMemoryError)
        right = None if memory else False
        lines = str(error).strip().splitlines() or [""]
        found = {"raised": f"{type(error).__name__}: {lines[0][:160]}"}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Line(section, case, right, found)


# --------------------------------------------------------------------------------------------------------------- right

TEXT = ("qwen2", "qwen3", "llama", "mistral", "gemma3_text", "opt")
SEEING = ("tiny-llava", "tiny-qwen2.5-vl")
TYPES: dict[str, Found] = {
    "float32": {},
    "autocast": {"autocast": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16"},
}


def right(tiny: bool) -> Iterator[Line]:
    """Every family against transformers' own forward, generate and gradients, in every type; against one sequence at a
    time where it sees; twice over."""
    for family in TEXT[:1] if tiny else TEXT:
        for name, options in TYPES.items():
            yield tried("right", f"{family}, {name}", lambda f=family, o=options: _as_transformers(f, o, tiny))
    for model in SEEING:
        yield tried("right", f"{model}, float32", lambda m=model: _as_one_by_one(m, tiny))
    for name in ("float32", "bfloat16"):
        yield tried("right", f"adapters, {name}, twice", lambda n=name: _twice(n, tiny))


def _as_transformers(family: str, options: Found, tiny: bool) -> tuple[bool, Found]:
    from transformers import AutoModelForCausalLM

    from mmpu.recipes.miniatures import write
    from mmpu.student import StudentConfig, checked, load_parts, transformers_says

    with tempfile.TemporaryDirectory() as folder:
        write(family, AutoModelForCausalLM, Path(folder), 256)
        config = StudentConfig(folder, device=_device(tiny), **options)
        parts = load_parts(config)
        _, verdict = checked(parts, config, transformers_says(parts, config))
    whole = verdict.sharing and verdict.sparing and verdict.prefixing and not verdict.unsampled
    return whole, {"log p": verdict.logp, "gradients": verdict.gradients, "sampled": verdict.sampler}


def _as_one_by_one(model: str, tiny: bool) -> tuple[bool, Found]:
    from benchmarks import arms
    from benchmarks.problem import Setting
    from benchmarks.reference import compare, reference

    setting = Setting(model, 290, 12, k=3, groups=2, device=_device(tiny))
    check = compare(arms.make("ours", setting), reference(setting, ("ldl",)))
    return check.passed, {"log p, relative": check.logp_error, "gradient, relative": check.gradient_error}


def _twice(dtype: str, tiny: bool) -> tuple[bool | None, Found]:
    import torch

    found: list[Any] = []
    for _ in range(2):
        update, rows = _stage("tiny-qwen2" if tiny else "small-qwen2", {"a": (64, (16, 30, 9))}, tiny, dtype)
        for _ in range(3):
            update(rows, 0, 10)
        found.append([p.detach().clone() for p in update.student.parameters() if p.requires_grad])
    same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    return same, {"bitwise": same}


# --------------------------------------------------------------------------------------------------------- one update


def passes(tiny: bool) -> Iterator[Line]:
    """Peak memory, tokens and useful FLOPs a second of one update of adapters over bfloat16."""
    short = 32 if tiny else 1
    cases = {
        "even 3 x (512 + 8 x 512)": {str(g): (512 // short, (512 // short,) * 8) for g in range(3)},
        "long 512 + 3 x 4,096": {"a": (512 // short, (4096 // short,) * 3)},
        "ragged 512 + 4,096 + 15 x 500": {"a": (512 // short, (4096 // short, *(500 // short,) * 15))},
    }
    for model in ("tiny-qwen2", "tiny-qwen2.5-vl") if tiny else ("qwen2.5-3b", "qwen2.5-1.5b", "qwen2.5-vl-3b"):
        for name, groups in cases.items():
            for checkpointing in (True, False):
                if model.endswith(("vl", "vl-3b")) and (checkpointing or not name.startswith("even")):
                    continue
                case = f"{model}, {name}{', checkpointing' if checkpointing else ''}"
                yield tried("update", case, lambda m=model, g=groups, c=checkpointing: _pass(m, g, c, tiny))


def _pass(model: str, groups: Groups, checkpointing: bool, tiny: bool) -> tuple[None, Found]:
    from benchmarks import models, timing

    device = _device(tiny)
    update, rows = _stage(model, groups, tiny, "bfloat16", checkpointing)
    update(rows, 0, 10)
    with timing.peak_memory(device) as peak:
        seconds = min(timing.timed(lambda: update(rows, 0, 10), device) for _ in range(2))
    shape = models.SHAPES[model]
    flops = sum(adapter_flops(shape, p + _image(shape), list(c), _image(shape) > 0) for p, c in groups.values())
    tokens = sum(p + _image(shape) + sum(c) for p, c in groups.values())
    best = timing.peak_flops(device, "float32" if tiny else "bfloat16")
    return None, {
        "tokens": tokens,
        "s": seconds,
        "tokens/s": round(tokens / seconds),
        "MFU": f"{flops / seconds / best:.1%}",
        "peak MiB": round(peak[0]),
    }


def adapter_flops(shape: Any, prompt: int, completions: list[int], seen: bool) -> float:
    """As `models.minimum_flops`, where weights get no gradient: a product is taken once forward and once back."""
    from benchmarks import models

    whole = models.minimum_flops(shape, prompt, completions, int(seen))
    unread = (prompt - 1) * (2 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate)
    linear = models.multiplications(shape) * (prompt + sum(c - 1 for c in completions)) - unread
    head = 2 * shape.hidden * shape.vocabulary * sum(completions)
    return whole - 2 * linear - head


# ------------------------------------------------------------------------------------------------------------- rivals


def rivals(tiny: bool) -> Iterator[Line]:
    """One update of all weights in bfloat16 against the careful padded loop and TRL."""
    from benchmarks import arms
    from benchmarks.problem import Setting

    model, prompt, completion = ("tiny-qwen2", 64, 16) if tiny else ("qwen2.5-3b", 512, 128)
    setting = Setting(model, prompt, completion, k=8, device=_device(tiny), dtype="float32" if tiny else "bfloat16")
    for name in ("ours", "plain", "trl-ldl"):
        if reason := arms.missing(name):
            yield Line("rivals", name, None, {"left out": reason})
            continue
        yield tried("rivals", f"{name}, {setting.name}", lambda n=name: _timed_arm(n, setting))


def _timed_arm(name: str, setting: Any) -> tuple[None, Found]:
    from benchmarks import arms, timing

    arm, best = arms.make(name, setting), float("inf")
    for micro in (1, 2, 4, 8) if arm.tunable else (0,):
        if micro:
            arm.choose(micro)
        for _ in range(2):
            arm.step()
        best = min(best, *(timing.timed(arm.step, setting.device) for _ in range(3)))
    return None, {"s": best}


# ---------------------------------------------------------------------------------------------------------------- gap


def gap(tiny: bool) -> Iterator[Line]:
    """What the sampler records against what the trainer computes, token by token."""
    for name, options in {"adapters, bfloat16": {"dtype": "bfloat16"}, "autocast": {"autocast": "bfloat16"}}.items():
        yield tried("gap", name, lambda o=options: _gap(o, tiny))


def _gap(options: Found, tiny: bool) -> tuple[None, Found]:
    import torch

    from mmpu.core import Sampling
    from mmpu.engines.hf import HF
    from mmpu.student import Tree

    update, rows = _stage(
        "tiny-qwen2" if tiny else "qwen2.5-1.5b", {str(g): (64, (8,)) for g in range(4)}, tiny, **options
    )
    held, asked = update.student, [row.sample for each in rows for row in each]
    with torch.no_grad():  # as peaked as a trained model's
        held.base.model.norm.weight.mul_(1.0 if tiny else 12.0)
    drawn: Any = HF(held).generate(asked, 8, Sampling(max_tokens=16 if tiny else 512))
    found: list[Any] = []
    for sample, responses in zip(asked, drawn, strict=True):
        with torch.no_grad():
            ours = held(held.pack([Tree(held.encode(sample), tuple(r.tokens for r in responses))])).double().cpu()
        found.append(ours - torch.tensor([x for r in responses for x in r.logp], dtype=torch.float64))
    off = torch.cat(found)
    return None, {"mean": float(off.mean()), "std": float(off.std()), "worst": float(off.abs().max())}


# -------------------------------------------------------------------------------------------------------- whole steps


def steps(tiny: bool) -> Iterator[Line]:
    """Generate, score, update: mmpu with its own sampler, the careful loop, TRL; and vLLM's part where it is there."""
    from benchmarks import arms
    from benchmarks.problem import Setting

    model, prompt, completion = ("tiny-qwen2", 96, 8) if tiny else ("qwen2.5-1.5b", 512, 128)
    setting = Setting(model, prompt, completion, k=4 if tiny else 8, groups=2, device=_device(tiny), ragged=False)
    for name in ("ours", "plain", "trl"):
        if reason := arms.missing(name):
            yield Line("step", name, None, {"left out": reason})
            continue
        yield tried("step", f"{name}, {setting.name}", lambda n=name: _whole(n, setting))
    yield tried("step", f"vLLM, {model}", lambda: _sampled_by_vllm(model, tiny))


def _whole(name: str, setting: Any) -> tuple[None, Found]:
    from benchmarks import pipeline, timing

    pipe = pipeline.make(name, setting)
    parts = ("generate", "score", "update")
    for part in parts:
        getattr(pipe, part)()
    seconds = {part: timing.timed(getattr(pipe, part), setting.device) for part in parts}
    return None, {**seconds, "together": sum(seconds.values())}


def _sampled_by_vllm(model: str, tiny: bool) -> tuple[None, Found]:
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        return None, {"left out": "vLLM is not installed"}
    from benchmarks import timing
    from mmpu.core import Sampling
    from mmpu.engines.vllm import VLLM

    device = _device(tiny)
    groups = {str(g): (64 if tiny else 512, (8,)) for g in range(2)}
    update, rows = _stage(model, groups, tiny, "float32" if tiny else "bfloat16")
    asked, sampling = [row.sample for each in rows for row in each], Sampling(max_tokens=8 if tiny else 128)
    with tempfile.TemporaryDirectory() as folder:
        more = {"enforce_eager": True} if tiny else {}
        engine = VLLM(update.student, Path(folder) / "vllm", max_length=1024, rows=64, options=more)
        try:
            engine.generate(asked, 8, sampling)
            engine.rest()
            update(rows, 0, 10)
            sync = timing.timed(engine.sync, device)
            return None, {
                "weights": sync,
                "generate": timing.timed(lambda: engine.generate(asked, 8, sampling), device),
            }
        finally:
            engine.close()


# --------------------------------------------------------------------------------------------------------- what is run

Groups = dict[str, tuple[int, tuple[int, ...]]]
"""Words of a prompt and tokens of its candidates, by sample."""


def _device(tiny: bool) -> str:
    return "cpu" if tiny else "cuda"


def _image(shape: Any) -> int:
    from benchmarks import models

    return models.IMAGE_TOKENS if shape.family != "qwen2" else 0


def _stage(
    model: str,
    groups: Groups,
    tiny: bool,
    dtype: str = "float32",
    checkpointing: bool = False,
    autocast: str | None = None,
) -> tuple[Any, list[list[Any]]]:
    """The update of a stage and a step's rows: adapters, unless it computes in another type than its weights'."""
    import torch
    from accelerate import Accelerator

    from benchmarks import models
    from benchmarks.problem import METHOD, Setting, picture, words
    from mmpu.core import Part, Response, Sample, user
    from mmpu.learning import Row
    from mmpu.student import Lora, Student, StudentConfig
    from mmpu.student.parts import checkpoint_activations
    from mmpu.train.optim import Optim
    from mmpu.train.update import Updater

    device, shape = _device(tiny), models.SHAPES[model]
    setting = Setting(model, 0, 0, device=device)
    base = models.build(shape, device, getattr(torch, dtype))
    config = StudentConfig(
        model,
        lora=None if autocast else Lora(r=8 if tiny else 64, alpha=16 if tiny else 128),
        dtype=dtype,  # pyright: ignore
        autocast=autocast,  # pyright: ignore
        device=device,
    )
    family = models.FAMILIES[shape.family]()
    held = Student(base, models.tokenizer(shape), config, models.image_processor(shape), family).eval()
    if checkpointing:
        checkpoint_activations(held.base)
    held.start_stage(reference=False)
    images = [Part("image", picture(0))] if _image(shape) else []
    rows: list[list[Any]] = []
    for number, (name, (prompt, lengths)) in enumerate(groups.items()):
        sample = Sample(name, user(*images, words(setting, prompt, (7, number))))
        drawn = [_tokens(shape.vocabulary, n, k) for k, n in enumerate(lengths)]
        responses = [Response("", tokens, (0.0,) * len(tokens)) for tokens in drawn]
        rows.append([Row(sample, r, 1 / len(responses), number) for r in responses])
    optim = Optim(lr=1e-6, schedule="constant")
    return Updater(held, held, optim.build(held), METHOD, optim, Accelerator(cpu=tiny)), rows


def _tokens(vocabulary: int, count: int, key: int) -> tuple[int, ...]:
    import numpy as np

    from benchmarks import models

    return tuple(np.random.default_rng(key).integers(models.FIRST_WORD, vocabulary, count).tolist())


@dataclass(frozen=True)
class Section:
    run: Callable[[bool], Iterator[Line]]
    seconds: float
    """What it may take of the ten minutes."""


SECTIONS: dict[str, Section] = {
    "right": Section(right, 120),
    "rivals": Section(rivals, 120),
    "update": Section(passes, 160),
    "gap": Section(gap, 60),
    "step": Section(steps, 180),
}
