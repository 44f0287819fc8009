"""A student from its config: loaded, and held against transformers unless its architecture was."""

from __future__ import annotations

from mmpu.student.parts import StudentConfig, load_parts
from mmpu.student.selfcheck import can_share
from mmpu.student.student import Student

EXACT = frozenset(
    ("qwen2", "qwen3", "llama", "opt", "gemma3_text", "llava", "qwen2_5_vl", "qwen3_vl", "gemma3"),
)
"""Architectures whose shared trunks the tests hold against the plain forward; others are tried when loaded."""


def load_student(config: StudentConfig) -> Student:
    """A student from a bundled name, a folder or the hub; a stage folder of a run brings its base and adapters.

    Raises:
        UserError: the model cannot be found or has no chat template.
    """
    parts = load_parts(config)
    student = Student(parts.model, parts.tokenizer, config, parts.image_processor, parts.family).eval()
    if parts.model.config.model_type not in EXACT:
        student.sharing = can_share(student)
    if (generation := getattr(student.base, "generation_config", None)) is not None:
        generation.eos_token_id = sorted(student.eos)  # also for who generates from it, or from what is saved
    return student
