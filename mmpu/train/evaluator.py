"""The evaluator of a stage, chosen once and kept in the stage's folder: a run that goes on reads as it began."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from mmpu import files
from mmpu.core import Engine, Failed, Group, Sample, Sampling, Scorer, Task, UserError
from mmpu.readings import Reader
from mmpu.store import write_atomically
from mmpu.train.cases import plain
from mmpu.train.rollout import Rollout
from mmpu.train.search import Found, Search
from mmpu.train.tried import Tried

FILE = "evaluator.json"
SECOND = 0.7
"""The temperature of a second answer, where the first is the likeliest one."""

_RESTORE = "restore the file, or train the stage anew (--restart-from)"


@dataclass(frozen=True)
class Trial:
    """What a search is made of.

    Args:
        seconds: Prompts of which a second answer of the teacher is asked for.
        graded: Prompts whose candidates are sampled and, where the task can, graded.
        tokens: The most that go through the model for it, sampling not included.
    """

    prompts: int
    seconds: int
    graded: int
    min_auc: float
    tokens: int = 50_000


def settled(
    rollout: Rollout,
    samples: Sequence[Sample],
    task: Task,
    trial: Trial,
    place: Path,
    accelerator: Accelerator,
    tokens: Callable[[], int],
    say: Callable[[str], None],
    seed: int,
) -> tuple[Rollout, dict[str, float]]:
    """The rollout with its evaluator chosen, as `place` remembers it or by a search now, and how good it was found to
    be: nothing where nothing was open, or only a part of what the scorer mixes.

    Raises:
        UserError: there is none that tells a prompt's own anchor from another's.
    """
    scorer, path = rollout.scorer, place / FILE
    if scorer is None or not _open(scorer):
        return rollout, {}
    if not trial.prompts:
        say(
            "scorer self_eval reads `expected`: with `preflight.prompts: 0` nothing is tried, so `auto` chooses nothing"
        )
        return rollout, {}
    kept = _kept(path)
    made: list[Found] = []

    def choose(each: Scorer) -> Scorer:
        reader, number = cast(Reader, each), len(made)
        if number < len(kept):
            try:
                confirmed = tuple(Tried(**row) for row in kept[number].get("confirmed", ()))
                made.append(Found((), confirmed, kept[number]["settings"]))
                return reader.restored(kept[number]["settings"])
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(f"{path}: {error}; {_RESTORE}") from None
        found = _searched(reader, rollout, samples, task, trial, tokens, say, seed)
        # One process's choice is everybody's: rounding could tip a tie.
        shared = [found.settings]
        broadcast_object_list(shared)
        made.append(replace(found, settings=shared[0]))
        if shared[0] is None:
            raise UserError(refusal(found, trial.min_auc))
        say(f"the evaluator reads {written(shared[0])}")
        return reader.restored(shared[0])

    chosen = scorer.settled(choose)
    if len(made) > len(kept) and accelerator.is_main_process:
        write_atomically(path, json.dumps([asdict(found) for found in made], indent=1, ensure_ascii=False) + "\n")
    accelerator.wait_for_everyone()
    return replace(rollout, scorer=chosen), _seen(made[0]) if isinstance(scorer, Reader) else {}


def _seen(found: Found) -> dict[str, float]:
    """What the prompts showed that the way was not chosen by."""
    if not found.confirmed:
        return {}
    row = found.confirmed[-1]
    seen = {"anchor_auc": row.auc, "second_auc": row.second, "graded_auc": row.graded}
    return {name: value for name, value in seen.items() if not math.isnan(value)}


def _kept(path: Path) -> list[Mapping[str, Any]]:
    """What was chosen before.

    Raises:
        UserError: the file is damaged; another choice would make another run of it.
    """
    try:
        found = files.value_in(path) if path.exists() else []
        if isinstance(found, list) and all(isinstance(row["settings"], dict) for row in cast(list[Any], found)):
            return cast(list[Mapping[str, Any]], found)
        raise ValueError("it holds something else than settings")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; {_RESTORE}") from None


def _open(scorer: Scorer) -> bool:
    asked: list[Scorer] = []

    def note(each: Scorer) -> Scorer:
        asked.append(each)
        return each

    scorer.settled(note)
    return bool(asked)


def _searched(
    reader: Reader,
    rollout: Rollout,
    samples: Sequence[Sample],
    task: Task,
    trial: Trial,
    tokens: Callable[[], int],
    say: Callable[[str], None],
    seed: int,
) -> Found:
    groups = [group for group in rollout.anchored(samples[: trial.prompts]) if isinstance(group, Group)]
    seconds = second_answers(rollout.teacher, groups[: trial.seconds], rollout.asking)
    sampled = rollout.sampled(groups[: trial.graded], seed) if trial.graded else []
    say(f"trying in which way the student can grade, on {len(groups)} prompts; `scorer.mode` and its kin spare this")
    return Search(reader, trial.min_auc, tokens, say, trial.tokens)(groups, seconds, sampled, task)


def second_answers(teacher: Engine | None, groups: Sequence[Group], asking: Sampling) -> dict[str, str]:
    """Answers of the teacher that are not the anchors, by sample id; fewer, or none, where it has no others."""
    if teacher is None or not groups:
        return {}
    other = replace(asking, temperature=asking.temperature or SECOND)
    found: dict[str, str] = {}
    answers = teacher.generate([group.sample for group in groups], 2, other)
    for group, answer in zip(groups, answers, strict=True):
        if isinstance(answer, Failed):
            continue
        others = [r.raw for r in answer if plain(r.text) not in (plain(group.anchor or ""), "") and r.finished]
        found |= {group.sample.id: others[-1]} if others else {}
    return found


def refusal(found: Found, least: float) -> str:
    """Why no way of reading can be trusted, and what would help."""
    fit = sorted((row for row in found.rows if row.rank > float("-inf")), key=lambda row: -row.rank)
    best = (
        f"the best, {fit[0].name}, has AUC {fit[0].decisive:.3f}" if fit else f"none could be read: {_reasons(found)}"
    )
    return (
        f"pre-flight: of {len(found.rows)} ways in which the student could grade, none tells right from wrong with AUC "
        f"{least} or more on prompts that it was not chosen by; {best}. Training on it would destroy the student. "
        "`mmpu evaluator` prints the table, for other students too. What helps: a larger student; a longer stage I; a "
        "teacher with second answers (`n: 2` of `mmpu generate`), by which likelihoods can be judged; a scorer that "
        "does not depend on the student (rule, majority, token_judge); or `preflight.min_auc`, if you know better. The "
        "same command with other settings of this stage goes on after the stages that are done"
    )


def _reasons(found: Found) -> str:
    return "; ".join(dict.fromkeys(row.reason for row in found.rows if row.reason))


def written(settings: Mapping[str, object]) -> str:
    """Settings as a config would have them."""
    shown = {k: v if not isinstance(v, list) or k == "parts" else "…" for k, v in settings.items()}
    return "scorer: " + json.dumps({"name": "self_eval", **shown}, ensure_ascii=False)
