"""A student from its config: loaded, and held against transformers unless the same was before."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import torch

from mmpu.core import UserError
from mmpu.student import remembered
from mmpu.student.packing import Tree
from mmpu.student.parts import Parts, load_parts
from mmpu.student.selfcheck import Verdict, judged, probes, transformers_says
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.student.untouched import FAILURES, Untouched, within_memory

EXACT = frozenset(
    ("qwen2", "qwen3", "llama", "opt", "gemma3_text", "llava", "qwen2_5_vl", "qwen3_vl", "gemma3"),
)
"""Architectures that the tests hold against transformers, in float32 and on a CPU, as loading does others."""
_NEAR = re.compile(r"window(_size)?$|^(?!.*experts).*local|chunk_size$|index_topk|rel_extent")
"""Numbers of a configuration that say how far back a layer looks."""


def load_student(config: StudentConfig) -> Student:
    """A student from a bundled name, a folder or the hub; a stage folder of a run brings its base and adapters.

    Its architecture is compared with transformers' own forward and generate on two short prompts, unless that was done
    before: shortcuts that do not hold are switched off.

    Raises:
        UserError: the model cannot be found, has no chat template, is damaged or is computed wrong.
    """
    parts = load_parts(config)
    device = parts.model.get_input_embeddings().weight.device
    known = parts.model.config.model_type in EXACT and type(parts.model).__module__.startswith("transformers.")
    tested = known and config.attention == "sdpa" and config.quantize is None
    if tested and device.type == "cpu" and config.computes_in == "float32":
        return assembled(parts, config)
    key = remembered.key(config, parts.model.config, device)
    before = remembered.recall(key)
    if before is not None:
        student = assembled(parts, config)
        Verdict(**before).settle(student)
        return student
    student, verdict = checked(parts, config)
    remembered.remember(key, asdict(verdict))
    return student


def checked(parts: Parts, config: StudentConfig, said: Untouched | None = None) -> tuple[Student, Verdict]:
    """A student that was held against transformers just now, and how it went."""
    said = said or transformers_says(parts, config)
    student = assembled(parts, config)
    verdict = judged(student, said)
    verdict.settle(student)
    return student, verdict


def assembled(parts: Parts, config: StudentConfig) -> Student:
    """A student of its parts, unchecked."""
    student = Student(parts.model, parts.tokenizer, config, parts.image_processor, parts.family).eval()
    if parts.model.config.model_type not in EXACT:
        student.horizon = _horizon(parts.model.config.get_text_config())
    if student.family.marker is not None:
        _seen(student)
    if (generation := getattr(student.base, "generation_config", None)) is not None:
        generation.eos_token_id = sorted(student.eos)  # also for who generates from it, or from what is saved
    return student


def _seen(student: Student) -> None:
    """Refuses a model that a picture does not go through. Whether its template writes one, its prompts will tell.

    Raises:
        UserError: it does not; says why.
    """
    try:
        prompt = student.encode(probes(student)[0])
        with torch.no_grad():
            student(student.pack([Tree(prompt, ((prompt.ids[0],),))]))
    except UserError:
        return
    except FAILURES as error:
        within_memory(error)
        raise UserError(
            f"a picture does not go through {student.config.model} ({str(error).splitlines()[0]}): its image processor "
            "is another model's; add the preprocessor_config.json of the model that it was made from"
        ) from error
    finally:
        student.tokens_read = 0


def _horizon(shape: Any) -> int | None:
    """The least number of tokens that some layer may look back, where it may be fewer than all. Short probes see
    nothing of it, so rows that long are computed as transformers does."""
    named = {name: value for name, value in vars(shape).items() if _NEAR.search(name)}
    return min((v for v in named.values() if isinstance(v, int) and v > 0), default=None)
