"""From a row to a sample: the templates of a task YAML, compiled once and filled in row by row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from mmpu import chats
from mmpu.chats import BadRow, Chat, NotMeant
from mmpu.config import Values
from mmpu.core import Message, Part, Sample, UserError
from mmpu.task import border, shapes, templates
from mmpu.task.cells import cell

Role = Literal["system", "user", "assistant"]
Kind = Literal["text", "image"]
ROLES = ("system", "user", "assistant")
_ELSEWHERE = ("data:", "http://", "https://")


@dataclass(frozen=True)
class SampleTemplates:
    """The keys of a task YAML that say what a sample is made of."""

    prompt: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Turns: `- user: text`, `- user: [{image: path}, text]`, or `- messages: "{{ field }}"` for a row's own chat. An
    image that is empty is left out, one that is a list of pictures is as many parts."""
    format: str | None = None
    """In place of `prompt` and `reference`: the shape of the rows, as in docs/tasks.md; `auto` goes by the first."""
    unusable: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of rows that are not what `format` says, such as turns out of order; left out, they are counted."""
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
        if bool(self.turns) == bool(config.format):
            missing = "the key 'prompt' is missing, or `prompt` has no turn; " if not self.turns else ""
            raise UserError(f"{path}: {missing}a task has either a `prompt` or a `format`")
        self.format = None if config.format in (None, shapes.AUTO) else shapes.format_of(config.format)
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

        found = self._read(row, where) if config.format else None
        if found is None:
            prompt = tuple(message for turn in self.turns for message in self._messages(turn, row, named("prompt")))
        else:
            prompt = tuple(self._placed(message, where) for message in found.prompt)
        if not any(part.data.strip() for message in prompt for part in message.parts):
            raise UserError(f"{where}: the prompt is empty")
        if prompt[-1].role == "assistant":
            raise UserError(
                f"{named('prompt')} ends with the assistant's turn, which is the answer; "
                'write `- messages: "{{ chat[:-1] }}"` and `reference: "{{ chat[-1].content }}"`, with the row\'s own '
                "field for `chat`, or `format: messages` in the place of both"
            )
        meta = {key: templates.value(text, row, named(f"meta.{key}")) for key, text in config.meta.items()}
        if (origin := optional("origin")) is not None:
            meta["origin"] = origin
        return Sample(
            id=optional("id") or f"{self.split}-{number}",
            prompt=prompt,
            reference=optional("reference") or (found and found.reference),
            answer=optional("answer") or (found and found.calls),
            meta=meta,
            pair=found and found.pair,
        )

    def _read(self, row: Values, where: str) -> Chat:
        """What a row of the task's format holds; `auto` settles on that of the first row.

        Raises:
            BadRow: it is sound, and none to answer like, or it is to be left out.
            UserError: it is not what the format says.
        """
        if self.format is None:
            self.format = shapes.format_of(shapes.recognised(row, where)[0])
        try:
            lacking = [column for column in self.format.columns if column not in row]
            if lacking and self.format.recognised(row) is None:
                raise BadRow(shapes.otherwise(row, self.format))
            return self.format.chat(row)
        except NotMeant:
            raise
        except BadRow as error:
            if self.config.unusable == "leave_out":
                raise
            raise UserError(
                f"{where}: {error}; mend the row, or leave such rows out and have them counted: `unusable: leave_out`"
            ) from None

    def _placed(self, message: Message, where: str) -> Message:
        """A turn of a row's own, its pictures found in the data folder."""
        if all(part.kind == "text" for part in message.parts):
            return message
        parts = [part if part.kind == "text" else self._picture(part.data, where) for part in message.parts]
        return replace(message, parts=tuple(parts))

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
            return [m for _, source in parts for m in self._chat(templates.value(source, row, where), row, where)]
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

    def _chat(self, found: object, row: Values, where: str) -> list[Message]:
        """A row's own turns, in any of the forms that `chats.py` reads, with the pictures that they mark."""
        try:
            turns = chats.turns_of(found, "`messages`")
            marked = any(part.data == chats.HOLE for turn in turns for part in turn.parts)
            return [self._placed(turn, where) for turn in (chats.with_pictures(turns, row) if marked else turns)]
        except BadRow as error:
            raise UserError(f"{where}: {error}") from None
