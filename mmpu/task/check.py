"""What can be wrong with a task, looked for before anything is trained or published with it.

Every field of every row resolves, every picture loads, ids are unique, the grader gives its best grade to the right
answer, no template reads a field that no row has, and training splits share nothing with evaluation splits: no prompt,
no origin (a story, a seed question), no picture by content; with those of other tasks (`held_out`) included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from mmpu.core import Grader, Sample, UserError
from mmpu.media import fingerprint, load_image
from mmpu.task import templates
from mmpu.task.border import WAY_OUT
from mmpu.task.lookup import find_task, on_the_path
from mmpu.task.shares import plain
from mmpu.task.yaml_task import YamlTask, load_local, load_task

Samples = Mapping[str, Sequence[Sample]]
SHOWN = 3
"""Examples that a problem names."""


@dataclass
class Report:
    """What was found."""

    facts: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    """What could not be checked, or is odd without being wrong."""
    problems: list[str] = field(default_factory=list[str])


def check(task: YamlTask, data: Sequence[str] = (), only: Sequence[str] = ()) -> Report:
    """Checks a task.

    Args:
        only: Splits to look at; default: all.
        data: `NAME=PATH` of local files, for tasks that `held_out` names.
    """
    report = Report()
    found: dict[str, Sequence[Sample]] = {}
    for split in only or task.config.splits:
        try:
            found[split] = task.samples(split)
        except UserError as error:
            report.problems.append(f"split {split}: {error}")
            continue
        firsts = {why: f" (the first {first})" for why, first in task.examples.get(split, {}).items()}
        left_out = task.dropped[split].items()
        dropped = "".join(f", {n} rows left out by `{why}`{firsts.get(why, '')}" for why, n in left_out)
        report.facts.append(f"{split}: {len(found[split])} samples{dropped}")
        published = task.config.splits[split].published
        if published not in (None, len(found[split])):
            report.notes.append(
                f"{split}: the published one has {published} samples, these files have {len(found[split])}"
            )
    _templates(task, report)
    _pictures(task, found, report)
    _ids(task, found, report)
    _grades(task, found, report)
    for (one, these), (other, those) in combinations(found.items(), 2):
        splits = task.config.splits
        if other in task.same_rows(one):
            report.problems.append(f"{one} and {other} hold the same rows; {task.way_out}")
        elif splits[one].part_of != other and splits[other].part_of != one:
            _disjoint(one, these, other, those, report)
    pools = {split: samples for split, samples in found.items() if not task.config.for_evaluation(split)}
    for name in task.config.held_out:
        _held_out(task, name, pools, data, report)
    return report


def _templates(task: YamlTask, report: Report) -> None:
    if not task.columns:
        return
    conditions = [(f"splits.{n}.where", s.where, True) for n, s in task.config.splits.items() if s.where]
    for key, source, bare in (*task.config.sources(), *conditions):
        unknown = templates.undeclared(source, is_expression=bare) - task.columns
        if unknown:
            report.problems.append(
                f"`{key}` reads {', '.join(sorted(unknown))}, which no row has; "
                f"rows have {', '.join(sorted(task.columns))}"
            )


def _pictures(task: YamlTask, found: Samples, report: Report) -> None:
    checked = 0
    contents = [content for turn in task.config.prompt for content in turn.values() if isinstance(content, list)]
    shown = any(isinstance(part, dict) for parts in contents for part in parts)
    for split, samples in found.items():
        counts = Counter(len(sample.images) for sample in samples)
        if shown and set(counts) != {1}:
            told = ", ".join(f"{n} samples have {k or 'none'}" for k, n in sorted(counts.items()))
            report.facts.append(f"{split}: of pictures, {told}")
        try:
            task.ready(split)
        except UserError as error:
            report.problems.append(str(error))
            continue
        broken: list[str] = []
        for image in dict.fromkeys(image for sample in samples for image in sample.images):
            if image.startswith(("http://", "https://")):
                continue
            try:
                load_image(image)
                checked += 1
            except UserError as error:
                broken.append(str(error))
        if broken:
            report.problems.append(f"split {split}: {_some(broken)}")
    if checked:
        report.facts.append(f"{checked} pictures load")


def _ids(task: YamlTask, found: Samples, report: Report) -> None:
    apart = {split: samples for split, samples in found.items() if task.config.splits[split].part_of is None}
    for (one, these), (other, those) in combinations(apart.items(), 2):
        shared = {s.id for s in these} & {s.id for s in those}
        if shared:
            report.problems.append(f"{one} and {other} share the ids {_some(sorted(shared))}; put the split into `id`")


def _grades(task: YamlTask, found: Samples, report: Report) -> None:
    """The right answer, and the reference where there is one, get the best grade."""
    grader = task.grader
    if grader is None:
        return
    graded, limited, ungraded = 0, 0, 0
    try:
        for split, samples in found.items():
            _remarks(grader, split, samples, report)
            wrong: list[str] = []
            unlike: list[str] = []
            for sample in samples:
                ideal = grader.ideal(sample)
                if ideal is None:
                    ungraded += 1
                    continue
                answer, best = ideal
                graded, limited = graded + 1, limited + (best < 1)
                if grader.grade(sample, answer) != best:
                    wrong.append(f"{sample.id} ({answer[-60:]!r})")
                elif sample.reference is not None and (grader.grade(sample, sample.reference) or 0) < best:
                    unlike.append(f"{sample.id} ({sample.reference[-60:]!r})")
            if wrong:
                report.problems.append(f"split {split}: the grader refuses {len(wrong)} right answers: {_some(wrong)}")
            if unlike:
                report.notes.append(f"{split}: {len(unlike)} references are no answers to the grader: {_some(unlike)}")
    except UserError as error:
        report.problems.append(str(error))
        return
    report.facts.append(f"{graded} right answers get the best grade there is")
    if ungraded:
        report.notes.append(f"{ungraded} samples give the grader no right answer to try")
    if limited:
        report.notes.append(f"{limited} samples have no answer that gets 1.0 from this grader")


def _remarks(grader: Grader, split: str, samples: Sequence[Sample], report: Report) -> None:
    """What the grader says of answers that it cannot read, and of options that it cannot tell apart."""
    for kind, place in (("problem", report.problems), ("note", report.notes)):
        said = [f"{s.id}: {remark.text}" for s in samples for remark in grader.remarks(s) if remark.kind == kind]
        if said:
            place.append(f"split {split}: {_some(said)}")


def _disjoint(one: str, these: Sequence[Sample], other: str, those: Sequence[Sample], report: Report) -> None:
    for what, keys in (("prompt", _prompts), ("origin", _origins), ("picture", _images)):
        left, right = keys(these), keys(those)
        shared = [name for key, name in left.items() if key in right]
        if shared:
            report.problems.append(f"{one} and {other} share {len(shared)} {what}s: {_some(shared)}")
        elif left and right:
            report.facts.append(f"{one} and {other} share no {what}")


def _held_out(task: YamlTask, name: str, pools: Samples, data: Sequence[str], report: Report) -> None:
    """Compares with a split of another task; a bare path of `data` is its folder too only if they share a data set."""
    other, _, split = name.partition("/")
    try:
        if not task.trusted and not on_the_path(find_task(other)):
            raise UserError(f"{task.path} may name tasks of the search path only; {WAY_OUT}")
        known = load_task(other).config.dataset
        shared = known is not None and known == task.config.dataset
        those = load_local(other, [item for item in data if "=" in item or shared]).samples(split)
    except UserError as error:
        report.notes.append(f"not compared with {name}: {error}")
        return
    for own, these in pools.items():
        _disjoint(own, these, name, those, report)


def _prompts(samples: Iterable[Sample]) -> dict[object, str]:
    def key(sample: Sample) -> object:
        texts = tuple(plain(message.text) for message in sample.prompt)
        return texts, tuple(_contents([sample]))

    return {key(sample): sample.id for sample in samples}


def _origins(samples: Iterable[Sample]) -> dict[object, str]:
    return {plain(str(s.meta["origin"])): s.id for s in samples if "origin" in s.meta}


def _images(samples: Iterable[Sample]) -> dict[object, str]:
    return {key: sample.id for sample in samples for key in _contents([sample])}


def _contents(samples: Iterable[Sample]) -> Iterator[str]:
    """Hashes of the pictures that can be read; the others are a problem of their own."""
    for image in (image for sample in samples for image in sample.images):
        try:
            yield fingerprint(image)
        except UserError:
            yield image


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f", … ({len(items)} in all)" if len(items) > SHOWN else "")
