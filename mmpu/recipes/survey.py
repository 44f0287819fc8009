"""`mmpu doctor --all`: every architecture of the installed transformers in miniature, held against transformers itself.

Each is made, saved, loaded and checked in a process of its own, which may crash, or hang, alone.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpu.core import UserError
from mmpu.recipes.miniatures import architectures, write

SECONDS = 120.0
"""Given to an architecture."""
TELLING = 1e-2
"""Nats by which another token must move what is said five tokens later, or the comparison proves nothing."""
NEAR, FAR = 8, 256
"""How far back layers look that do not see all: less than a probe, and all of it."""


@dataclass(frozen=True)
class Finding:
    """What became of an architecture."""

    model_type: str
    images: bool
    outcome: str
    """`exact with sharing`, `exact without`, `refused` or `not built`."""
    note: str = ""
    logp: float | None = None
    gradients: float | None = None
    sampler: float | None = None


def survey(only: tuple[str, ...] = ()) -> Iterator[Finding]:
    """All architectures, or those named, one after the other."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    importlib.import_module("mmpu.student")  # the processes inherit what is imported

    for auto, kinds in architectures().items():
        for model_type in kinds:
            if only and model_type not in only:
                continue
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(model_type, auto, theirs))
            process.start()
            theirs.close()
            images = auto != "AutoModelForCausalLM"
            finding = Finding(model_type, images, "not built", f"took longer than {SECONDS:.0f} s")
            try:
                if ours.poll(SECONDS):
                    finding = ours.recv()
            except EOFError:
                finding = replace(finding, note="its process ended")
            process.kill()
            process.join()
            yield finding


def rows(only: tuple[str, ...] = ()) -> Iterator[str]:
    """The findings as lines of a Markdown table: largest |Δ log p|, relative |Δ gradient|, |Δ log p| while sampling."""
    yield "| architecture | outcome | log p | gradients | sampled | |"
    yield "|---|---|---|---|---|---|"
    for f in survey(only):
        numbers = ["" if n is None else f"{n:.0e}" for n in (f.logp, f.gradients, f.sampler)]
        name = f"{f.model_type} (images)" if f.images else f.model_type
        yield f"| {name} | {f.outcome} | {' | '.join(numbers)} | {f.note} |"


def _child(model_type: str, auto: str, pipe: Any) -> None:
    pipe.send(examined(model_type, auto))
    pipe.close()


def examined(model_type: str, auto: str) -> Finding:
    """One architecture, made, saved, loaded and checked here."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    images = auto != "AutoModelForCausalLM"
    if images:
        return _seeing(model_type)
    kept: Finding | None = None
    for near in (FAR, NEAR):
        with tempfile.TemporaryDirectory() as folder:
            try:
                write(model_type, getattr(transformers, auto), Path(folder), near)
            except Exception as error:  # whatever a class raises at numbers it was not made for
                return Finding(model_type, images, "not built", _short(error))
            found, near_sighted = _tried(model_type, folder)
        kept = found if kept is None or found.outcome != "exact with sharing" else kept
        if not near_sighted or not found.outcome.startswith("exact"):
            break
    assert kept is not None
    return kept


def _seeing(model_type: str) -> Finding:
    """Of an image-text architecture: the tests build what there is a file for."""
    from mmpu import plugins

    if model_type in plugins.code("families"):
        return Finding(model_type, True, "exact with sharing", "in the table above, with a test of its own")
    return Finding(model_type, True, "refused", "no file in families/")


def _tried(model_type: str, folder: str) -> tuple[Finding, bool]:
    """Its outcome, with eager attention where no other will do, and whether some layer does not see all."""
    found = Finding(model_type, False, "refused")
    for attention in ("sdpa", "eager"):
        try:
            finding, near_sighted = _loaded(model_type, folder, attention)
        except UserError as error:
            why = _short(error).replace(f"'{folder}'", model_type).replace(folder, model_type)
            found = replace(found, note=why if not found.note or "does not support" in found.note else found.note)
        except Exception as error:
            return replace(found, outcome="not built", note=f"{type(error).__name__}: {_short(error)}"), False
        else:
            return finding, near_sighted
    return found, False


def _loaded(model_type: str, folder: str, attention: str) -> tuple[Finding, bool]:
    from mmpu.student import StudentConfig, checked, load_parts, transformers_says

    config = StudentConfig(folder, device="cpu", attention=attention)
    parts = load_parts(config)
    moved = _moved(parts)
    if moved < TELLING:
        return Finding(model_type, False, "not built", f"says nothing of its prompt ({moved:.1g} nats)"), False
    student, verdict = checked(parts, config, transformers_says(parts, config))
    notes = [
        "`attention: eager`" if attention == "eager" else "",
        f"not sampled in process: {verdict.unsampled}" if verdict.unsampled else "",
        "" if verdict.unsampled or verdict.prefixing else "prompts are copied to responses",
        "windows apart" if student.horizon else "",
    ]
    outcome = "exact with sharing" if verdict.sharing else "exact without"
    sampler = None if verdict.unsampled else verdict.sampler
    note = "; ".join(filter(None, notes))
    found = Finding(model_type, False, outcome, note, verdict.logp, verdict.gradients, sampler)
    return found, student.horizon is not None


def _moved(parts: Any) -> float:
    """By how many nats another token moves what is said five tokens later."""
    import torch

    ids = torch.tensor([parts.tokenizer("Which is larger, the first or the second?")["input_ids"]]).repeat(2, 1)
    ids[1, -5] = (ids[1, -5] + 7) % len(parts.tokenizer)
    with torch.no_grad():
        logp = parts.model(input_ids=ids, use_cache=False).logits[:, -1].log_softmax(-1)
    return float((logp[0] - logp[1]).abs().max())


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
