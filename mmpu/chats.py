"""What rows of data sets hold, in the shapes that people have: the vocabulary of `formats/`, and how turns are read.

    row ─Format.chat→ Chat ─task/sample.py→ Sample

Turns are read alike in every format. Roles and contents go by `role` and `content` or by `from` and `value`; contents
are texts or lists of parts; pictures stand in parts, or beside the turns in a column of their own, marked by `<image>`
in a text or by a part without a picture. Nulls are as good as absent, since Parquet writes them for keys that a row
lacks. What cannot be read is a `BadRow`, whose text says why; whoever knows file and line says where.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

from mmpu import calls
from mmpu.core import Message, Part
from mmpu.thinking import answer_of, thinks_on

Row = Mapping[str, Any]
Role = Literal["system", "user", "assistant", "tool"]
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bing", "bard", "bot"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
}  # pyright: ignore[reportAssignmentType]
"""What the roles of data sets stand for."""
CALLING = ("function_call", "tool_call")
"""Roles whose content is a call."""
MARK = "<image>"
"""Where a picture of the row's own column stands in a text."""
PICTURES = ("images", "image")
"""Columns of pictures: one, several or none. Without them, the first that holds a picture itself is one."""
SCHEMAS = ("tools", "functions")
"""Columns of the tools that a model may call."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold what was thought before it was said."""
TRAINED = ("loss", "weight", "train")
"""Keys of a message that say whether it is trained on."""
HOLE = "\0"
"""In a part's place for a picture of the row's column, until it is filled in."""


class BadRow(ValueError):
    """A row that cannot be what its format says."""


class NotMeant(BadRow):
    """A row that is sound, and nothing to answer like; it is left out and counted."""

    def __init__(self, why: str, key: str) -> None:
        super().__init__(why)
        self.key = key
        """What it is counted under."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a row holds."""

    prompt: tuple[Message, ...]
    reference: str | None = None
    """What the assistant says to it; None where the row ends with the prompt."""
    pair: tuple[str, str] | None = None
    """Two answers, the first preferred."""

    @property
    def calls(self) -> str | None:
        """The tools that the reference calls, as the grader `tool_calls` takes them; None if it calls none."""
        found = calls.parted(self.reference or "")[1]
        return json.dumps([{"name": c.name, "arguments": c.arguments} for c in found]) if found else None


class Format(ABC):
    """A shape of rows. Its docstring's first line says which, for listings and errors."""

    columns: ClassVar[tuple[str, ...]]
    """Columns without which a row has another shape."""
    rank: ClassVar[int] = 0
    """Where a row has the columns of several formats, the highest counts."""

    def recognised(self, row: Row) -> str | None:
        """Why a row seems to be of this shape; None if it does not."""
        return f"it has {named(self.columns)}" if all(name in row for name in self.columns) else None

    @abstractmethod
    def chat(self, row: Row) -> Chat:
        """What a row holds.

        Raises:
            BadRow: it is not of this shape; says why.
        """


def named(columns: Iterable[str]) -> str:
    """Columns as sentences name them."""
    return ", ".join(f"`{name}`" for name in columns)


# ------------------------------------------------------------------------------------------------------------------
# from columns to chats


def chat(turns: Sequence[Message], row: Row) -> Chat:
    """A conversation as a prompt and the answer that it ends with, if it does; its pictures and tools in place.

    Turns behind the last one that is trained on are left out, where messages say so of themselves.

    Raises:
        BadRow: the turns are out of order, or the row's pictures and its marks are not as many.
    """
    turns = in_order(with_pictures(turns, row))
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if answers and not any(turns[i].trained for i in answers):
        raise NotMeant("none of its turns is to be trained on", "untrained")
    if answers and not turns[-1].trained:
        turns = turns[: max(i for i in answers if turns[i].trained) + 1]
    turns = offered(turns, row)
    if turns[-1].role != "assistant":
        return Chat(turns)
    return Chat(turns[:-1], said_by(turns[-1]))


def said_by(message: Message) -> str:
    """What a turn says, the tools that it calls in our form behind its words."""
    found: Any = json.loads(message.more).get("tool_calls", []) if message.more else []
    called = calls.written([calls.of_openai(call) for call in found])
    return "\n".join(filter(None, (message.text, called)))


def in_order(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Turns as a conversation has them: the system's first, then the user's and the assistant's in turn, and what
    tools say behind the assistant's. A system's turn of nothing is left out.

    Raises:
        BadRow: they are not, or one is empty.
    """
    found = tuple(turn for turn in turns if turn.role != "system" or turn.text.strip())
    before = ""
    for number, turn in enumerate(found, 1):
        if turn.role not in _FOLLOWS[before]:
            place = f"follows {_THEIRS[before]}" if before else "begins the conversation"
            raise BadRow(f"turns are out of order: turn {number}, {_THEIRS[turn.role]}, {place}")
        if turn.role == "assistant" and thinks_on(turn.text):
            raise BadRow(f"turn {number}, {_THEIRS[turn.role]}, ends within its thoughts")
        if turn.role != "user" and any(part.kind == "image" for part in turn.parts):
            raise BadRow(f"turn {number}, {_THEIRS[turn.role]}, holds a picture; only the user's may")
        words = answer_of(turn.text) if turn.role == "assistant" else turn.text
        if not words.strip() and not turn.more and all(part.kind == "text" for part in turn.parts):
            raise BadRow(f"turn {number}, {_THEIRS[turn.role]}, is empty")
        before = turn.role
    if before in ("", "system"):
        raise BadRow("the conversation has no turn of a user")
    return found


_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant", "user"),
}
"""Roles that may follow each."""
_THEIRS = {"system": "the system's", "user": "the user's", "assistant": "the assistant's", "tool": "a tool's"}


def offered(turns: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """The turns, the first with the tools that the row offers.

    Raises:
        BadRow: they are no list of schemas.
    """
    found = next((row[name] for name in SCHEMAS if row.get(name)), None)
    if found is None:
        return turns
    tools = parsed(found)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in cast(list[object], tools)):
        raise BadRow(f"its tools are no list of schemas: {str(found)[:80]!r}")
    schemas = [t if "function" in t else {"type": "function", "function": t} for t in cast(list[Row], tools)]
    return (replace(turns[0], more=more_of({"tools": [present(schema) for schema in schemas]})), *turns[1:])


def with_pictures(turns: Sequence[Message], row: Row) -> tuple[Message, ...]:
    """The turns with the row's pictures where they are marked; where none is, before the first words of the user.
    Turns that name all their pictures themselves need no column, and may have one that names them again.

    Raises:
        BadRow: marks and pictures are not as many.
    """
    pictures = pictures_of(row)
    parts = [part for turn in turns for part in turn.parts]
    holes = sum(part.data == HOLE for part in parts)
    marks = 0 if holes else sum(part.data.count(MARK) for part in parts if part.kind == "text")
    own = sum(part.kind == "image" for part in parts) - holes
    if own and pictures and holes + marks == 0 and own != len(pictures):
        raise BadRow(f"its turns name {own} pictures, the row's own column {len(pictures)}")
    if holes + marks == 0:
        return tuple(turns) if own else _before_words(turns, pictures)
    if holes + marks != len(pictures):
        has = f"the row has {len(pictures) or 'none'}" + ("" if pictures else f" ({named(PICTURES)})")
        raise BadRow(f"its turns mark {holes + marks} pictures, {has}")
    left = iter(pictures)
    return tuple(replace(turn, parts=tuple(_filled(turn, left, marked=not holes))) for turn in turns)


def _filled(turn: Message, pictures: Iterator[str], *, marked: bool) -> Iterator[Part]:
    for part in turn.parts:
        if part.data == HOLE:
            yield Part("image", next(pictures))
        elif part.kind == "text" and marked and MARK in part.data:
            for number, piece in enumerate(part.data.split(MARK)):
                if number:
                    yield Part("image", next(pictures))
                if piece.strip():
                    yield Part("text", piece.strip("\n"))
        else:
            yield part


def _before_words(turns: Sequence[Message], pictures: Sequence[str]) -> tuple[Message, ...]:
    if not pictures:
        return tuple(turns)
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise BadRow("the row has pictures, and no turn of a user to show them in")
    parts = (*(Part("image", picture) for picture in pictures), *turns[first].parts)
    return (*turns[:first], replace(turns[first], parts=parts), *turns[first + 1 :])


def pictures_of(row: Row) -> list[str]:
    """The pictures of a row's own column, without those that are null.

    Raises:
        BadRow: one is neither a path nor a picture.
    """
    named = [row[name] for name in PICTURES if row.get(name) not in (None, "", [])]
    inline = next((name for name, cell in row.items() if _is_inline(cell)), None)
    found = named[0] if named else [] if inline is None else row[inline]
    listed = parsed(found) if isinstance(found, str) and found.lstrip().startswith("[") else found
    items = cast(list[object], listed) if isinstance(listed, list) else [listed]
    return [_picture(item) for item in items if item not in (None, "")]


def _is_inline(cell: object) -> bool:
    """Whether a cell is a picture, or a list of pictures, and no name of one."""
    items = cast(list[object], cell) if isinstance(cell, list) else [cell]
    return bool(items) and all(isinstance(item, str) and item.startswith("data:image/") for item in items)


def _picture(found: object) -> str:
    """A picture as a part or a column may name it."""
    if isinstance(found, Mapping):
        values = cast(Row, found)
        inside = [values[key] for key in ("url", "path", "image", "image_url", "file_name") if values.get(key)]
        if values.get("data") and values.get("media_type"):
            return f"data:{values['media_type']};base64,{values['data']}"
        if inside:
            return _picture(inside[0])
    if not isinstance(found, str):
        raise BadRow(f"a picture is a path, a URL, a data URI or the bytes of a file, not {str(found)[:60]!r}")
    return found.removeprefix("file://") if not found.startswith("file:///") else found


# ------------------------------------------------------------------------------------------------------------------
# turns


def turns_of(found: object, what: str) -> list[Message]:
    """The turns of a conversation, which may be JSON in a text.

    Args:
        what: The column, for errors.

    Raises:
        BadRow: they are no turns.
    """
    found = parsed(found)
    if not isinstance(found, list | tuple):
        raise BadRow(f"{what} must be a list of {{role, content}}, or {{from, value}}, got {str(found)[:80]!r}")
    return [turn(each, number) for number, each in enumerate(cast(Sequence[object], found), 1)]


def said(role: Role, text: object, what: str) -> Message:
    """A turn that a column holds.

    Raises:
        BadRow: it is no text.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        raise BadRow(f"`{what}` is {'null' if text is None else f'no text: {str(text)[:60]!r}'}")
    return Message(role, (Part("text", text),))


def turn(found: object, number: int) -> Message:
    """One turn, by its `role` and `content` or `from` and `value`.

    Raises:
        BadRow: the role is unknown, or the content cannot be read.
    """
    if not isinstance(found, Mapping):
        raise BadRow(f"turn {number} is no mapping with a role and a content: {str(found)[:60]!r}")
    values = present(cast(Row, found))
    name = values.get("role", values.get("from"))
    role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        others = ", ".join(each for each in ROLES if each not in _THEIRS)
        raise BadRow(f"turn {number} says {name!r}; a message has a role ({', '.join(_THEIRS)}; others: {others})")
    content = values.get("content", values.get("value"))
    called = _called(values, content if str(name).casefold() in CALLING else None, number)
    if str(name).casefold() in CALLING:
        content = None
    if content is None and not (called and role == "assistant"):
        raise BadRow(f"turn {number}, {_THEIRS[role]}, has no content (null)")
    parts = tuple(_parts(content, number))
    thoughts = next((values[key] for key in THOUGHTS if values.get(key)), None)
    if role == "assistant" and isinstance(thoughts, str) and not any("</think>" in part.data for part in parts):
        words = "\n".join(part.data for part in parts if part.kind == "text")
        parts = (Part("text", f"<think>\n{thoughts.strip()}\n</think>\n\n{words}"),)
    further = {key: values[key] for key in ("tool_call_id", "name") if key in values and role in ("tool", "assistant")}
    more = {**further, **({"tool_calls": called} if called else {})}
    return Message(role, parts, more_of(more), _trained(values, role, number))


def _called(values: Row, written: object, number: int) -> list[dict[str, Any]]:
    """The calls of a turn as templates take them, arguments as JSON values."""
    legacy = [values["function_call"]] if values.get("function_call") else []
    found = parsed(values.get("tool_calls", legacy)) if written is None else parsed(written)
    listed = cast(list[object], found) if isinstance(found, list) else [found]
    result: list[dict[str, Any]] = []
    for each in listed:
        try:
            call = calls.of_openai(each)
        except ValueError as error:
            raise BadRow(f"turn {number}: {error}") from None
        own = {"id": cast(Row, each)["id"]} if isinstance(each, Mapping) and cast(Row, each).get("id") else {}
        function = {"name": call.name, "arguments": call.arguments}
        result.append({**own, "type": "function", "function": function})
    return result


def _trained(values: Row, role: str, number: int) -> bool:
    marks = [values[key] for key in TRAINED if key in values]
    if not marks:
        return True
    if marks[0] not in (0, 1):
        raise BadRow(f"turn {number} weighs {marks[0]!r}; a turn is trained on (1, true) or not (0, false)")
    if marks[0] and role != "assistant":
        raise BadRow(f"turn {number}, {_THEIRS[role]}, is to be trained on; only the assistant's are (`train_on: all`)")
    return bool(marks[0])


def _parts(content: object, number: int) -> Iterator[Part]:
    """The parts of a content: a text, a part, or a list of them."""
    for part in cast(list[object], content) if isinstance(content, list) else [content]:
        if part is None:
            continue
        if isinstance(part, str):
            yield Part("text", part)
            continue
        values = present(cast(Row, part)) if isinstance(part, Mapping) else {}
        kind = values.get("type", next((key for key in ("text", "image", "image_url") if key in values), None))
        if kind in ("text", "input_text", "output_text") and isinstance(values.get("text"), str):
            yield Part("text", values["text"])
        elif kind in ("image", "image_url", "input_image"):
            source = [values[key] for key in ("image_url", "image", "url", "path", "source") if values.get(key)]
            yield Part("image", _picture(source[0]) if source else HOLE)
        elif kind in ("video", "video_url", "audio", "input_audio"):
            raise BadRow(f"turn {number} holds {kind}, which no format reads; take its frames as pictures")
        else:
            raise BadRow(f"turn {number} has a part that is neither a text nor a picture: {str(part)[:80]!r}")


def present(values: Row) -> dict[str, Any]:
    """A mapping without what is null."""
    return {key: value for key, value in values.items() if value is not None}


def more_of(values: Mapping[str, object]) -> str:
    """Further keys of a message as it holds them."""
    return json.dumps(values, ensure_ascii=False) if values else ""


def parsed(found: object) -> object:
    """What a text holds that is JSON, as tables have lists and mappings; anything else as it is."""
    if not isinstance(found, str) or found.lstrip()[:1] not in ("[", "{"):
        return found
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        return found
