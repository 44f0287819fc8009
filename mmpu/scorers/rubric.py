"""ROPD (arXiv 2605.07396): a rubric written for the prompt, and a blind verifier that checks every answer against it.

    rubricator(x, teacher answers, student answers) → 4 to 12 yes-or-no items with weights 1 to 5, shared by the group
    verifier(x, rubric, all answers, shuffled and unnamed) → true or false for each answer and item
    s_i = Σ_k w_k v_ik / Σ_k w_k

A rubric or verdict that cannot be read is asked for once more; then the group abstains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mmpu.core import NAN, Engine, Group, Sample, Sampling, Scorer, UserError, digest
from mmpu.knobs import Count, CountOrZero, Parallel, Share, Temperature
from mmpu.prompts import about
from mmpu.score import Score
from mmpu.scorers._ropd import Item, parse_rubric, parse_verdicts, reward
from mmpu.thinking import answer_of

T = TypeVar("T")
RUBRICATOR = Path(__file__).with_name("rubricator.txt")
VERIFIER = Path(__file__).with_name("verifier.txt")
ANCHOR = "Anchor"
"""Label of the anchor where it is verified alone, for s*."""


@dataclass(frozen=True)
class Answer:
    """One answer of the pool; `student` is its index in the group, None for a teacher's."""

    text: str
    label: str
    student: int | None


@dataclass(frozen=True)
class Rubric(Scorer):
    rubricator: Engine
    """Who writes rubrics, such as {name: openai, model: …}."""
    verifier: Engine | None = None
    """Who checks answers; None takes the rubricator."""
    teacher: Engine | None = None
    m: Parallel = 4
    """Teacher answers per prompt; 1 takes the anchor."""
    teacher_temperature: Temperature = 0.7
    """Of the m answers; at 0 they would be near copies."""
    shared: bool = True
    """One rubric for the group; otherwise one per student answer, scores divided by each rubric's own maximum."""
    blind: bool = True
    """Hide from the verifier whose answer it reads, and shuffle; otherwise sources are named and in order."""
    chunk: CountOrZero = 0
    """Answers per verifier call; 0 puts all of a prompt into one, 1 asks for each alone."""
    temperature: Temperature = 0.7
    """Of the rubricator; the verifier is greedy."""
    max_tokens: Count = 4096
    """Tokens of a reply at most."""
    salt: str = ""
    """Changes the shuffled order."""
    max_failed: Share = 0.4
    """Largest share of a call's groups without a readable rubric or verdict before training stops."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"anchor"}) if self.m == 1 else frozenset()

    def abstains(self, samples: Sequence[Sample]) -> str | None:
        if self.m > 1 and self.teacher is None:
            return f"rubric compares with m={self.m} answers of a teacher; set `teacher:`, or m: 1 with recorded ones"
        return None

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """An empty response is worth 0 without a call.

        Raises:
            UserError: too many groups could not be scored.
        """
        return [scores for scores, _ in self._scored(groups, anchored=False)]

    def with_anchors(self, groups: Sequence[Group]) -> list[tuple[tuple[float, ...], float]]:
        """s* is the anchor's reward under its group's rubric, verified in a call of its own; the mean over rubrics
        where each answer has one."""
        return self._scored(groups, anchored=True)

    def _scored(self, groups: Sequence[Group], anchored: bool) -> list[tuple[tuple[float, ...], float]]:
        result = [[NAN if response.text.strip() else 0.0 for response in group.responses] for group in groups]
        units: list[tuple[int, list[Answer]]] = []  # what gets a rubric: a group, or one student answer of it
        for g, (group, teachers) in enumerate(zip(groups, self._teachers(groups), strict=True)):
            students = [Answer(r.text, f"Student {i}", i) for i, r in enumerate(group.responses) if r.text.strip()]
            sets = [students] if self.shared else [[student] for student in students]
            units += [(g, [*teachers, *chosen]) for chosen in sets if chosen]
        rubrics = self._ask(
            self.rubricator,
            [self._rubric_prompt(groups[g].sample, pool) for g, pool in units],
            self.temperature,
            [parse_rubric] * len(units),
        )
        checks: list[tuple[int, tuple[Item, ...], list[Answer]]] = []
        for (g, pool), items in zip(units, rubrics, strict=True):
            if items is not None:
                order = self._shuffled(groups[g].sample, pool)
                size = self.chunk or len(order)
                checks += [(g, items, order[at : at + size]) for at in range(0, len(order), size)]
                if anchored:
                    checks.append((g, items, [Answer(groups[g].taught.text, ANCHOR, None)]))
        verdicts = self._ask(
            self.verifier or self.rubricator,
            [self._verify_prompt(groups[g].sample, items, answers) for g, items, answers in checks],
            0.0,
            [_verdict_parser(len(items), len(answers)) for _, items, answers in checks],
        )
        own: list[list[float]] = [[] for _ in groups]
        for (g, items, answers), found in zip(checks, verdicts, strict=True):
            for answer, verdict in zip(answers, found or [], strict=False):
                if answer.student is not None:
                    named = [f"{item.text} (weight {item.weight})" for item in items]
                    told = dict(zip(named, map(float, verdict), strict=True))
                    result[g][answer.student] = Score(reward(items, verdict), told)
                elif answer.label == ANCHOR:
                    own[g].append(reward(items, verdict))
        self._stop_if_failing(result)
        return [(tuple(s), sum(a) / len(a) if a else NAN) for s, a in zip(result, own, strict=True)]

    def _stop_if_failing(self, result: Sequence[Sequence[float]]) -> None:
        failed = sum(any(score != score for score in scores) for scores in result)
        if failed > self.max_failed * len(result):
            raise UserError(
                f"scorer rubric: {failed} of {len(result)} groups got no readable rubric or verdict, more than "
                f"{self.max_failed:.0%}; look at the model's replies, or take a stronger one"
            )

    def _teachers(self, groups: Sequence[Group]) -> list[list[Answer]]:
        """The teacher's answers to each prompt, without duplicates."""
        if self.m == 1:
            texts = [[answer_of(group.anchor or "")] for group in groups]
        else:
            assert self.teacher is not None
            sampling = Sampling(temperature=self.teacher_temperature, max_tokens=self.max_tokens)
            drawn = self.teacher.generate([group.sample for group in groups], self.m, sampling)
            texts = [[r.text for r in found] if isinstance(found, tuple) else [] for found in drawn]
        return [[Answer(t, f"Teacher {i}", None) for i, t in enumerate(dict.fromkeys(each))] for each in texts]

    def _shuffled(self, sample: Sample, pool: Sequence[Answer]) -> list[Answer]:
        if not self.blind:
            return list(pool)
        return sorted(pool, key=lambda answer: digest([self.salt, sample.id, answer.label, answer.text]))

    def _rubric_prompt(self, sample: Sample, pool: Sequence[Answer]) -> Sample:
        return about(
            sample,
            RUBRICATOR,
            teachers=[answer.text for answer in pool if answer.student is None],
            students=[answer.text for answer in pool if answer.student is not None],
        )

    def _verify_prompt(self, sample: Sample, items: Sequence[Item], answers: Sequence[Answer]) -> Sample:
        return about(
            sample,
            VERIFIER,
            criteria=[f"{item.id}: {item.text}" for item in items],
            answers=[answer.text for answer in answers],
            sources=[""] * len(answers) if self.blind else [f" ({answer.label})" for answer in answers],
        )

    def _ask(
        self,
        engine: Engine,
        prompts: Sequence[Sample],
        temperature: float,
        parsers: Sequence[Callable[[str], T]],
    ) -> list[T | None]:
        """What each reply says; None if it cannot be read, twice."""
        found: list[T | None] = [None] * len(prompts)
        sampling = Sampling(temperature=temperature, max_tokens=self.max_tokens)
        for seed in (0, 1):  # another seed, or a store in front of the engine would give the same reply again
            missing = [i for i, value in enumerate(found) if value is None]
            if not missing:
                break
            replies = engine.generate([prompts[i] for i in missing], 1, replace(sampling, seed=seed))
            for i, reply in zip(missing, replies, strict=True):
                if isinstance(reply, tuple):
                    found[i] = _read(parsers[i], reply[0].text)
        return found


def _read(parser: Callable[[str], T], text: str) -> T | None:
    try:
        return parser(text)
    except ValueError:
        return None


def _verdict_parser(items: int, answers: int) -> Callable[[str], list[tuple[bool, ...]]]:
    return lambda text: parse_verdicts(text, items, answers)
