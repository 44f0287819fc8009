"""From a row to a sample: the templates of a task YAML, compiled once and filled in row by row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from mmpu.config import Values
from mmpu.core import Message, Part, Sample, UserError
from mmpu.task import border, templates
from mmpu.task.cells import cell

Role = Literal["system", "user", "assistant"]
Kind = Literal["text", "image"]
ROLES = ("system", "user", "assistant")
_ELSEWHERE = ("data:", "http://", "https://")


@dataclass(frozen=True)
class SampleTemplates:
    """The keys of a task YAML that say what a sample is made of."""

    prompt: list[dict[str, Any]]
    """Turns: `- user: text`, `- user: [{image: path}, text]`, or `- messages: "{{ field }}"` for a row's own chat. An
    image that is empty is left out, one that is a list of pictures is as many parts."""
    derive: dict[str, str] = field(default_factory=dict[str, str])
    """Further fields as Jinja expressions, in order, such as `choices: "[a, b] | shuffled(question)"`."""
    id: str | None = None
    """Template of a sample's id; default: split and row number."""
    reference: str | None = None
    answer: str | None = None
    meta: dict[str, str] = field(default_factory=dict[str, str])
    """Further templates, kept with the sample for graders; one that is a single `{{ field }}` keeps its type."""
    origin: str | None = None
    """What an item derives from (a story's prompt, a seed question, a picture); no origin may be in two splits."""

    def sources(self) -> Iterator[tuple[str, str, bool]]:
        """Every template with its key, and whether it is a bare expression."""
        for number, turn in enumerate(self.prompt):
            for content in turn.values():
                for part in cast(list[Any], content) if isinstance(content, list) else [content]:
                    source = cast(Values, part).get("image") if isinstance(part, dict) else part
                    yield f"prompt.{number}", str(source), False
        for key in ("id", "reference", "answer", "origin"):
            if getattr(self, key) is not None:
                yield key, getattr(self, key), False
        yield from ((f"meta.{key}", source, False) for key, source in self.meta.items())
        yield from ((f"derive.{key}", source, True) for key, source in self.derive.items())


class Maker:
    """Makes the samples of one split."""

    def __init__(
        self, config: SampleTemplates, path: Path, folder: Path, split: str, within: Path | None = None
    ) -> None:
        """Args:
        within: A folder that pictures may not leave through links.
        """
        self.config, self.path, self.folder, self.split, self.within = config, path, folder, split, within
        self.turns = [self._turn(turn) for turn in config.prompt]
        if not self.turns:
            raise UserError(f"{path}: `prompt` has no turn")
        self.derived = {
            key: templates.expression(source, f"{path}: cannot read `derive.{key}: {source}`")
            for key, source in config.derive.items()
        }

    def prepare(self, row: Values, where: str) -> Values:
        """A row with its split and its derived fields, its cells as `cells.cell` has them."""
        row = {key: cell(value, f"{where}, field {key!r}") for key, value in row.items()}
        row.setdefault("split", self.split)
        for key, derive in self.derived.items():
            try:
                row[key] = derive(row)
            except templates.failures() as error:
                have = ", ".join(map(str, row))
                raise UserError(f"{where}: `derive.{key}` of {self.path.name}: {error}; the row has: {have}") from None
        return row

    def __call__(self, number: int, row: Values, where: str) -> Sample:
        """The sample of a prepared row.

        Args:
            number: Of the row, from 1; its id where the task has no `id`.
            where: What errors call the row.
        """
        config = self.config

        def named(what: str) -> str:
            return f"{where}: `{what}` of {self.path.name}"

        def optional(what: str) -> str | None:
            template = getattr(config, what)
            return None if template is None else templates.text(template, row, named(what)) or None

        prompt = tuple(message for turn in self.turns for message in self._messages(turn, row, named("prompt")))
        if not any(part.data.strip() for message in prompt for part in message.parts):
            raise UserError(f"{where}: the prompt is empty")
        if prompt[-1].role == "assistant":
            raise UserError(
                f"{named('prompt')} ends with the assistant's turn, which is the answer; "
                'write `- messages: "{{ chat[:-1] }}"` and `reference: "{{ chat[-1].content }}"`, with the row\'s own '
                "field for `chat`, or move the turn from `prompt` to `reference`"
            )
        meta = {key: templates.value(text, row, named(f"meta.{key}")) for key, text in config.meta.items()}
        if (origin := optional("origin")) is not None:
            meta["origin"] = origin
        return Sample(
            id=optional("id") or f"{self.split}-{number}",
            prompt=prompt,
            reference=optional("reference"),
            answer=optional("answer"),
            meta=meta,
        )

    def _turn(self, turn: Mapping[str, Any]) -> tuple[str, list[tuple[Kind, str]]]:
        if len(turn) != 1 or next(iter(turn)) not in (*ROLES, "messages"):
            raise UserError(f"{self.path}: a turn of `prompt` is `user:`, `system:` or `assistant:`, got {turn!r}")
        role, content = next(iter(turn.items()))
        parts: list[tuple[Kind, str]] = []
        for part in cast(list[object], content) if isinstance(content, list) else [content]:
            if isinstance(part, str):
                parts.append(("text", part))
            elif isinstance(part, dict) and list(cast(Values, part)) == ["image"]:
                parts.append(("image", str(cast(Values, part)["image"])))
            else:
                raise UserError(f"{self.path}: a part of a turn is a text or {{image: …}}, got {part!r}")
        return role, parts

    def _messages(self, turn: tuple[str, list[tuple[Kind, str]]], row: Values, where: str) -> list[Message]:
        role, parts = turn
        if role == "messages":
            return [
                _message(m, where) for _, source in parts for m in _chat(templates.value(source, row, where), where)
            ]
        made = [part for kind, source in parts for part in self._parts(kind, source, row, where)]
        return [Message(cast(Role, role), tuple(made))] if made else []

    def _parts(self, kind: Kind, source: str, row: Values, where: str) -> list[Part]:
        """The parts that a template gives: one text, or the pictures that a row has, which may be none or several."""
        if kind == "text":
            return [Part(kind, templates.text(source, row, where))]
        found = templates.value(source, row, where)
        if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping):
            pictures = list(cast(Iterable[object], found))
        else:
            pictures = [found if isinstance(found, str) else templates.text(source, row, where)]
        return [self._picture(picture, where) for picture in pictures if picture not in (None, "")]

    def _picture(self, found: object, where: str) -> Part:
        if not isinstance(found, str):
            raise UserError(
                f"{where}: an image is a path, a URL, a data URI or a picture of the row, got {found!r:.80}"
            )
        if found.startswith(_ELSEWHERE):
            return Part("image", found)
        path = Path(os.path.normpath(self.folder / found))  # not resolved: a link inside the folder is the user's own
        if not path.is_relative_to(self.folder):
            raise UserError(f"{where}: the image {found!r} leaves the data folder {self.folder}; point `data` higher")
        if self.within is not None:
            border.check_file(path, self.within, where)
        return Part("image", str(path))


def _chat(found: object, where: str) -> Sequence[object]:
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise UserError(f"{where}: `messages` must be a list of {{role, content}}, got {str(found)[:80]!r}")
    return cast(Sequence[object], found)


def _message(found: object, where: str) -> Message:
    values = cast(Values, found) if isinstance(found, Mapping) else {}
    role, content = values.get("role"), values.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise UserError(f"{where}: a message has a role ({', '.join(ROLES)}) and a text `content`, got {found!r:.80}")
    return Message(role, (Part("text", content),))
