"""How a prompt and what is said to it stand in one text: by the chat template or, for a base model, as they are.

Nothing is known of a template but what it renders. A short chat rendered to its end shows what the template writes
before an assistant's words, what behind them, and with which token the turn ends; the text of an answer is taken from
the rendering of the whole chat, so that a student is trained on what its template says, to the letter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from mmpu.calls import parted
from mmpu.core import Message, Sample, UserError, user
from mmpu.student import tools
from mmpu.student.student_config import StudentConfig
from mmpu.thinking import answer_of, closing, is_mark, opening, thinks_on, thought_nothing

TEMPLATE_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Thinking is off, and LLaMA's templates write their documented date instead of today's, which would change every
prompt overnight."""
THINKING = ("enable_thinking", "thinking")
"""Options by which templates are asked to let a model think."""
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_ASKED, _SAID = Sample("", user("Ready?")), "Granted."
"""A chat to render, of words that no template writes."""


def added(tokenizer: Any) -> dict[str, int]:
    """Tokens that are found in a text as a whole, special or not, by their text."""
    tokens = cast(Mapping[int, Any], tokenizer.added_tokens_decoder)
    return {token.content: index for index, token in tokens.items() if len(token.content) > 1}


class Turns(ABC):
    """Args:
    marker: What the template writes for an image; None for a model that reads text only.
    never_sampled: Tokens that only prompts may hold.
    ends: Ids that end a response besides the tokenizer's own.
    """

    def __init__(
        self,
        config: StudentConfig,
        tokenizer: Any,
        marker: str | None,
        never_sampled: Sequence[str],
        ends: Iterable[int],
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.marker = marker
        self._never_sampled = never_sampled
        self._ends = frozenset(ends)
        self._added = added(tokenizer)
        tokens = cast(Mapping[int, Any], tokenizer.added_tokens_decoder).values()
        self._special = tuple(token.content for token in tokens if token.special and len(token.content) > 1)
        self._starts = frozenset(content[:2] for content in self._special)

    @abstractmethod
    def prompt(self, sample: Sample) -> str:
        """The text that an answer follows. Where the prompt's last turn is the assistant's, it is left open, and the
        answer goes on with it.

        Raises:
            UserError: the template refuses the prompt; says how.
        """

    @abstractmethod
    def answer(self, sample: Sample, said: str, finished: bool) -> str:
        """What stands behind the prompt where this was said: the end of the turn included, if it is finished and the
        template writes one.

        Args:
            said: All of it, thinking included.
        """

    @property
    def end(self) -> int | None:
        """The token that the template ends an assistant's turn with; None where it writes none."""
        return None

    @cached_property
    def opened(self) -> str:
        """The mark with which the prompt begins every response's thinking, so that no response holds it; or nothing."""
        return ""

    @cached_property
    def frame(self) -> frozenset[int]:
        """Tokens that make the frame of a chat and are never said: ends, beginnings and roles of turns, fillers,
        pictures. All others that are special may be said, such as the mark of a tool call."""
        named = [getattr(self.tokenizer, name, None) for name in NAMED]
        tokens = {self._added.get(str(token)) for token in (*named, *self._never_sampled) if token is not None}
        return frozenset(tokens - {None} | self._ends | self._written())  # pyright: ignore[reportReturnType]

    def _written(self) -> set[int]:
        """Special tokens that the template itself writes around turns."""
        return set()

    def inert(self, text: str) -> str:
        """A prompt's text with the special tokens that it merely quotes broken up: they would otherwise forge turns or
        images."""
        if not any(start in text for start in self._starts):
            return text
        return _broken(text, self._special)

    def said(self, text: str) -> str:
        """The text of an answer, in which only the frame's tokens are broken up."""
        return _broken(text, self._frame_texts)

    @cached_property
    def _frame_texts(self) -> tuple[str, ...]:
        return tuple(content for content, index in self._added.items() if index in self.frame)


def _broken(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


class Plain(Turns):
    """For models without a chat template: the prompt's texts, and the answer right behind."""

    def prompt(self, sample: Sample) -> str:
        if any(message.more for message in sample.prompt):
            raise UserError(f"sample {sample.id!r} has tools or calls, which need a chat template (`student.template`)")
        return "\n".join(message.text for message in sample.prompt)

    def answer(self, sample: Sample, said: str, finished: bool) -> str:
        return self.said(said)


@dataclass(frozen=True)
class _Turn:
    """What a template writes around what an assistant says."""

    before: str
    """Behind the prompt, before the first word."""
    behind: str
    """All that follows the last word."""
    closing: str
    """Of that, what reaches to the token that ends the turn; nothing where there is none."""
    end: int | None


class Chat(Turns):
    """By the tokenizer's chat template."""

    @property
    def end(self) -> int | None:
        return self._turn.end

    @cached_property
    def opened(self) -> str:
        return opening(self.prompt(_ASKED))

    def prompt(self, sample: Sample) -> str:
        messages, begun = _parted(sample)
        text = self._open(sample, messages)
        self._hold(sample, messages, text)
        return text if begun is None else text + self._turn.before + self.said(begun.text)

    def _open(self, sample: Sample, messages: Sequence[Message]) -> str:
        """The text of a prompt up to the assistant's words. A thought that the template opens, though thinking is off,
        is closed."""
        offered = tools.offered(messages, self.inert)
        text = self._render(sample, self._turns(messages), offered, add_generation_prompt=True) + self._header
        mark = "" if self._thinks else opening(text)
        return text.removesuffix(mark) + mark.rstrip() + closing(mark) if mark else text

    def _hold(self, sample: Sample, messages: Sequence[Message], text: str) -> None:
        """Refuses a prompt that leaves out what its turns say; of an assistant's turn, templates drop the thoughts."""
        held = _squeezed(text)
        for message in messages:
            said = [p.data for p in message.parts if p.kind == "text" and message.role != "assistant"]
            for words in (*map(self.inert, said), *tools.named(message, self.inert)):
                if _squeezed(words) not in held:
                    raise UserError(
                        f"sample {sample.id!r}: the chat template of {self.config.model} leaves out what the "
                        f"{message.role} says ({words[:40]!r}); change the task's `prompt`, or mend the template"
                    )

    def answer(self, sample: Sample, said: str, finished: bool) -> str:
        said = self.said(said)
        messages, begun = _parted(sample)
        words = said if begun is not None else self._words(sample, messages, said)
        return words + self._turn.closing if finished else words

    def _words(self, sample: Sample, messages: Sequence[Message], said: str) -> str:
        """What a template makes of an answer, white space and marks of thinking as it writes them; the answer as it is
        behind what the template writes before it, where the whole chat does not begin as the prompt, or lacks some."""
        prompt, turn = self._open(sample, messages), self._turn
        told, called = parted(said)
        whole = self._render(sample, self._turns(messages, said), tools.offered(messages, self.inert))
        if whole.startswith(prompt) and whole.endswith(turn.behind) and not thinks_on(said):
            words = whole[len(prompt) : len(whole) - len(turn.behind)]
            whole_said = _squeezed(told.removeprefix(self.opened)) in _squeezed(words)
            if whole_said and all(call.name in words for call in called):
                return words
        if called:
            raise UserError(
                f"sample {sample.id!r}: the chat template of {self.config.model} does not write the tool calls of its "
                "answer, or not the words beside them; take a model whose template does, or leave the row out"
            )
        if opening(prompt) and answer_of(said) != said:
            return said.removeprefix(self.opened)
        return turn.before + (answer_of(said) if thought_nothing(prompt) else said)

    @property
    def _options(self) -> dict[str, Any]:
        return TEMPLATE_OPTIONS | (self.config.template_options or {})

    @property
    def _thinks(self) -> bool:
        return any(self._options.get(name) for name in THINKING)

    @cached_property
    def _turn(self) -> _Turn:
        prompt = self._open(_ASKED, _ASKED.prompt)
        whole = self._render(_ASKED, self._turns(_ASKED.prompt, _SAID))
        at = whole.rfind(_SAID)
        if at < 0:
            raise UserError(
                f"the chat template of {self.config.model} leaves out what an assistant says, so nothing can be "
                "trained on; mend it, or set `student.template: completion`"
            )
        self._know(prompt, whole[:at])
        mark = opening(prompt)
        before = whole[len(prompt) : at] if whole.startswith(prompt) else closing(mark)
        behind = whole[at + len(_SAID) :]
        # At one place the longest token counts, as for the tokenizer.
        places = {token: behind.find(token) for token in self._enders if token in behind}
        ends = min(places, key=lambda token: (places[token], -len(token)), default=None)
        if ends is None:
            return _Turn(before, behind, "", None)
        closed = behind[: places[ends] + len(ends)]
        for token in self._closers(behind, closed):
            ends, closed = token, closed + token
        return _Turn(before, behind, closed, self._added[ends])

    def _know(self, prompt: str, begun: str) -> None:
        """Refuses a template that opens what is no answer, in a way that nobody could close.

        Args:
            begun: A whole chat up to the assistant's words.

        Raises:
            UserError: the prompt holds more than that, at its end.
        """
        alike = _alike(prompt, begun)
        opened, written = prompt[alike:].rstrip(), begun[alike:].rstrip()
        more = opened != written and opened.endswith(written)
        if more and not self._thinks and not thought_nothing(prompt):
            raise UserError(
                f"the chat template of {self.config.model} lets an answer begin behind {opened!r}, which a whole chat "
                "does not have there: it opens a thought of a kind that is not known here, or leaves out turns. Mend "
                "it, or set `student.template_options: {enable_thinking: true}` to train on what follows all the same"
            )

    def _closers(self, behind: str, closed: str) -> list[str]:
        """Ends that follow the first one, in the middle of a chat too: Command R writes that of the response, then that
        of the turn."""
        turns = self._turns(_ASKED.prompt, _SAID) + self._turns(_ASKED.prompt)
        try:
            middle = self._render(_ASKED, turns)
        except UserError:
            return []
        after = middle[middle.find(_SAID) + len(_SAID) :]
        rest = behind[len(closed) : _alike(behind, after)]
        names = [token for token, index in self._added.items() if index in self._named_ends]
        found: list[str] = []
        while token := max((name for name in names if rest.startswith(name)), key=len, default=""):
            found.append(token)
            rest = rest[len(token) :]
        return found

    @cached_property
    def _header(self) -> str:
        """What a template that takes no notice of `add_generation_prompt` writes before an assistant's words."""
        asked = self._turns(_ASKED.prompt)
        prompt = self._render(_ASKED, asked, add_generation_prompt=True)
        if prompt != self._render(_ASKED, asked):
            return ""
        whole = self._render(_ASKED, self._turns(_ASKED.prompt, _SAID))
        header = whole[len(prompt) : whole.rfind(_SAID)] if whole.startswith(prompt) else ""
        return header if header.strip() else ""

    @property
    def _named_ends(self) -> set[int | None]:
        """Ids that model and tokenizer call ends."""
        return {*self._ends, self.tokenizer.eos_token_id}

    @property
    def _enders(self) -> list[str]:
        """Tokens that may end a turn, special or merely added; some tokenizers have runs of white space among those."""
        plain = [token for token in self._added if len(token.split()) == 1 and not is_mark(token)]
        return [token for token, index in self._added.items() if token in plain or index in self._named_ends]

    def _written(self) -> set[int]:
        turns = self._turns(_ASKED.prompt, _SAID) + self._turns(_ASKED.prompt)
        text = self._render(_ASKED, turns, add_generation_prompt=True)
        written = {self._added[token] for token in self._special if token in text and not is_mark(token)}
        return written | ({self._turn.end} if self._turn.end is not None else set())

    def _render(
        self,
        sample: Sample,
        turns: list[dict[str, Any]],
        offered: Sequence[object] = (),
        add_generation_prompt: bool = False,
    ) -> str:
        from jinja2 import TemplateError

        options = {**self._options, **({"tools": list(offered)} if offered else {})}
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except (
            TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            where, way = f"sample {sample.id!r}: ", "change the task's `prompt`"
            if not sample.id:  # a chat of our own
                where, way = "", "mend it, set `student.template: completion`"
            raise UserError(
                f"{where}the chat template of {self.config.model} refuses its turns ({roles}): {error}; "
                f"{way}, or pass what the template asks for in `student.template_options`"
            ) from error

    def _turns(self, messages: Sequence[Message], said: str | None = None) -> list[dict[str, Any]]:
        """Turns as templates take them, and one of the assistant's that says this."""
        found = [
            self._turned(m.role, [(p.kind, self.inert(p.data)) for p in m.parts]) | tools.further(m, self.inert)
            for m in messages
        ]
        if said is None:
            return found
        told, calls = parted(said)
        return [*found, self._turned("assistant", [("text", told)]) | tools.called(calls)]

    @cached_property
    def _listed(self) -> bool:
        """Whether the contents of turns are lists of parts: for pictures, or as a template takes no plain texts."""
        if self.marker is not None:
            return True

        def says(content: object) -> bool:
            try:
                return _SAID in self._render(_ASKED, [asked, {"role": "assistant", "content": content}])
            except UserError:
                return False

        asked = {"role": "user", "content": "Ready?"}
        if says(_SAID):
            return False
        asked = {"role": "user", "content": [{"type": "text", "text": "Ready?"}]}
        return says([{"type": "text", "text": _SAID}])

    def _turned(self, role: str, parts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        if not self._listed or role == "tool":
            return {"role": role, "content": "\n".join(data for kind, data in parts if kind == "text")}
        content = [{"type": "image"} if kind == "image" else {"type": "text", "text": data} for kind, data in parts]
        return {"role": role, "content": content}


def _parted(sample: Sample) -> tuple[tuple[Message, ...], Message | None]:
    """The turns of a prompt, and the assistant's own that it ends with, if it does."""
    begun = bool(sample.prompt) and sample.prompt[-1].role == "assistant"
    return (sample.prompt[:-1], sample.prompt[-1]) if begun else (sample.prompt, None)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
