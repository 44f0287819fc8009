"""A stage before its first step: every prompt, every answer that is known and every context is encoded. What does not
fit is refused all at once, or left out where the stage says so.

What a teacher will say when it is asked is not known yet; where that does not fit, its group is left out of its step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mmpu import files
from mmpu.core import Choice, Engine, Failed, Group, Likelihood, Response, Sample, Sampling, Scorer, UserError, digest
from mmpu.store import write_atomically
from mmpu.student import Misfit, Student, longest_text, misfit, overlong, summary
from mmpu.train.fitting import Fitting
from mmpu.train.stage_config import StageConfig

FILE = "left_out.json"
"""In the stage's folder: what was left out, for a run that is resumed and for its reader."""
CHUNK = 64
"""Prompts whose scorer is listened to at a time."""
PATIENCE = 5.0
"""Seconds between two words of how far it is."""


@dataclass(frozen=True)
class _Kept:
    """What `FILE` holds."""

    key: str
    left_out: list[Misfit]


@dataclass(frozen=True)
class Listening(Engine):
    """Stands for the student where a scorer asks it: keeps what it is asked and says nothing of worth."""

    heard: list[tuple[Sample, int | Response]] = field(default_factory=list[tuple[Sample, int | Response]])
    """Prompts, and the tokens that an answer to each may have or the answer that is weighed."""

    @property
    def identity(self) -> str:
        return "listening"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        self.heard.extend((sample, sampling.max_tokens) for sample in samples)
        return [(Response("0.5"),) * n for _ in samples]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        self.heard.extend((sample, 1) for sample in samples)
        return [Choice(dict.fromkeys(options, 1 / len(options)), 0.0) for _ in samples]

    def likelihoods(self, samples: Sequence[Sample], responses: Sequence[Response]) -> list[Likelihood | Failed]:
        self.heard.extend(zip(samples, responses, strict=True))
        return [Likelihood(-1.0, 1) for _ in samples]


@dataclass(frozen=True)
class Rehearsal:
    """Args:
    scorers: Those parts of the stage's scorer that ask the student itself, by way of `listening`.
    say: Tells the user.
    longest: Tokens of a prompt and its candidate that the sampler holds; None if as many as the model reads.
    """

    config: StageConfig
    student: Student
    fitting: Fitting
    teacher: Engine | None
    scorers: Sequence[Scorer]
    listening: Listening
    needs: frozenset[str]
    say: Callable[[str], None]
    longest: int | None = None

    def __call__(self, samples: Sequence[Sample], folder: Path, keep: bool) -> list[Sample]:
        """The samples to train on.

        Args:
            folder: The stage's, where what is left out is remembered.
            keep: Write it there; one process does.

        Raises:
            UserError: what does not fit and is not to be left out, all of it; or nothing is left.
        """
        known = self.teacher.known(samples) if self.teacher and "anchor" in self.needs else [None] * len(samples)
        key = self._key(samples, known)
        remembered = _remembered(folder / FILE, key)
        left_out = self._misfits(samples, known) if remembered is None else remembered
        if left_out:
            self._judge(left_out, len(samples))
        if keep and remembered is None:
            rows = [asdict(each) for each in left_out]
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / FILE, json.dumps({"key": key, "left_out": rows}, indent=1) + "\n")
        gone = {each.sample for each in left_out}
        return [sample for sample in samples if sample.id not in gone]

    def _judge(self, misfits: Sequence[Misfit], total: int) -> None:
        where = f"stage {self.config.name!r}"
        kinds = {each.kind for each in misfits}
        if kinds - set(self.config.leave_out) or len(misfits) == total:
            wanted = ", ".join(sorted({*self.config.leave_out, *kinds}))
            raise UserError(
                f"{where}: {summary(misfits, total)}\nShorten prompts, answers or `sampling.max_tokens`, take a model "
                f"that reads them, or leave them out: `leave_out: [{wanted}]`"
            )
        self.say(f"{where}, left out: {summary(misfits, total)}")

    def _misfits(self, samples: Sequence[Sample], known: Sequence[Response | None]) -> list[Misfit]:
        found: list[Misfit] = []
        began = said = time.monotonic()
        for start in range(0, len(samples), CHUNK):
            chosen = slice(start, start + CHUNK)
            found += self._of(samples[chosen], known[chosen])
            if time.monotonic() - said > PATIENCE and start + CHUNK < len(samples):
                said = time.monotonic()
                self.say(
                    f"stage {self.config.name!r}: {start + CHUNK:,} of {len(samples):,} prompts encoded after "
                    f"{said - began:.0f} s, {len(found):,} do not fit"
                )
        return found

    def _of(self, samples: Sequence[Sample], known: Sequence[Response | None]) -> Iterator[Misfit]:
        """At most one for each sample."""
        trains = "anchor" in self.needs and "anchor" in self.fitting.method.needs and "context" not in self.needs
        room = self.fitting.answer if "responses" in self.needs else 0
        groups: list[Group] = []
        for sample, answer in zip(samples, known, strict=True):
            answers = [answer] if answer is not None and answer.text.strip() else []
            taught = answers if trains else []
            if "pair" in self.needs and sample.pair is not None:
                taught = [*map(Response, sample.pair)]
            found = misfit(self.student, sample, taught, room, self.longest if room else None)
            if found is not None:
                yield found
                continue
            anchor = answers[0] if answers else Response("-")
            groups.append(Group(sample, anchor=anchor.raw, anchor_finished=anchor.finished))
        if "context" in self.needs:
            groups, found_here = self._contexts(groups)
            yield from found_here
        if self.scorers and groups:
            yield from self._scored(groups)

    def _contexts(self, groups: Sequence[Group]) -> tuple[list[Group], list[Misfit]]:
        """The groups whose privileged teacher's prompt fits once its solution is cut, and why the others do not."""
        fit: list[Group] = []
        found: list[Misfit] = []
        for group in groups:
            context = self.fitting.context(group).context
            length = None if context is None else overlong(self.fitting.teacher, context, self.fitting.answer)
            if length is None:
                fit.append(group)
            else:
                reason = f"sample {group.sample.id!r}: its teacher's prompt has {length} tokens without a solution"
                found.append(Misfit(group.sample.id, "long", f"{reason}, beside an answer of {self.fitting.answer}"))
        return fit, found

    def _scored(self, groups: Sequence[Group]) -> Iterator[Misfit]:
        """Samples of which a scorer would show the student more than it reads, for the longest candidate there is."""
        candidate = Response(longest_text(self.student, self.fitting.answer), finished=False)
        asked = [replace(group, responses=(candidate,) * self._shown) for group in groups]
        for scorer in self.scorers:
            if "anchor_score" in self.fitting.method.needs:
                scorer.with_anchors(asked)
            else:
                scorer.score(asked)
        named = set[str]()
        for prompt, room in self.listening.heard:
            found = None if prompt.id in named else self._unasked(prompt, room)
            if found is not None:
                named.add(prompt.id)
                yield found
        self.listening.heard.clear()

    def _unasked(self, prompt: Sample, room: int | Response) -> Misfit | None:
        """Why a scorer's prompt cannot be read with an answer to it, if it cannot."""
        try:
            room = len(self.student.response_ids(prompt, room)) if isinstance(room, Response) else room
            length = overlong(self.student, prompt, room)
        except UserError as error:
            return Misfit(prompt.id, "unreadable", f"its scorer's prompt, {error}")
        if length is None:
            return None
        return Misfit(
            prompt.id,
            "long",
            f"sample {prompt.id!r}: its scorer's prompt has {length} tokens with a candidate of "
            f"max_tokens={self.fitting.answer}, {self.student.config.model} reads {self.student.encoder.limit}",
        )

    @property
    def _shown(self) -> int:
        """Candidates that a scorer may show in one prompt."""
        return self.config.k if any(scorer.listwise for scorer in self.scorers) else 1

    def _key(self, samples: Sequence[Sample], known: Sequence[Response | None]) -> str:
        """What the outcome depends on."""
        rows = [
            [
                sample.id,
                [[m.role, m.text, *([m.more] if m.more else [])] for m in sample.prompt],
                sample.images,
                answer and answer.raw,
                *(sample.pair if sample.pair and "pair" in self.needs else ()),
            ]
            for sample, answer in zip(samples, known, strict=True)
        ]
        student, config = self.student.config, self.config
        model = [student.model, student.template, student.template_options, self.student.encoder.limit]
        stage = [str(config.method.written), str(config.scorer and config.scorer.written), config.k, config.leave_out]
        return digest([model, stage, self.fitting.answer, self.longest, rows])


def _remembered(path: Path, key: str) -> list[Misfit] | None:
    """What was left out when the stage began, if it began with the same samples and the file is whole."""
    from pydantic import TypeAdapter

    try:
        kept = TypeAdapter(_Kept).validate_python(files.value_in(path))
    except (OSError, ValueError):
        return None
    return kept.left_out if kept.key == key else None
