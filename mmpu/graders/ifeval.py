"""Verifiable instructions (IFEval, Zhou et al. 2023, arXiv 2311.07911), checked by the lm-evaluation-harness.

`meta.instructions` holds the ids, `meta.arguments` one mapping of arguments each. `prompt` level: 1 where all
instructions are followed; `instruction` level: the share that is. Loose also tries the text without its first or last
line and without asterisks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from mmpu.core import Grader, Sample, UserError


@dataclass(frozen=True)
class IfEval(Grader):
    level: Literal["prompt", "instruction"] = "prompt"
    loose: bool = False

    def grade(self, sample: Sample, text: str) -> float | None:
        ids, arguments = sample.meta.get("instructions"), sample.meta.get("arguments")
        if not isinstance(ids, Sequence) or not isinstance(arguments, Sequence) or len(ids) != len(arguments):
            raise UserError(
                f"sample {sample.id!r}: grader ifeval needs lists of one length in `meta.instructions` and "
                "`meta.arguments`"
            )
        checks = _checks()
        question = checks.InputExample(
            key=0,
            instruction_id_list=[str(i) for i in cast(Sequence[object], ids)],
            prompt=sample.prompt[-1].text,
            kwargs=[dict(a) for a in cast(Sequence[Mapping[str, object]], arguments)],
        )
        follow = checks.test_instruction_following_loose if self.loose else checks.test_instruction_following_strict
        try:
            followed = cast(list[bool], follow(question, text).follow_instruction_list)
        except LookupError as error:
            if isinstance(error, KeyError):
                raise UserError(f"sample {sample.id!r}: lm-eval knows no instruction {error}") from None
            raise UserError(
                "grader ifeval splits sentences with a table that nltk fetches once; on a machine with network run "
                "`python -m nltk.downloader punkt_tab`, and copy the folder nltk_data to this one's home"
            ) from None
        return float(all(followed)) if self.level == "prompt" else sum(followed) / len(followed)

    def ideal(self, sample: Sample) -> None:
        return None


def _checks() -> Any:
    try:
        return importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ImportError as error:
        raise UserError(f"grader ifeval needs lm-eval ({error}); run `pip install 'mmpu[lm-eval]'`") from None
