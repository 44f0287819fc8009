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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from mmpu.divergence import Divergence

T = TypeVar("T")
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
        if not all(self.stop):
            raise UserError("sampling.stop holds an empty string, which would end every response before it begins")

    @property
    def plain(self) -> bool:
        """True if tokens come from the model's own distribution, unscaled and untruncated."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0 and self.min_p == 0

    def before_stop(self, text: str) -> str | None:
        """The text before its first stop string; None if there is none in it."""
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else None


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
    bounded: frozenset[str] = frozenset()
    """Options that an endpoint's list of likeliest tokens did not show: theirs is an upper bound."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What an engine returns for an item it could not serve; the rest of the call is unaffected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of one sample of a call, as soon as it came."""

    index: int
    """The sample's place in the call."""
    value: T | Failed
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """What it took, for the ledger: `requests`, `tokens_in`, `tokens_out`, …"""


def in_order(answers: Iterable[Answer[T]], count: int) -> list[T | Failed]:
    """The values of `count` answers that came in any order."""
    found = {answer.index: answer.value for answer in answers}
    return [found[index] for index in range(count)]


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
    context: Sample | None = None
    """The prompt as the privileged teacher sees it."""
    teacher_responses: tuple[Response, ...] = ()
    """What the privileged teacher sampled under `context`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One response to train on. Rows of a group stay adjacent from here to the loss."""

    sample: Sample
    response: Response
    weight: float = 1.0
    """What the method wants of this row: the target probability D(k), an advantage, a sign."""
    group: int = 0
    score: float = NAN
    """The scorer's view of the response, where a loss needs more than the weight made of it."""
    context: Sample | None = None
    """The prompt under which the method's teacher reads this response; None if it does not."""
    beats: tuple[int, ...] = ()
    """Rows of the same group, by index, that this one is preferred to."""
    part: int = 0
    """Part of the step whose loss this row counts in."""
    whole: bool = False
    """Train on the prompt's tokens too, all but the first, which nothing predicts."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A second set of weights that a method keeps beside the student's: its teacher, or its sampler."""

    kind: Literal["start", "live", "ema", "copy", "external"] = "start"
    """`start`: the stage's start. `live`: the student itself, without gradient. `ema`: a moving average of it. `copy`:
    the student as it was every so many steps. `external`: another model that can be loaded."""
    rate: float = 0.0
    """Of `ema`: share of the student taken over at each step."""
    every: int = 0
    """Of `copy`: steps between two copies."""
    model: str = ""
    """Of `external`."""

    def __post_init__(self) -> None:
        if self.kind == "ema" and not 0 < self.rate <= 1:
            raise UserError(f"an EMA teacher needs a rate above 0, at most 1; got {self.rate}")
        if self.kind == "copy" and self.every < 1:
            raise UserError(f"a copied teacher needs `every` of at least 1 step; got {self.every}")


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
    score_B: Tensor | None = None
    context_B: Tensor | None = None
    """True where the teacher reads the row."""
    pairs_P2: Tensor | None = None
    """Preferred and other row of each pair, by index in this batch; pairs of a group are adjacent."""
    mean_score: float = 0.0
    """Moving average of the scores of earlier steps."""


@dataclass(frozen=True)
class Quantities:
    """What a loss may look at: per-token quantities of the rows, never the model."""

    logp_BT: Tensor
    """log p_theta, float32, zero at padding; carries a gradient, as `divergence_BT` and `value_BT` do."""
    ref_logp_BT: Tensor | None = None
    """log p_ref of the stage's starting weights, for methods that need `reference`."""
    divergence_BT: Tensor | None = None
    """Between the teacher's and the student's next-token distributions, as `Method.divergence` says."""
    value_BT: Tensor | None = None
    """The value head's view of the state before each token."""
    old_value_BT: Tensor | None = None
    """The same before the rollout's first update."""
    teacher_logp_BT: Tensor | None = None
    """log p_teacher of the same tokens under the row's context."""
    teacher_entropy_BT: Tensor | None = None
    """Entropy of the teacher's full next-token distribution, nats."""
    weight_BT: Tensor | None = None
    """What `Method.prepare` made for the whole step."""


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers to one prompt."""

    sample: Sample
    ours: str
    theirs: str

    @property
    def identical(self) -> bool:
        """True if there is nothing to judge."""
        return self.ours.strip() == self.theirs.strip()


Order = Literal["ours_first", "ours_second", "ours", "theirs", "none"]
"""Which answer a judge sees first, or alone; `none` where no model saw either, or nothing is known of how."""
MARKS: tuple[Order, ...] = ("ours", "theirs")
"""Orders of a judge that marks each answer by itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reading of one duel in one order. `win` is ours: 1, 0, a half for a tie, None if it could not be read. Of an
    answer seen alone it is the mark, 0..1."""

    sample: str
    order: Order
    win: float | None
    soft: float | None = None
    """The same, weighed by the judge's probabilities."""
    reason: str = ""
    """Why it is unread, or how it was decided without a call."""
    detail: Mapping[str, float] = field(default_factory=dict[str, float])
    """What it was read from: probabilities of the letters, or the scores of `ours` and `theirs`."""


# -----------------------------------------------------------------------------------------------------------------
# verbs


class Remark(NamedTuple):
    """What a grader has to say of a sample before anything is graded."""

    kind: Literal["problem", "note"]
    """`problem`: the sample cannot be graded as it should be."""
    text: str


class Grader(ABC):
    """Grades a text against a sample's short answer, without a model."""

    @abstractmethod
    def grade(self, sample: Sample, text: str) -> float | None:
        """Returns 0..1, or None if this sample cannot be graded."""

    def ideal(self, sample: Sample) -> tuple[str, float] | None:
        """A right answer as this grader wants it written, and the best grade there is; None if none is known."""
        return None if sample.answer is None else (sample.answer, 1.0)

    def remarks(self, sample: Sample) -> Sequence[Remark]:
        """What is wrong or odd about a sample's answer, options or arguments, for `mmpu tasks check`."""
        return ()

    def key(self, sample: Sample, text: str) -> str | None:
        """What a text answers, equal for equal answers, so that answers can be counted; None if it answers nothing."""
        return None


class Engine(ABC):
    """Every word that a model says comes out of one of these two calls."""

    piece: ClassVar[int] = 64
    """Samples asked for at a time where answers are wanted as they come, by an engine that answers in one piece."""

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

    def lacking(self, samples: Sequence[Sample]) -> list[str]:
        """Ids of those samples that the engine is known to have no answer for, without asking it."""
        return []

    def close(self) -> None:  # noqa: B027
        """Gives back what the engine holds beyond this process's memory."""

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        """`generate`, each answer as it comes, in any order. Who keeps answers keeps them from here.

        An engine that answers in one piece is asked for `piece` samples at a time: what a crash can lose.
        """
        for start in range(0, len(samples), self.piece):
            for index, value in enumerate(self.generate(samples[start : start + self.piece], n, sampling), start):
                drawn = () if isinstance(value, Failed) else value
                tokens = sum(len(response.tokens or ()) for response in drawn)
                yield Answer(index, value, {"tokens_out": tokens} if tokens else {})

    def choices(self, samples: Sequence[Sample], options: Sequence[str]) -> Iterator[Answer[Choice]]:
        """`choose`, each choice as it comes, in any order."""
        for start in range(0, len(samples), self.piece):
            for index, value in enumerate(self.choose(samples[start : start + self.piece], options), start):
                yield Answer(index, value)


class Scorer(ABC):
    """Says what responses are worth. Scores of one group are comparable; NaN abstains and never means zero."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be known of a group before scoring: "anchor" or nothing."""
        return frozenset()

    @property
    def listwise(self) -> bool:
        """True if a response can only be scored beside others of its group."""
        return False

    @property
    def reads_labels(self) -> bool:
        """True if scores depend on a sample's answer."""
        return False

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the parts of a step whose losses are added; one part means one loss."""
        return (1.0,)

    def part(self, sample: Sample) -> int:
        """The part that a sample's group belongs to, an index of `shares`."""
        return 0

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        """Why the scorer could only abstain on all of these prompts; None if it may score. Costs no model call."""
        return None

    @abstractmethod
    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """One float per response of each group."""


class Method(ABC):
    """A training method: what to train on, and the loss as a pure function of per-token quantities."""

    @property
    def needs(self) -> frozenset[str]:
        """What is made for the method, and no more.

        Of a group: "anchor", "responses", "scores", "anchor_score", "context" (the privileged teacher's prompt, see
        `context`), "teacher_responses". Of tokens: "reference", "old_logp", "teacher_logp", "teacher_entropy", "value".
        """
        return frozenset()

    @property
    def listwise(self) -> bool:
        """True if one response per prompt teaches nothing."""
        return False

    @property
    def shadow(self) -> Shadow | None:
        """The second set of weights: who answers as `teacher_*` and `divergence`, and who samples if `offline`."""
        return None

    @property
    def offline(self) -> bool:
        """True if the shadow samples the candidates, not the student."""
        return False

    @property
    def divergence(self) -> Divergence | None:
        """How `Quantities.divergence_BT` is measured; None if it is not needed."""
        return None

    @property
    def refill(self) -> int:
        """Generation batches a step may take until it is full of groups with something to teach; 0 trains on what
        there is."""
        return 0

    @property
    def tempered(self) -> bool:
        """True if log-probabilities and divergences are taken at the sampling temperature, as ratios and distillation
        want; sequence likelihoods are taken at 1."""
        return "old_logp" in self.needs or self.divergence is not None

    def context(self, group: Group) -> Sample | None:
        """The teacher's prompt, known before sampling. Pure.

        Raises:
            UserError: the sample lacks what the teacher should be shown.
        """
        return None

    @abstractmethod
    def supervise(self, group: Group) -> list[Row]:
        """The rows to train on; empty if the group has nothing to teach. Pure."""

    def prepare(self, quantities: Quantities, batch: Batch, total: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Per-token weights (B, T) that depend on the whole step, made once per rollout, without gradient.

        Args:
            quantities: Of all rows of this process; `logp_BT` is the sampler's.
            total: Sums a tensor over processes.
        """
        return None

    @abstractmethod
    def loss(self, quantities: Quantities, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's share of the step's loss, and diagnostics normalised so that shares add up."""


class Judge(ABC):
    """Compares two answers to the same prompt."""

    name: str
    describe: str
    """One line for boards: what decided."""
    weighting: Literal["hard", "soft"] = "hard"
    """Which wins are the headline: the letters, or the probabilities behind them."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Judge model, revision and prompt: what a reading depends on besides the duel and its order."""

    @property
    def orders(self) -> tuple[Order, ...]:
        """The orders in which a duel is read; its win is the mean over those that could be read. With `MARKS` each
        answer to a prompt is read once, whatever it meets, and the better mark wins."""
        return ("none",)

    @abstractmethod
    def read(self, asked: Sequence[tuple[Duel, Order]]) -> list[Verdict]:
        """One verdict per duel and order."""

    def prompts(self, asked: Sequence[tuple[Duel, Order]]) -> list[Sample]:
        """What `read` sends to a model, one prompt per call, to know the price beforehand; empty if it asks none."""
        return []

    @property
    def reply_tokens(self) -> int:
        """Tokens that a reply has at most, for its price."""
        return 1

    def compare(self, duels: Sequence[Duel]) -> list[tuple[Verdict, ...]]:
        """Each duel's verdicts, one per order; identical answers are a tie that nobody is asked about."""
        asked: list[tuple[Duel, Order]] = [
            (duel, order) for duel in duels if not duel.identical for order in self.orders
        ]
        found = iter(self.read(asked))
        return [
            (tie(duel.sample),) if duel.identical else settled(tuple(next(found) for _ in self.orders))
            for duel in duels
        ]


IDENTICAL = "identical answers"


def tie(sample: Sample) -> Verdict:
    """The verdict on identical answers."""
    return Verdict(sample.id, "none", 0.5, 0.5, IDENTICAL)


def settled(verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """A duel's verdicts; two marks make one."""
    if tuple(verdict.order for verdict in verdicts) != MARKS:
        return verdicts
    ours, theirs = verdicts
    detail = {v.order: v.win for v in verdicts if v.win is not None}
    if ours.win is None or theirs.win is None:
        return (
            Verdict(ours.sample, "none", None, reason=(ours if ours.win is None else theirs).reason, detail=detail),
        )
    win = 0.5 if ours.win == theirs.win else float(ours.win > theirs.win)
    return (Verdict(ours.sample, "none", win, 0.5 + (ours.win - theirs.win) / 2, detail=detail),)


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
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
