"""Verifiable instructions (IFEval, Zhou et al. 2023, arXiv 2311.07911), checked by the lm-evaluation-harness.

`meta.instructions` holds the ids, `meta.arguments` one mapping of arguments each. `prompt` level: 1 where all
instructions are followed; `instruction` level: the share that is. Loose also tries the text without its first or last
line and without asterisks.

The same text always gets the same grade. Two official checks toss a coin: langdetect samples, so it is seeded; and a
letter to be counted that is none, such as `#`, is replaced by a random one, so here the one that was asked for counts.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from mmpu.core import Grader, Remark, Sample, UserError

if TYPE_CHECKING:
    from collections.abc import Generator

_FREQUENCY = "keywords:letter_frequency"
_LESS = "less than"
_SEEDS = 4
"""Draws that show whether lm-eval takes an argument as it is."""


@dataclass(frozen=True)
class IfEval(Grader):
    level: Literal["prompt", "instruction"] = "prompt"
    loose: bool = False

    def grade(self, sample: Sample, text: str) -> float | None:
        asked = _asked(sample)
        checks = _checks()
        question = checks.InputExample(
            key=0,
            instruction_id_list=[name for name, _ in asked],
            prompt=sample.prompt[-1].text,
            kwargs=[arguments for _, arguments in asked],
        )
        follow = checks.test_instruction_following_loose if self.loose else checks.test_instruction_following_strict
        try:
            with _without_chance():
                followed = cast(list[bool], follow(question, text).follow_instruction_list)
        except LookupError:
            raise UserError(
                "grader ifeval splits sentences with a table that nltk fetches once; on a machine with network run "
                "`python -m nltk.downloader punkt_tab`, and copy the folder nltk_data to this one's home"
            ) from None
        for index, (name, arguments) in enumerate(asked):
            if name == _FREQUENCY and not _is_letter(arguments["letter"]):
                followed[index] = any(_counted(arguments, variant) for variant in self._variants(text))
        return float(all(followed)) if self.level == "prompt" else sum(followed) / len(followed)

    def ideal(self, sample: Sample) -> None:
        return None

    def remarks(self, sample: Sample) -> list[Remark]:
        try:
            _asked(sample)
        except UserError as error:
            return [Remark("problem", str(error).removeprefix(f"sample {sample.id!r}: "))]
        return []

    def _variants(self, text: str) -> list[str]:
        """The texts of which one must follow an instruction, as lm-eval makes them."""
        lines = text.split("\n")
        cut = [lines, lines[1:], lines[:-1], lines[1:-1]] if self.loose else [lines]
        kept = [text, *("\n".join(part).strip() for part in cut[1:])]
        return kept + [variant.replace("*", "") for variant in kept] if self.loose else kept


def _asked(sample: Sample) -> list[tuple[str, dict[str, Any]]]:
    """A sample's instructions, each with all its arguments, by their names.

    Raises:
        UserError: lm-eval knows no such instruction, or other arguments; one that is missing would be drawn at random.
    """
    ids, given = sample.meta.get("instructions"), sample.meta.get("arguments")
    if not isinstance(ids, Sequence) or not isinstance(given, Sequence) or len(ids) != len(given):
        raise UserError(
            f"sample {sample.id!r}: grader ifeval needs lists of one length in `meta.instructions` and `meta.arguments`"
        )
    registry = _registry()
    found: list[tuple[str, dict[str, Any]]] = []
    for name, said in zip(map(str, cast(Sequence[object], ids)), cast(Sequence[object], given), strict=True):
        if name not in registry:
            raise UserError(f"sample {sample.id!r}: lm-eval knows no instruction {name!r}")
        if not isinstance(said, Mapping):
            raise UserError(f"sample {sample.id!r}: the arguments of {name!r} are {said!r}, which is no mapping")
        # Tables hold null where another instruction of the same row has an argument.
        arguments = {str(k): v for k, v in cast(Mapping[object, Any], said).items() if v is not None}
        if complaint := _complaint(name, json.dumps(arguments, default=str)):
            raise UserError(f"sample {sample.id!r}: {complaint}")
        found.append((name, arguments))
    return found


@lru_cache(maxsize=4096)
def _complaint(name: str, said: str) -> str | None:
    """What is wrong with an instruction's arguments, which are JSON; None if nothing is."""
    arguments: dict[str, Any] = json.loads(said)
    kind = _registry()[name]
    known = {key for key in inspect.signature(kind.build_description).parameters if key not in ("self", "prompt")}
    for key in arguments:
        if key not in known and key != "prompt":
            there = f"; it takes {', '.join(sorted(known))}" if known else "; it takes none"
            return f"instruction {name!r} has no argument {key!r}{there}"
    if missing := sorted(key for key in known if not arguments.get(key)):  # lm-eval draws it at random, and for 0 too
        return f"instruction {name!r} needs the argument {missing[0]!r}, other than 0"
    try:
        for seed in range(_SEEDS):
            with _without_chance(seed):
                instruction = kind(name)
                instruction.build_description(**arguments)
            used = cast(Mapping[str, Any], instruction.get_instruction_args() or {})
            for key, value in arguments.items():
                if isinstance(value, int) and used.get(key, value) != value:
                    raise ValueError(f"{key!r} is out of range, and would be drawn at random")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return f"instruction {name!r} with {arguments!r}: {error}"
    return None


def _is_letter(letter: object) -> bool:
    """Whether lm-eval counts it; it replaces every other one by a random letter."""
    return isinstance(letter, str) and len(letter) == 1 and "a" <= letter.lower() <= "z"


def _counted(arguments: Mapping[str, Any], text: str) -> bool:
    if not text.strip():
        return False
    count = text.lower().count(str(arguments["letter"]).lower())
    wanted = int(arguments["let_frequency"])
    return count < wanted if arguments["let_relation"] == _LESS else count >= wanted


@contextmanager
def _without_chance(seed: int = 0) -> Generator[None]:
    """A seeded `random`, which is given back as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _checks() -> Any:
    try:
        checks = importlib.import_module("lm_eval.tasks.ifeval.utils")
        importlib.import_module("langdetect").DetectorFactory.seed = 0
    except ImportError as error:
        raise UserError(f"grader ifeval needs lm-eval ({error}); run `pip install 'mmpu[lm-eval]'`") from None
    return checks


def _registry() -> Mapping[str, Any]:
    return _checks().instructions_registry.INSTRUCTION_DICT
