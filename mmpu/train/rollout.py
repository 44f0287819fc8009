"""From samples to scored groups: anchors, candidates, scores. What a method does not need is not made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpu.core import Engine, Failed, Group, Method, Response, Sample, Sampling, Scorer, UserError
from mmpu.store import Ledger


@dataclass(frozen=True)
class Rollout:
    """Makes the groups of a step.

    Args:
        k: Candidates per prompt.
        teacher: Answers each prompt once; a store in front of it remembers.
    """

    method: Method
    scorer: Scorer | None
    student: Engine
    teacher: Engine | None
    k: int
    sampling: Sampling
    ledger: Ledger

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs | (self.scorer.needs if self.scorer else frozenset())

    def anchored(self, samples: Sequence[Sample]) -> list[Group]:
        """Groups with the teacher's answer, one question per prompt.

        Raises:
            UserError: there is no teacher, or it has no answer for some prompt.
        """
        if "anchor" not in self.needs:
            return [Group(sample) for sample in samples]
        if self.teacher is None:
            raise UserError("this stage needs anchors; set `teacher:` in the config")
        answers = self.teacher.generate(samples, 1, Sampling(temperature=0.0, max_tokens=2048))
        missing = [a.reason for a in answers if isinstance(a, Failed)]
        if missing:
            raise UserError(
                f"the teacher left {len(missing)} of {len(samples)} prompts unanswered, first: {missing[0]}; "
                "complete its answers or train on a smaller split"
            )
        return [Group(s, anchor=a[0].text) for s, a in zip(samples, answers, strict=True) if isinstance(a, tuple)]

    def sampled(self, groups: Sequence[Group], seed: int) -> list[Group]:
        """Groups with K candidates of the student; responses without a token are left out.

        A prompt that the engine could not serve keeps an empty group, which trains nothing and is counted.

        Raises:
            UserError: the engine could serve none of them.
        """
        if "responses" not in self.needs:
            return list(groups)
        drawn = self.student.generate([group.sample for group in groups], self.k, replace(self.sampling, seed=seed))
        failed = [(g.sample.id, d.reason) for g, d in zip(groups, drawn, strict=True) if isinstance(d, Failed)]
        if failed and len(failed) == len(groups):
            raise UserError(f"sampling failed for all {len(groups)} prompts; first, {failed[0][0]!r}: {failed[0][1]}")
        if failed:
            self.ledger.add(student_failures=len(failed))
        result: list[Group] = []
        for group, responses in zip(groups, drawn, strict=True):
            if isinstance(responses, Failed):
                result.append(group)
                continue
            self.ledger.add(
                student_samples=len(responses), student_tokens_generated=sum(len(r.tokens or ()) for r in responses)
            )
            result.append(replace(group, responses=tuple(r for r in responses if r.tokens)))
        return result

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
        self.ledger.add(local_eval_calls=sum(map(len, scores)))
        return [
            replace(group, scores=s[1:], anchor_score=s[0]) if with_anchor else replace(group, scores=s)
            for group, s in zip(groups, scores, strict=True)
        ]


def flat(group: Group) -> bool:
    """True if the scores of a group tell nothing apart."""
    scores = [s for s in group.scores if not math.isnan(s)]
    return len(scores) > 1 and max(scores) == min(scores)
