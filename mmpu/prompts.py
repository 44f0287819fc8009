"""Prompts about answers: a model is asked to grade or compare what another model wrote.

What is quoted is data. Closing tags of ours inside a quoted text are broken up, so that no answer can step out of its
block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mmpu.core import Message, Part, Sample, UserError

_TAG = re.compile(r"<(\s*/?\s*(?:question|reference|candidate|response_[ab]))", re.IGNORECASE)


@cache
def template_of(path: Path) -> Any:
    """A prompt file, compiled.

    Raises:
        UserError: no such file, or not a Jinja template.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    try:
        return Environment(undefined=StrictUndefined).from_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise UserError(f"cannot use the prompt {path}: {error}") from None


def about(sample: Sample, template: Path, **quoted: str | Sequence[str] | None) -> Sample:
    """The same sample, its prompt replaced by one user turn: the images, then the template's text.

    Args:
        quoted: Variables of the template besides `question`, texts or lists of them; made inert.
    """
    from jinja2 import TemplateError

    values = {name: _inert(value) for name, value in quoted.items()}
    try:
        text = template_of(template).render(question=inert(question(sample.prompt)), **values)
    except TemplateError as error:
        raise UserError(f"cannot use the prompt {template}: {error}") from None
    images = [p for m in sample.prompt for p in m.parts if p.kind == "image"]
    return replace(sample, prompt=(Message("user", (*images, Part("text", text))),))


def question(prompt: Sequence[Message]) -> str:
    """The text of a prompt in one block; turns are labelled only where there is more than one."""
    if len(prompt) == 1:
        return prompt[0].text.strip()
    return "\n".join(f"{message.role}: {message.text.strip()}" for message in prompt)


def _inert(value: str | Sequence[str] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else inert(value.strip())
    return [inert(text.strip()) for text in value]


def inert(text: str) -> str:
    """A text that cannot close or open our blocks."""
    return _TAG.sub(r"‹\1", text)


def with_solution(sample: Sample, template: Path, solution: str | None, longest: int, what: str) -> Sample:
    """The prompt of a teacher that is shown a solution: a template with `question` and `solution`.

    Args:
        longest: Characters of the solution; a longer one loses its beginning, never the question its end.
        what: How an error names the solution, such as `reference`.

    Raises:
        UserError: there is no solution.
    """
    if solution is None or not solution.strip():
        raise UserError(
            f"sample {sample.id!r} has no {what} to show the teacher; without one it knows no more than the student. "
            "Set `privileged: anchor` and a `teacher:`, or `privileged: reference` where the task has references"
        )
    return about(sample, template, solution=solution.strip()[-longest:])
