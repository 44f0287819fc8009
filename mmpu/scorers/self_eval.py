"""Anchored self-evaluation g(x, a, y) of PU-RLD (arXiv 2601.20687): the student grades a candidate in the anchor's
light.

What a student can be asked differs from model to model, so there are several ways to read a score, all in [0, 1]:

* `expected`: one digit is asked for and its distribution read once, s = Σ v p(v) / (9 Σ p(v)). Dense and deterministic.
* `generate`: the paper's literal way, greedy decoding of a reply that is a number and nothing else.
* `yes_no`: P(yes) / (P(yes) + P(no)).
* `compare`: P(the candidate is better than the anchor), mean over both orders; s* is ½.
* `likelihood`, `recall`: how much anchor and candidate raise each other's likelihood, σ of nats per token; no question.
* `agreement`: 1 if candidate and anchor give the same final answer, as the task's grader reads it, else 0; no model.
* `average`: the weighted mean of several of these, `parts`.
* `auto`: whichever of them the pre-flight finds to tell right from wrong (docs/self_evaluation.md); `expected` where
  nothing was chosen.

Below `min_mass` on the options, `expected` falls back to `generate`, and `generate` to `expected` where s* has no
number; what stays unreadable abstains. Readings of two modes are on two scales, so a group falls back as a whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from mmpu import files
from mmpu.core import NAN, Engine, Group, Response, Sampling, Scorer, Task, UserError
from mmpu.knobs import Positive, Share
from mmpu.readings import Read, Reader
from mmpu.replies import score_of
from mmpu.scorers import _asking, _likelihood
from mmpu.scorers._asking import ASK, PROMPT, Asking, Example, Opening, Wording

__all__ = ["ASK", "PROMPT", "Part", "SelfEval"]
Mode = Literal["expected", "generate", "yes_no", "compare", "likelihood", "recall", "agreement"]
COPYING = frozenset({"likelihood", "recall", "agreement"})
"""Modes by which nothing beats the anchor's own words, or its own result."""
ANCHORED = COPYING | {"compare"}
"""Modes that are nothing without an anchor."""


@dataclass(frozen=True)
class Part:
    """A reading that goes into an average."""

    weight: Positive
    mode: Mode
    wording: Wording = "full"
    opening: Opening = "none"
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class SelfEval(Reader):
    engine: Engine
    mode: Literal[Mode, "average", "auto"] = "auto"
    """How a grade is read off; `auto` finds the way in which this student can grade."""
    anchor: bool = True
    """Show the teacher's answer; without it the student grades from its own knowledge, in mode `expected` under
    `auto`."""
    prompt: str | None = None
    """A Jinja file with `question`, `anchor`, `candidate`, `ask` and `cue`, in place of the toolkit's own."""
    wording: Wording = "full"
    """`full` asks for correctness, instruction following and clarity; `short` whether the two texts agree."""
    opening: Opening = "none"
    """Where the reminder («Digit:») stands: in the question, or as the beginning of the model's own answer, `bare` or
    with the `blank` that some tokenizers make a token of its own."""
    examples: tuple[Example, ...] = ()
    """Graded candidates that are shown first, in turns of their own."""
    parts: tuple[Part, ...] = ()
    """What `average` is the average of."""
    min_mass: Share = 0.5
    """Least probability on the options for a reading to count."""
    weights: Literal["frozen", "live"] = "frozen"
    """Who grades: the stage's start, or the student as it is now, which may learn to please itself."""
    live: Engine | None = None
    task: Task | None = None
    """Whose grader says what the final answer is, for `agreement`."""
    fallen: Counter[str] = field(default_factory=Counter[str], init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modes = {part.mode for part in self.parts} if self.mode == "average" else {self.mode}
        if (self.mode == "average") != bool(self.parts) or any(part.weight <= 0 for part in self.parts):
            raise UserError("scorer self_eval: mode `average` takes `parts`, each with a weight above 0; no other does")
        if not self.anchor and modes & ANCHORED:
            raise UserError(f"scorer self_eval: mode {self.mode} reads the anchor; remove `anchor: false`")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"}) if self.anchor else frozenset()

    @property
    def tally(self) -> Mapping[str, int]:
        return self.fallen

    @property
    def _grader(self) -> Engine:
        if self.weights == "frozen":
            return self.engine
        assert self.live is not None, "`weights: live` is wired by the recipe"
        return self.live

    # --------------------------------------------------------------------------------------------------------- scoring

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """An empty response is worth 0 without a call; one that cannot be read abstains."""
        return self._scored(groups, anchored=False)

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """s* is read in the mode of its group. Readings do not know of each other, so all are asked for at once."""
        extended = [replace(group, responses=(group.taught, *group.responses)) for group in groups]
        return [(found[1:], found[0]) for found in self._scored(extended, anchored=True)]

    def reads(self, groups: Sequence[Group]) -> list[tuple[Read, ...]]:
        """Scores in this mode alone, without falling back."""
        if self.mode == "average":
            return self._averages(groups)
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        return _filled(groups, iter(self._read(asked) if asked else []))

    def _scored(self, groups: Sequence[Group], anchored: bool) -> list[tuple[float, ...]]:
        """Args:
        anchored: The first response of each group is its anchor.
        """
        mode = "expected" if self.mode == "auto" else self.mode
        scores = self._scores(mode, groups)
        if mode not in ("expected", "generate"):
            return scores
        # s* steers the whole group; a candidate of which no number can be parsed abstains alone.
        steering = 1 if mode == "generate" and anchored else 0 if mode == "generate" else None
        unread = [i for i, found in enumerate(scores) if any(map(math.isnan, found[:steering]))]
        other = "generate" if mode == "expected" else "expected"
        self.fallen.update({"fallback_groups": len(unread)} if unread else {})
        for i, found in zip(unread, self._scores(other, [groups[i] for i in unread]), strict=True):
            scores[i] = found
        return scores

    def _scores(self, mode: str, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        found = replace(self, mode=cast(Any, mode)).reads(groups)
        return [tuple(read.score for read in reads) for reads in found]

    def _averages(self, groups: Sequence[Group]) -> list[tuple[Read, ...]]:
        """A response that one part cannot read is not read."""
        total = sum(part.weight for part in self.parts)
        columns = [self._as(part).reads(groups) for part in self.parts]

        def mean(reads: Sequence[Read]) -> Read:
            value = sum(part.weight * read.score for part, read in zip(self.parts, reads, strict=True)) / total
            masses = [read.mass for read in reads if not math.isnan(read.mass)]
            return Read(value, min(masses, default=NAN), next((read.reason for read in reads if read.reason), ""))

        return [tuple(map(mean, zip(*of_group, strict=True))) for of_group in zip(*columns, strict=True)]

    def _read(self, asked: Sequence[tuple[Group, Response]]) -> list[Read]:
        mode = "expected" if self.mode == "auto" else self.mode
        if mode == "agreement":
            return [self._agrees(group, response) for group, response in asked]
        if mode in ("likelihood", "recall"):
            return _likelihood.read(mode, asked, self._grader.likelihoods)
        if mode == "generate":
            return [Read(value, reason="the reply is no number" if math.isnan(value) else "") for value in
                    self._generate(self._asking, asked)]  # fmt: skip
        return _asking.read([self._asking], asked, self._grader.choose, self.min_mass)[0]

    @property
    def _asking(self) -> Asking:
        mode = "expected" if self.mode == "auto" else self.mode
        prompt = files.place(self.prompt) if self.prompt else None
        return Asking(mode, self.anchor, self.wording, self.opening, self.examples, prompt)

    def _agrees(self, group: Group, response: Response) -> Read:
        if self.task is None:
            return Read(NAN, reason="no task says what the final answer is")
        right = self.task.key(group.sample, group.taught.text)
        if right is None:
            return Read(NAN, reason="the task's grader reads no final answer in the anchor, or has no `key`")
        return Read(float(self.task.key(group.sample, response.text) == right))

    def _generate(self, asking: Asking, asked: Sequence[tuple[Group, Response]]) -> list[float]:
        def read(asked: Sequence[tuple[Group, Response]], temperature: float) -> list[float]:
            prompts = [prompt for group, response in asked for prompt in asking.prompts(group, response)]
            answers = self._grader.generate(prompts, 1, Sampling(temperature=temperature, max_tokens=8))
            return [score_of(a[0]) if isinstance(a, tuple) else NAN for a in answers]

        values = read(asked, 0.0)
        missing = [i for i, v in enumerate(values) if math.isnan(v)]
        if missing:
            for i, value in zip(missing, read([asked[i] for i in missing], 1.0), strict=True):
                values[i] = value
        return values

    # -------------------------------------------------------------------------------------------------------- choosing

    @property
    def copies(self) -> bool:
        return self.mode in COPYING or (self.mode == "average" and any(part.mode in COPYING for part in self.parts))

    def settled(self, choose: Callable[[Scorer], Scorer]) -> Scorer:
        return choose(self) if self.mode == "auto" and self.anchor else self

    @property
    def question(self) -> str:
        """Ways to generate and averages are questions of their own; what is measured is none."""
        if self.mode in COPYING:
            return ""
        return " ".join(filter(None, (self.mode, self.wording, "examples" if self.examples else "")))

    def length(self, group: Group) -> int:
        if self.mode == "average":
            return sum(self._as(part).length(group) for part in self.parts)
        said = replace(group, responses=tuple(r for r in group.responses if r.text.strip()), scores=())
        if self.mode == "agreement" or not said.responses:
            return 0
        return _likelihood.length(self.mode, said) if self.mode in COPYING else self._asking.length(said)

    def together(self, ways: Sequence[Reader], groups: Sequence[Group]) -> list[list[tuple[Read, ...]]]:
        """What stands before the beginning of the answer goes through the model once for all ways to begin it."""
        known = [way for way in ways if isinstance(way, SelfEval) and way.mode in _asking.CHOSEN]
        if len(known) < len(ways) or len({way.question for way in known}) > 1:
            return super().together(ways, groups)
        asked = [(group, r) for group in groups for r in group.responses if r.text.strip()]
        found = _asking.read([way._asking for way in known], asked, self._grader.choose, self.min_mass) if asked else []
        return [_filled(groups, iter(reads)) for reads in found or [[] for _ in ways]]

    @property
    def settings(self) -> Mapping[str, object]:
        names = ("mode", "wording", "opening", "examples", "parts")
        kept = {name: getattr(self, name) for name in names}
        return {name: _plain(value) for name, value in kept.items() if value not in ((), "none") and value != "full"}

    def restored(self, settings: Mapping[str, object]) -> Reader:
        known = cast(dict[str, Any], dict(settings))
        parts = tuple(Part(**_with_examples(part)) for part in known.pop("parts", ()))
        return replace(self, **_with_examples(known), parts=parts)

    def readings(self, examples: Sequence[Group]) -> Mapping[str, Reader]:
        """Digits, yes and no in two wordings, the reminder in the question or as the answer's beginning, with examples;
        the comparison; and what is not asked but measured."""
        return {_name(part): self._as(part) for part in self._family(_examples(examples))}

    def _family(self, examples: tuple[Example, ...]) -> list[Part]:
        """The paper's own way first, what is dear or coarse last."""
        wordings: tuple[Wording, ...] = ("full",) if self.prompt else ("full", "short")
        openings: tuple[Opening, ...] = ("none", "bare", "blank")
        asked: tuple[Mode, ...] = ("expected", "yes_no")
        found = [Part(1.0, mode, "full") for mode in asked]
        found += [Part(1.0, m, w, o) for m in asked for w in wordings for o in openings if (w, o) != ("full", "none")]
        found += [Part(1.0, "compare", "full", opening) for opening in openings]
        if examples:
            found += [Part(1.0, mode, "full", opening, examples) for mode in asked for opening in ("none", "blank")]
        found += [Part(1.0, "likelihood"), Part(1.0, "recall")]
        return [*found, Part(1.0, "agreement")] if self.task is not None else found

    def averaged(self, weights: Mapping[str, float], examples: Sequence[Group]) -> Reader:
        parts = {_name(part): part for part in self._family(_examples(examples))}
        chosen = tuple(replace(parts[name], weight=round(weight, 4)) for name, weight in weights.items())
        return replace(self, mode="average", wording="full", opening="none", examples=(), parts=chosen)

    def _as(self, part: Part) -> SelfEval:
        return replace(
            self, mode=part.mode, wording=part.wording, opening=part.opening, examples=part.examples, parts=()
        )


def _filled(groups: Sequence[Group], found: Iterator[Read]) -> list[tuple[Read, ...]]:
    """The reads of all responses, of which nobody asks for the empty ones'."""
    return [tuple(next(found) if r.text.strip() else Read(0.0) for r in group.responses) for group in groups]


def _name(part: Part) -> str:
    words = (part.mode, "" if part.wording == "full" else part.wording, "" if part.opening == "none" else part.opening)
    return " ".join(filter(None, (*words, "examples" if part.examples else "")))


def _examples(groups: Sequence[Group]) -> tuple[Example, ...]:
    """A right candidate and a wrong one, each of a prompt of its own: an anchor, and another prompt's. Prompts with
    pictures, and of several turns, are not told in words."""
    told = [
        (group.sample.prompt[0].text, group.taught.text)
        for group in groups
        if len(group.sample.prompt) == 1 and not group.sample.images
    ]
    if len(told) < 2:
        return ()
    (first, right), (second, other) = told[:2]
    return Example(first, right, right, True), Example(second, other, right, False)


def _with_examples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them, with examples as such."""
    return {**values, "examples": tuple(Example(**each) for each in values.get("examples", ()))}


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, tuple):
        return [_plain(dataclasses.asdict(cast(Any, each))) for each in cast(tuple[object, ...], value)]
    return value
