"""What a run would take, without loading a model: everything is checked, prompts are read, nobody is asked."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpu.core import Sample
from mmpu.recipes import fit, wiring
from mmpu.recipes.collecting import CHARACTERS_PER_TOKEN, estimated_tokens
from mmpu.recipes.fit import Planned
from mmpu.recipes.run_config import RunConfig
from mmpu.recipes.wiring import Wired
from mmpu.store import Ledger
from mmpu.student import StudentConfig, resolve_model
from mmpu.train.rows import rows_of
from mmpu.train.stage import steps_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAM = 8
"""Bytes of AdamW's two moments of a trained weight; its gradient takes as many as the weight."""


def lines(run: RunConfig) -> list[str]:
    """Steps, tokens, teacher calls and cost of each stage, and memory.

    Raises:
        UserError: what `mmpu train` would refuse before it loads the student.
    """
    there = run.store_file.exists()
    store = run.store_file if there else Path(":memory:")
    ledger = Ledger(run.folder / ".dry.json", at_once=False)
    wired = wiring.wired(run.task, run.allow_urls, run.teacher, store, ledger)
    plan = fit.plan(run, wired)
    asked: dict[str, Sample] = {}
    found: list[str] = []
    for stage in plan:
        samples = wired.task.samples(stage.config.split)
        found += _stage(run, stage, samples)
        if "anchor" in stage.method.needs or stage.config.scorer is not None:
            asked |= {sample.id: sample for sample in samples}
    return [*found, *_teacher(run, wired, list(asked.values())), *_memory(run.student)]


def _stage(run: RunConfig, stage: Planned, samples: Sequence[Sample]) -> list[str]:
    config = stage.config
    steps, size = steps_of(config, len(samples))
    prompts = sum(map(estimated_tokens, samples)) / len(samples)
    drawn = steps * size * config.k if "responses" in stage.method.needs else 0
    said = f"stage {config.name}: {len(samples):,} prompts of about {prompts:,.0f} tokens, {steps:,} steps of {size}"
    if drawn:
        said += f"; {drawn:,} responses sampled, {drawn * stage.sampling.max_tokens:,} tokens at most"
    seconds = _measured(run.folder, config.name)
    if seconds:
        whole = datetime.timedelta(seconds=round(seconds * steps))
        said += f"; about {whole}, at the {seconds:.1f} s that a step took before"
    return [said]


def _measured(folder: Path, stage: str) -> float | None:
    """Seconds of a step of the stage, where the run's folder knows."""
    times = [
        sum(value for name, value in row.items() if name.startswith("seconds_"))
        for row in rows_of(folder / "metrics.jsonl")
        if row["stage"] == stage and "loss" in row
    ]
    return sum(times) / len(times) if times else None


def _teacher(run: RunConfig, wired: Wired, samples: Sequence[Sample]) -> list[str]:
    if wired.teacher is None or not samples:
        return ["teacher: none is asked"]
    cached: Any = wired.teacher
    if any(answer is not None for answer in cached.known(samples[:1])):
        return [f"teacher: {len(samples):,} answers are recorded"]
    missing = cached.missing(samples, 1, run.teacher_sampling)
    tokens_in = sum(map(estimated_tokens, missing))
    tokens_out = len(missing) * run.teacher_sampling.max_tokens
    said = (
        f"teacher: {len(missing):,} calls ({len(samples) - len(missing):,} answers are stored), about {tokens_in:,} "
        f"tokens in ({CHARACTERS_PER_TOKEN} characters each), {tokens_out:,} out at most"
    )
    price = getattr(cached.engine, "price", None)
    cost = "" if price is None else f"; {(tokens_in * price.input + tokens_out * price.output) / 1e6:,.2f} at most"
    return [said + cost]


def _memory(config: StudentConfig) -> list[str]:
    """Of weights, gradients and optimiser; activations are bounded by `optim.tokens_per_pass` and not counted."""
    weights = parameters(config.model)
    if weights is None:
        return [f"memory: unknown, since the shape of {config.model} is not on this machine"]
    held = weights * BYTES[config.dtype]
    if config.lora is None:
        total, how = held + weights * (BYTES[config.dtype] + ADAM), "weights, gradients and AdamW of all"
    else:
        total, how = held, f"the weights in {config.dtype}; adapters, their gradients and AdamW come to them"
    device = _device()
    room = "" if device is None else f"; {device[0]} has {device[1] / 2**30:,.1f} GiB free"
    return [f"memory: {weights:,} parameters, {total / 2**30:,.2f} GiB for {how}, besides activations{room}"]


def parameters(model: str) -> int | None:
    """Weights of a model by its shape alone: built of tensors without content. None where its shape is not at hand."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    path, _ = resolve_model(model)
    try:
        shape: Any = AutoConfig.from_pretrained(path, local_files_only=True)
        seeing = hasattr(shape, "vision_config")
        auto: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
        with torch.device("meta"):
            made = auto.from_config(shape)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    return sum(weight.numel() for weight in made.parameters())


def _device() -> tuple[str, int] | None:
    """The device that a student would be put on, and its free memory in bytes; None where that is not known."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    file = Path("/proc/meminfo")
    if not file.exists():
        return None
    rows = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
    return "this machine", int(rows["MemAvailable"].split()[0]) * 1024
