"""The vocabulary of mmpu on one page: the values that flow, and the verbs that make them.

    train: Sample ─Teacher→ anchor ─Engine→ Group ─Scorer→ scores ─Method.supervise→ Rows ─Student→ log-probs
    ─Method.loss→ update eval:  Sample ─Engine→ Response ─Judge→ Verdict ─statistics→ Entry

Everything else in the package is a way to produce, store or consume one of these. This module imports nothing of mmpu
and no torch, so that listing tasks or reading a leaderboard costs no more than Python itself.

Shape suffixes used in tensor code throughout: B rows (responses) · T completion tokens, right-padded · G groups
(prompts) · K responses of a group · S packed sequences · L tokens of a packed sequence · N completion tokens of a
pass, flat · V vocabulary · H hidden width · R position axes (1, or 3 under M-RoPE).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

NAN = float("nan")


class UserError(Exception):
    """A mistake of the user's, worded for the user: what, where, and the way out. The command line exits with 2."""


# ----------------------------------------------------------------------------------------------------------------
# values


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: text, or a medium named by path, URL or data URI."""

    kind: Literal["text", "image"]
    data: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part.data for part in self.parts if part.kind == "text")


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, and what is known about its answer."""

    id: str
    prompt: tuple[Message, ...]
    reference: str | None = None
    """Ground truth in words: shown to judges, privileged context of self-distillation; never to the student."""
    answer: str | None = None
    """Short checkable answer for graders."""
    meta: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def images(self) -> tuple[str, ...]:
        """The images of the prompt, in order of appearance."""
        return tuple(part.data for message in self.prompt for part in message.parts if part.kind == "image")


def user(*parts: Part | str) -> tuple[Message, ...]:
    """A prompt of one user turn; strings become text parts."""
    return (Message("user", tuple(Part("text", p) if isinstance(p, str) else p for p in parts)),)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine draws tokens."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Strings that end a response; the string itself is not part of the text."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or not 0 <= self.min_p < 1:
            raise UserError(
                f"sampling out of range: {self}; temperature >= 0, 0 < top_p <= 1, top_k >= 0, 0 <= min_p < 1"
            )
        if self.max_tokens < 1:
            raise UserError(f"sampling.max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def plain(self) -> bool:
        """True if tokens come from the model's own distribution, unscaled and untruncated."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0 and self.min_p == 0


@dataclass(frozen=True, slots=True)
class Response:
    """A text with, where the student sampled it, exactly the tokens it emitted."""

    text: str
    tokens: tuple[int, ...] | None = None
    """Emitted ids, the end-of-sequence token included if it was emitted; None if no student sampled this text."""
    logp: tuple[float, ...] = ()
    """Log-probability of each token under the distribution it was drawn from."""
    finished: bool = True
    """False if the length limit cut it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Next-token probabilities over a few options, and the mass outside them."""

    probs: Mapping[str, float]
    outside: float


@dataclass(frozen=True, slots=True)
class Failed:
    """What an engine returns for an item it could not serve; the rest of the call is unaffected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with what the teacher said, what the student said, and what that is worth."""

    sample: Sample
    anchor: str | None = None
    responses: tuple[Response, ...] = ()
    scores: tuple[float, ...] = ()
    """One per response; NaN means the scorer abstained."""
    anchor_score: float = NAN
    """s* = g(x, a, a): the scorer's view of the anchor itself, under the same prompt and mode."""


@dataclass(frozen=True, slots=True)
class Row:
    """One response to train on. Rows of a group stay adjacent from here to the loss."""

    sample: Sample
    response: Response
    weight: float = 1.0
    """What the method wants of this row: the target probability D(k), an advantage, a sign."""
    group: int = 0


@dataclass(frozen=True)
class Batch:
    """The rows of an update as tensors, or whole groups of them; denominators are those of the whole optimiser step."""

    mask_BT: Tensor
    """True on completion tokens; by position, never by token id."""
    weight_B: Tensor
    group_B: Tensor
    """Index of each row's group within this batch, 0 .. groups-1, non-decreasing."""
    groups: int
    """Groups in this batch."""
    old_logp_BT: Tensor | None
    """What the sampler recorded; None if some row was not sampled."""
    total_groups: float
    total_rows: float
    total_tokens: float
    """Global denominators, summed over micro-batches and processes."""


@dataclass(frozen=True)
class Quantities:
    """What a loss may look at: per-token quantities of the rows, never the model."""

    logp_BT: Tensor
    """log p_theta, float32, zero at padding; the only tensor that carries a gradient."""
    ref_logp_BT: Tensor | None = None
    """log p_ref of the stage's starting weights, for methods that need `reference`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reading of one duel in one order. `win` is ours: 1, 0, a half for a tie, None if it could not be read."""

    sample: str
    order: Literal["ours_first", "ours_second", "none"]
    win: float | None
    soft: float | None = None
    reason: str = ""
    """Why it is unread, or how it was decided without a call."""


@dataclass(frozen=True, slots=True)
class Duel:
    sample: Sample
    ours: str
    theirs: str


# -----------------------------------------------------------------------------------------------------------------
# verbs


class Grader(ABC):
    """Grades a text against a sample's short answer, without a model."""

    @abstractmethod
    def grade(self, sample: Sample, text: str) -> float | None:
        """Returns 0..1, or None if this sample cannot be graded."""

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        """A right answer as this grader wants it written, and the best grade there is; None if none is known."""
        return None if sample.answer is None else (sample.answer, 1.0)

    def key(self, sample: Sample, text: str) -> str | None:
        """What a text answers, equal for equal answers, so that answers can be counted; None if it answers nothing."""
        return None


class Engine(ABC):
    """Every word that a model says comes out of one of these two calls."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and whatever else its answers depend on, apart from prompt and sampling. Keys the store."""

    @abstractmethod
    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        """n responses to each sample's prompt, in order."""

    @abstractmethod
    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        """The distribution of the next token over `options`; a token counts if its stripped text is the option."""


class Scorer(ABC):
    """Says what responses are worth. Scores of one group are comparable; NaN abstains and never means zero."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be known of a group before scoring: "anchor" or nothing."""
        return frozenset()

    @abstractmethod
    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """One float per response of each group."""


class Method(ABC):
    """A training method: what to train on, and the loss as a pure function of per-token quantities."""

    @property
    def needs(self) -> frozenset[str]:
        """Of "anchor", "responses", "scores", "anchor_score", "reference", "old_logp"."""
        return frozenset()

    listwise: ClassVar[bool] = False
    """True if one response per prompt teaches nothing."""

    @abstractmethod
    def supervise(self, group: Group) -> list[Row]:
        """The rows to train on; empty if the group has nothing to teach. Pure."""

    @abstractmethod
    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's share of the step's loss, and diagnostics normalised so that shares add up."""


class Judge(ABC):
    """Compares two answers to the same prompt."""

    name: str
    describe: str
    """One line for boards: what decided."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Judge model, revision and prompt: what a verdict depends on besides the duel."""

    @abstractmethod
    def compare(self, duels: Sequence[Duel]) -> list[tuple[Verdict, ...]]:
        """Each duel's verdicts, one per order asked."""


class Task(ABC):
    """A named set of prompts with splits, and a way to grade answers if there is one."""

    name: str

    @abstractmethod
    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of a split such as `test`, or of a slice of it such as `train[:400]`."""

    @abstractmethod
    def grade(self, sample: Sample, text: str) -> float | None:
        """0..1, or None where the task has no grader or the sample no answer."""


# ---------------------------------------------------------------------------------------------------------------
# hashing


def digest(value: object) -> str:
    """A stable content hash of JSON-like data: 16 hex digits of SHA-256 over its canonical form."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
