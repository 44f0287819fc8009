"""What fits the model's context. A solution shown to a privileged teacher loses its beginning; a group with a row that
does not fit is left out of its step, counted and named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpu.core import Group, Sample
from mmpu.learning import Method, Row
from mmpu.student import Student, TooLong, drops_thoughts

TRIES = 4
"""Cuts of a solution: a text cut between two tokens may have a few more tokens than were kept."""


@dataclass(frozen=True)
class Fitting:
    """Args:
    teacher: Reads the contexts; the student itself unless the method's teacher is another model.
    """

    student: Student
    teacher: Student
    method: Method
    answer: int
    """Tokens that a response may have."""

    def context(self, group: Group) -> Group:
        """The group with its privileged teacher's prompt. Where that leaves no room for an answer, the solution loses
        its beginning, never the question."""
        context = self.method.context(group)
        longest: int | None = getattr(self.method, "max_privileged", None)  # in characters, cut by the method itself
        whole = shown = self._solution(group, context)[-longest if longest else 0 :]
        for _ in range(TRIES):
            excess = self._excess(context)
            ids = self.teacher.encoder.text_ids(shown)
            if excess <= 0 or len(ids) <= excess:
                break
            shown = self.teacher.decode(ids[excess:])
            context = self.method.context(_shown(group, shown))
        if shown == whole or self._excess(context) > 0:
            return replace(group, context=context)
        before, after = (len(self.teacher.encoder.text_ids(text)) for text in (whole, shown))
        note = f"sample {group.sample.id!r}: of a solution of {before} tokens the teacher sees the last {after}"
        return replace(group, context=context, notes={**group.notes, "cut_contexts": note})

    def _solution(self, group: Group, context: Sample | None) -> str:
        """What the context shows; nothing where it is the student's own prompt."""
        if context is None or context.prompt == group.sample.prompt:
            return ""
        return (group.anchor if "anchor" in self.method.needs else group.sample.reference) or ""

    def _excess(self, context: Sample | None) -> int:
        """Tokens that a context is too long by."""
        limit = self.teacher.encoder.limit
        if context is None or limit is None:
            return 0
        try:
            length = len(self.teacher.encode(context).ids)  # which remembers it
        except TooLong:
            length = self.teacher.encoder.length(context)
        return length + self.answer - limit

    def masked(self, group: Group) -> Group:
        """The group, with a note of its candidates without a score, and how long what they are scored by is."""
        unread = [r for r, score in zip(group.responses, group.scores, strict=False) if math.isnan(score)]
        if not unread:
            return group
        anchor = (
            f", an anchor of {len(self.student.response_ids(group.sample, group.taught))}"
            if group.anchor is not None
            else ""
        )
        note = (
            f"sample {group.sample.id!r}: {len(unread)} of {len(group.responses)} candidates have no score, with a "
            f"prompt of {self.student.encoder.length(group.sample)} tokens{anchor} and candidates of up to "
            f"{max(len(r.tokens or ()) for r in unread)}"
        )
        return replace(group, notes={**group.notes, "masked_candidates": note})

    def thoughtless(self, group: Group, rows: Sequence[Row]) -> Group:
        """The group, with a note if the thoughts of an answer are not trained on."""
        if not any(drops_thoughts(self.student, row.sample, row.response) for row in rows):
            return group
        note = (
            f"sample {group.sample.id!r}: the thoughts of its answer are not trained on, since thinking is off "
            "(`student.template_options: {enable_thinking: true}`)"
        )
        return replace(group, notes={**group.notes, "dropped_thoughts": note})

    def overlong(self, rows: Sequence[Row]) -> str | None:
        """Why the rows of a group do not fit, in tokens; None if they do."""
        for row in rows:
            tokens = len(self.student.response_ids(row.sample, row.response))
            reason = _overlong(self.student, row.sample, tokens)
            if reason is None and row.context is not None:
                reason = _overlong(self.teacher, row.context, tokens)
            if reason is not None:
                return reason
        return None


def _overlong(student: Student, prompt: Sample, tokens: int) -> str | None:
    limit = student.encoder.limit
    try:
        length = len(student.encode(prompt).ids)
    except TooLong as error:
        return str(error)
    if limit is None or length + tokens <= limit:
        return None
    return (
        f"sample {prompt.id!r}: a prompt of {length} tokens and an answer of {tokens} are more than the {limit} that "
        f"{student.config.model} reads"
    )


def _shown(group: Group, solution: str) -> Group:
    sample = replace(group.sample, reference=solution)
    return replace(group, sample=sample, anchor=solution if group.anchor is not None else None)
