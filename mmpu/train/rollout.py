"""From samples to scored groups: anchors, candidates, scores. What a method does not need is not made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpu.core import NAN, Engine, Failed, Group, Response, Sample, Sampling, Scorer, UserError
from mmpu.learning import Method
from mmpu.score import Score
from mmpu.store import Ledger
from mmpu.train.fitting import Fitting
from mmpu.train.shadow import Shadow

TEACHER = Sampling(temperature=0.0, max_tokens=2048)
"""How a teacher answers unless the config says otherwise."""


@dataclass(frozen=True)
class Rollout:
    """Makes the groups of a step.

    Args:
        k: Candidates per prompt.
        student: Samples candidates, and what the privileged teacher says, with the shadow's weights in place.
        teacher: Answers each prompt once; a store in front of it remembers.
        asking: How the teacher answers.
        low_anchor: An s* below this is noted.
        fitting: Keeps contexts within the model's; None leaves them as the method makes them.
    """

    method: Method
    scorer: Scorer | None
    student: Engine
    teacher: Engine | None
    k: int
    sampling: Sampling
    ledger: Ledger
    shadow: Shadow | None = None
    asking: Sampling = TEACHER
    low_anchor: float = 0.5
    fitting: Fitting | None = None

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs | (self.scorer.needs if self.scorer else frozenset())

    def anchored(self, samples: Sequence[Sample]) -> list[Group | Failed]:
        """Groups with the teacher's answer, one question per prompt; where it has none, or an empty one, why.

        Raises:
            UserError: there is no teacher.
        """
        if "anchor" not in self.needs:
            return [Group(sample) for sample in samples]
        if self.teacher is None:
            raise UserError("this stage needs anchors; set `teacher:` in the config")
        answers = self.teacher.generate(samples, 1, self.asking)
        return [_with_anchor(s, a) for s, a in zip(samples, answers, strict=True)]

    def sampled(self, groups: Sequence[Group], seed: int) -> list[Group]:
        """Groups with K candidates of the student and, where the method asks, as many of its privileged teacher;
        responses without a token are left out.

        A prompt that the engine could not serve keeps an empty group, which trains nothing and is counted.

        Raises:
            UserError: the engine could serve none of them.
        """
        if "context" in self.needs:
            fitting = self.fitting
            groups = [fitting.context(g) if fitting else replace(g, context=self.method.context(g)) for g in groups]
        if "responses" not in self.needs:
            return list(groups)
        drawn = self._draw([group.sample for group in groups], seed, self.method.offline)
        self.ledger.add(student_samples=sum(map(len, drawn)), student_tokens_generated=_tokens(drawn))
        result = [replace(g, responses=tuple(r for r in rs if r.tokens)) for g, rs in zip(groups, drawn, strict=True)]
        if "teacher_responses" in self.needs:
            contexts = [group.context for group in groups if group.context is not None]
            # A stream of its own: with the student's, equal distributions would draw equal responses.
            said = self._draw(contexts, seed + 1, True)
            self.ledger.add(teacher_tokens_generated=_tokens(said))
            result = [
                replace(g, teacher_responses=tuple(r for r in rs if r.tokens))
                for g, rs in zip(result, said, strict=True)
            ]
        return result

    def _draw(self, prompts: Sequence[Sample], seed: int, shadowed: bool) -> list[tuple[Response, ...]]:
        assert self.shadow is not None or not shadowed
        with self.shadow.speaking() if self.shadow and shadowed else contextlib.nullcontext():
            drawn = self.student.generate(prompts, self.k, replace(self.sampling, seed=seed))
        failed = [(s.id, r.reason) for s, r in zip(prompts, drawn, strict=True) if isinstance(r, Failed)]
        if failed and len(failed) == len(prompts):
            raise UserError(f"sampling failed for all {len(prompts)} prompts; first, {failed[0][0]!r}: {failed[0][1]}")
        if failed:
            self.ledger.add(student_failures=len(failed))
        return [() if isinstance(responses, Failed) else responses for responses in drawn]

    def scored(self, groups: Sequence[Group]) -> list[Group]:
        """Groups with a score per candidate and, where the method asks, s*, the anchor's own.

        Raises:
            UserError: the scorer returned something else than a number per response.
        """
        if "scores" not in self.needs:
            return list(groups)
        assert self.scorer is not None
        name = type(self.scorer).__name__
        if "anchor_score" in self.method.needs:
            found = self.scorer.with_anchors(groups)
        else:
            found = [(scores, NAN) for scores in self.scorer.score(groups)]
        if len(found) != len(groups):
            raise UserError(f"scorer {name} returned the scores of {len(found)} groups, it was asked for {len(groups)}")
        return [
            _with_scores(group, scores, own, name, self.low_anchor)
            for group, (scores, own) in zip(groups, found, strict=True)
        ]


def _with_anchor(sample: Sample, answer: tuple[Response, ...] | Failed) -> Group | Failed:
    if isinstance(answer, Failed):
        return answer
    said, finished = answer[0], answer[0].finished
    if not said.text.strip():
        return Failed(f"the teacher's answer to sample {sample.id!r} is empty")
    note = f"the teacher's answer to sample {sample.id!r} was cut by its length limit"
    notes = {} if finished else {"cut_anchors": note}
    if "\ufffd" in said.text:
        notes["damaged_anchors"] = f"the teacher's answer to sample {sample.id!r} holds a damaged character (U+FFFD)"
    return Group(sample, anchor=said.raw, anchor_finished=finished, notes=notes)


def _with_scores(group: Group, scores: Sequence[float], own: float, scorer: str, low: float) -> Group:
    """The group with sound scores: an infinite one abstains, since no mean survives it."""
    where = f"sample {group.sample.id!r}"
    if len(scores) != len(group.responses):
        raise UserError(
            f"scorer {scorer} returned {len(scores)} scores for the {len(group.responses)} responses of {where}; "
            "`score` returns one float per response of each group, NaN where it abstains"
        )
    try:
        numbers = [float(score) for score in (*scores, own)]
    except (TypeError, ValueError):
        raise UserError(f"scorer {scorer} returned {scores!r} for {where}; a score is a number") from None
    notes = dict(group.notes)
    infinite = sum(map(math.isinf, numbers))
    if infinite:
        notes["infinite_scores"] = f"{where}: {infinite} of {scorer}'s scores are infinite, and are masked"
    *kept, own = (NAN if math.isinf(number) else number for number in numbers)
    if own < low:
        notes["low_anchors"] = f"{where}: the teacher's answer scores {own:.3g}"
    parts = tuple(score.parts if isinstance(score, Score) else {} for score in scores)
    return replace(group, scores=tuple(kept), anchor_score=own, notes=notes, parts=parts if any(parts) else ())


def flat(group: Group) -> bool:
    """True if the scores of a group tell nothing apart."""
    scores = [s for s in group.scores if not math.isnan(s)]
    return len(scores) > 1 and max(scores) == min(scores)


def _tokens(drawn: Sequence[Sequence[Response]]) -> int:
    return sum(len(response.tokens or ()) for responses in drawn for response in responses)
