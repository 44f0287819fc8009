"""The vocabulary of mmpu on one page: the values that flow, and the verbs that make them.

    train: Sample ─Teacher→ anchor ─Engine→ Group ─Scorer→ scores ─Method.supervise→ Rows ─Student→ log-probs
    ─Method.loss→ update eval:  Sample ─Engine→ Response ─Judge→ Verdict ─statistics→ Entry

Everything else in the package is a way to produce, store or consume one of these. This module imports no torch, and of
mmpu only what tells thinking from answers, so that listing tasks or reading a leaderboard costs no more than
Python itself.

Shape suffixes used in tensor code throughout: B rows (responses) · T completion tokens, right-padded · G groups
(prompts) · K responses of a group · S packed sequences · L tokens of a packed sequence · N completion tokens of a
pass, flat · V vocabulary · H hidden width · R position axes (1, or 3 under M-RoPE).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Generic, Literal, NamedTuple, TypeVar

from annotated_types import Interval

from mmpu.knobs import CountOrZero, Rate, Seed, Temperature, faults
from mmpu.thinking import answer_of

T = TypeVar("T")
NAN = float("nan")


class UserError(Exception):
    """A mistake of the user's, worded for the user: what, where, and the way out. The command line exits with 2."""


def hold(instance: object, where: str) -> None:
    """Raises:
    UserError: a number of a dataclass is outside the range that its field says.
    """
    if wrong := faults(instance):
        raise UserError(f"{where} out of range: {', '.join(wrong)}")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: text, or a medium named by path, URL or data URI."""

    kind: Literal["text", "image"]
    data: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...]
    more: str = ""
    """Further keys as JSON, as templates and endpoints take them: `tools`, `tool_calls`, `tool_call_id`, `name`."""
    trained: bool = True
    """False for an assistant's turn that is not to be trained on."""

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part.data for part in self.parts if part.kind == "text")


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, and what is known about its answer."""

    id: str
    prompt: tuple[Message, ...]
    """Where it ends with the assistant, that is what the model's own turn begins with."""
    reference: str | None = None
    """Ground truth in words: shown to judges, privileged context of self-distillation; never to the student."""
    answer: str | None = None
    """Short checkable answer for graders."""
    meta: Mapping[str, object] = field(default_factory=dict[str, object])
    pair: tuple[str, str] | None = None
    """Two answers of a preference data set, the first preferred to the second."""

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

    temperature: Temperature = 1.0
    """0 is greedy."""
    top_p: Rate = 1.0
    """Keep the likeliest tokens that hold this share of the mass; 1 keeps all."""
    top_k: CountOrZero = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    max_tokens: Annotated[int, Interval(ge=1, le=2**20)] = 256
    """Tokens of a response at most."""
    stop: tuple[str, ...] = ()
    """Strings that end a response; the string itself is not part of the text."""
    seed: Seed = 0
    """A response draws from a stream of its own, of this, its sample and its index."""

    def __post_init__(self) -> None:
        hold(self, "sampling")
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
    """What was said with, where the student sampled it, exactly the tokens it emitted."""

    raw: str
    """All of it, thinking included."""
    tokens: tuple[int, ...] | None = None
    """Emitted ids, the end-of-sequence token included if it was emitted; None if no student sampled this text."""
    logp: tuple[float, ...] = ()
    """Log-probability of each token under the distribution it was drawn from."""
    finished: bool = True
    """False if the length limit cut it or, where no student sampled it, if its thinking never ended."""
    reasoning: str = ""
    """Thinking that an endpoint served apart; not in `raw`."""

    @property
    def text(self) -> str:
        """The answer: what was said, without the thinking. What is graded, judged, scored and counted."""
        return answer_of(self.raw)


@dataclass(frozen=True, slots=True)
class Choice:
    """Next-token probabilities over a few options, and the mass outside them."""

    probs: Mapping[str, float]
    outside: float
    bounded: frozenset[str] = frozenset()
    """Options that an endpoint's list of likeliest tokens did not show: theirs is an upper bound."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds a response after a prompt."""

    logp: float
    """In nats, of all its tokens, the end of a finished one included; at temperature 1."""
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.logp / self.tokens


@dataclass(frozen=True, slots=True)
class Failed:
    """What an engine returns for an item it could not serve; the rest of the call is unaffected."""

    reason: str
    final: bool = field(default=False, compare=False)
    """True if the model, or a filter before it, declined: asking in another way would not help either."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of one sample of a call, as soon as it came."""

    index: int
    """The sample's place in the call."""
    value: T | Failed
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """What it took, for the ledger: `requests`, `tokens_in`, `tokens_out`, …"""
    reason: str = ""
    """Why `value` holds fewer responses than were asked for, where it does."""


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
    anchor_finished: bool = True
    """False if the length limit cut the teacher's answer."""
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was out of the ordinary, by the metric that counts it, with what was done about it."""
    parts: tuple[Mapping[str, float], ...] = ()
    """What each score is made of, where the scorer said so."""

    @property
    def taught(self) -> Response:
        """The anchor as a response to train on or to score; a cut one is trained on without an end of sequence."""
        if self.anchor is None:
            raise UserError(f"sample {self.sample.id!r} has no anchor; set `teacher:` in the config")
        return Response(self.anchor, finished=self.anchor_finished)


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
        """n responses to each sample's prompt, in order; fewer where the model refused some, `Failed` if all."""

    @abstractmethod
    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        """The distribution of the next token over `options`; a token counts if its stripped text is the option."""

    def likelihoods(self, samples: Sequence[Sample], responses: Sequence[Response]) -> list[Likelihood | Failed]:
        """How likely each response is after its sample's prompt, without sampling.

        Raises:
            UserError: the engine cannot weigh a given text.
        """
        raise UserError(
            f"{type(self).__name__.lower()} cannot say how likely a given text is; take a model in process (hf), or "
            "another scorer mode"
        )

    def lacking(self, samples: Sequence[Sample]) -> list[str]:
        """Ids of those samples that the engine is known to have no answer for, without asking it."""
        return []

    def known(self, samples: Sequence[Sample]) -> list[Response | None]:
        """What it would answer, where that is known without asking a model."""
        return [None] * len(samples)

    def rest(self) -> None:  # noqa: B027
        """Told before the student is updated: memory that is held for answering may serve the trainer."""

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

    @property
    def tally(self) -> Mapping[str, int]:
        """Groups that were not scored as asked for, since the scorer was made, by the metric that counts them."""
        return {}

    def settled(self, choose: Callable[[Scorer], Scorer]) -> Scorer:
        """The same scorer with `choose` applied to those of its parts that leave open how they score."""
        return self

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        """Why the scorer could only abstain on all of these prompts; None if it may score. Costs no model call."""
        return None

    @abstractmethod
    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """One float per response of each group."""

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """The scores of each group, and s*, the anchor's own.

        An anchor is scored in a group of its own: among the candidates it would vote, be ranked and be compared. It
        comes before them, so that what its prompt shares with theirs can be encoded once.
        """
        alone = [replace(group, responses=(group.taught,), scores=()) for group in groups]
        found = self.score([each for pair in zip(alone, groups, strict=True) for each in pair])
        if len(found) != 2 * len(groups):
            raise UserError(f"{type(self).__name__}.score returned {len(found)} tuples for {2 * len(groups)} groups")
        return [(scores, s[0] if s else NAN) for s, scores in zip(found[::2], found[1::2], strict=True)]


class Task(ABC):
    """A named set of prompts with splits, and a way to grade answers if there is one."""

    name: str

    @abstractmethod
    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of a split such as `test`, or of a slice of it such as `train[:400]`."""

    @abstractmethod
    def grade(self, sample: Sample, text: str) -> float | None:
        """0..1, or None where the task has no grader or the sample no answer."""

    def key(self, sample: Sample, text: str) -> str | None:
        """What a text answers, equal for equal answers; None if it answers nothing, or nobody here can tell."""
        return None


def digest(value: object) -> str:
    """A stable content hash of JSON-like data: 16 hex digits of SHA-256 over its canonical form."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
