"""From samples to scored groups: anchors, candidates, scores. What a method does not need is not made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpu.core import Engine, Failed, Group, Response, Sample, Sampling, Scorer, UserError
from mmpu.learning import Method
from mmpu.store import Ledger
from mmpu.train.shadow import Shadow


@dataclass(frozen=True)
class Rollout:
    """Makes the groups of a step.

    Args:
        k: Candidates per prompt.
        student: Samples candidates, and what the privileged teacher says, with the shadow's weights in place.
        teacher: Answers each prompt once; a store in front of it remembers.
    """

    method: Method
    scorer: Scorer | None
    student: Engine
    teacher: Engine | None
    k: int
    sampling: Sampling
    ledger: Ledger
    shadow: Shadow | None = None

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs | (self.scorer.needs if self.scorer else frozenset())

    def anchored(self, samples: Sequence[Sample]) -> list[Group | Failed]:
        """Groups with the teacher's answer, one question per prompt; where it has none, why.

        Raises:
            UserError: there is no teacher.
        """
        if "anchor" not in self.needs:
            return [Group(sample) for sample in samples]
        if self.teacher is None:
            raise UserError("this stage needs anchors; set `teacher:` in the config")
        answers = self.teacher.generate(samples, 1, Sampling(temperature=0.0, max_tokens=2048))
        return [
            a if isinstance(a, Failed) else Group(s, anchor=a[0].text) for s, a in zip(samples, answers, strict=True)
        ]

    def sampled(self, groups: Sequence[Group], seed: int) -> list[Group]:
        """Groups with K candidates of the student and, where the method asks, as many of its privileged teacher;
        responses without a token are left out.

        A prompt that the engine could not serve keeps an empty group, which trains nothing and is counted.

        Raises:
            UserError: the engine could serve none of them.
        """
        if "context" in self.needs:
            groups = [replace(group, context=self.method.context(group)) for group in groups]
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
        """Groups with a score per candidate and, where the method asks, s*: the anchor scored like a candidate.

        The anchor goes first, so candidates and anchor share one encoding of question, images and anchor.
        """
        if "scores" not in self.needs:
            return list(groups)
        assert self.scorer is not None
        with_anchor = "anchor_score" in self.method.needs

        def extended(group: Group) -> Group:
            if not with_anchor:
                return group
            assert group.anchor is not None
            return replace(group, responses=(Response(group.anchor), *group.responses))

        asked = [extended(group) for group in groups]
        scores = self.scorer.score(asked)
        return [
            replace(group, scores=s[1:], anchor_score=s[0]) if with_anchor else replace(group, scores=s)
            for group, s in zip(groups, scores, strict=True)
        ]


def flat(group: Group) -> bool:
    """True if the scores of a group tell nothing apart."""
    scores = [s for s in group.scores if not math.isnan(s)]
    return len(scores) > 1 and max(scores) == min(scores)


def _tokens(drawn: Sequence[Sequence[Response]]) -> int:
    return sum(len(response.tokens or ()) for responses in drawn for response in responses)
