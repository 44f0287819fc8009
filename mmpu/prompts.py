"""Prompts about answers: a model is asked to grade or compare what another model wrote.

What is quoted is data. Tags of ours and of the template, and a chat template's own marks, are broken up inside a quoted
text, so that no answer can step out of its block or begin a turn of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mmpu import files
from mmpu.chats import said_by
from mmpu.core import Message, Part, Sample, UserError, digest

MAX_CHARACTERS = 32_000
"""Of an answer as a judge sees it, unless the judge says otherwise: some 8,000 tokens."""
PROMPT_BYTES = 2**20
"""Of a prompt file."""
_TAGS = ("question", "reference", "candidate", "response_[ab]")
_WORDS = (
    "start_of_turn|end_of_turn|bos|eos|pad|unk|sep|cls|mask|extra_id_|image|video|audio|start_of_image|end_of_image"
)
_CAPITALS = "INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT|TOOL_CONTENT|ARGS|CALL_ID|IMG|THINK|gMASK"
_CHAT = (
    rf"<(?=[|｜])|<(?=/?s>)|<(?=/?think>)|<(?=<\s*/?\s*SYS\s*>)|(?<=<)<(?=\s*/?\s*SYS\s*>)|<(?=/?(?:{_WORDS})[\w.-]*>)"
    rf"|<(?=[^\s<>]{{0,40}}[|｜]>)|\[(?=\s*/?(?:{_CAPITALS})\w*\])"
)
"""Marks that tokenizers of chat models take for the border of a turn."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that are not seen, or change the order of what is: never part of an answer's worth."""


def template_path(given: str | None, default: Path) -> Path:
    """The prompt file that a config names, or the toolkit's own."""
    return files.place(given) if given else default


@cache
def template_of(path: Path) -> Any:
    """A prompt file, compiled in a sandbox: a task that nobody trusts may bring one.

    Raises:
        UserError: no such file, or not a Jinja template.
    """
    from jinja2 import TemplateError

    from mmpu.sandbox import Sandbox

    try:
        return Sandbox().from_string(files.text(path, PROMPT_BYTES))
    except (OSError, ValueError, TemplateError, SyntaxError, RecursionError) as error:
        raise UserError(f"cannot use the prompt {path}: {error}") from None


@cache
def prompt_hash(path: Path) -> str:
    """The content hash of a prompt file; like the compiled template, of what it held when it was first read."""
    try:
        return digest(files.text(path, PROMPT_BYTES, "utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the prompt {path}: {error}") from None


def about(
    sample: Sample, template: Path, *, longest: int | None = None, **quoted: str | Sequence[str] | None
) -> Sample:
    """The same sample, its prompt replaced by one user turn: the images, then the template's text.

    Args:
        longest: Characters of a quoted text that are shown; the middle of a longer one is left out.
        quoted: Variables of the template besides `question`, texts or lists of them; made inert.
    """
    from jinja2 import TemplateError

    def quote(text: str) -> str:
        return inert(shortened(_CONTROL.sub("\ufffd", text.strip().replace("\r\n", "\n")), longest), template)

    def quoted_value(value: str | Sequence[str] | None) -> str | list[str] | None:
        if value is None or isinstance(value, str):
            return None if value is None else quote(value)
        return [quote(text) for text in value]

    compiled = template_of(template)
    values = {name: quoted_value(value) for name, value in quoted.items()}
    try:
        compiled.environment.begin()
        text = compiled.render(question=inert(question(sample.prompt), template), **values)
    except (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(f"cannot use the prompt {template}: {error}") from None
    images = [p for m in sample.prompt for p in m.parts if p.kind == "image"]
    return replace(sample, prompt=(Message("user", (*images, Part("text", text))),))


def question(prompt: Sequence[Message]) -> str:
    """The text of a prompt in one block, calls in our form; turns are labelled where there are several."""
    if len(prompt) == 1:
        return prompt[0].text.strip()
    return "\n".join(f"{message.role}: {said_by(message).strip()}" for message in prompt)


def inert(text: str, template: Path | None = None) -> str:
    """A text that cannot close or open our blocks, those of the template, or a chat's turns."""
    return _marks(template).sub(lambda match: {"<": "‹", "[": "("}[match[0]], text)


def shortened(text: str, longest: int | None) -> str:
    """A text of at most `longest` characters and a note; beginning and end stay."""
    if longest is None or len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters are left out here …]\n{text[-half:]}"


def conditions(texts: Iterable[str]) -> dict[str, int]:
    """How many answers are out of the ordinary, by what is done about it when they are shown to a judge."""
    counts: Counter[str] = Counter(
        empty=0, control_characters=0, replaced_characters=0, marks_of_prompts=0, longer_than_shown=0
    )
    for text in texts:
        counts["empty"] += not text.strip()
        counts["control_characters"] += _CONTROL.search(text.replace("\r\n", "\n")) is not None
        counts["replaced_characters"] += "\ufffd" in text
        counts["marks_of_prompts"] += inert(text) != text
        counts["longer_than_shown"] += len(text) > MAX_CHARACTERS
    return dict(counts)


@cache
def _marks(template: Path | None) -> re.Pattern[str]:
    found = (
        re.findall(r"<\s*/?\s*([A-Za-z_][\w-]*)\s*>", files.text(template, PROMPT_BYTES, "utf-8")) if template else []
    )
    tags = "|".join([*_TAGS, *sorted({re.escape(tag) for tag in found})])
    return re.compile(rf"<(?=\s*/?\s*(?:{tags})\b)|{_CHAT}", re.IGNORECASE)


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
