"""A model card: how a student came about, what it was measured to be worth, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmpu import __version__
from mmpu.boards import Board, markdown
from mmpu.core import UserError
from mmpu.recipes.origins import licence_of
from mmpu.specs import Named
from mmpu.task import load_local

UNKNOWN = "not stated"


def card(name: str, config: Mapping[str, Any], boards: Sequence[Board] = ()) -> str:
    """The card of a run's student, as a README with the hub's front matter.

    Args:
        config: The run's resolved config.
        boards: Those that it stands on, shown whole.
    """
    base, methods = str(config["student"]["model"]), [_method(stage) for stage in config["stages"]]
    front: dict[str, Any] = {"library_name": "transformers", "base_model": base}
    front |= {"tags": ["mmpu", *dict.fromkeys(methods)]}
    own = licence_of(base)
    if own is not None:
        front["license"] = own
    licence, citation = _terms(str(config["task"]))
    return "\n".join(
        (
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            f"# {name}",
            "",
            f"`{base}`, trained by [mmpu](https://arxiv.org/abs/2601.20687) {__version__}, seed {config['seed']}.",
            "",
            "| stage | method | prompts | learning rate |",
            "|---|---|---|---|",
            *(_stage(stage, method) for stage, method in zip(config["stages"], methods, strict=True)),
            "",
            f"**Data**: task `{config['task']}`; licence: {licence}." + (f" {citation}" if citation else ""),
            f"**Teacher**: {_teacher(config.get('teacher'))}.",
            f"**Licence**: that of the base, `{base}`, applies to these weights as well: {own or 'see its card'}.",
            "",
            *(_boards(boards) or ("It stands on no leaderboard yet.", "")),
            "## Use",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_ID")    # AutoModelForImageTextToText if it sees',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_ID")',
            "```",
            "",
            "The whole configuration, which runs as it is, is `mmpu.yaml` beside this file.",
            "",
        )
    )


def _method(stage: Mapping[str, Any]) -> str:
    return Named.read(stage["method"], "method").name


def _stage(stage: Mapping[str, Any], method: str) -> str:
    rate = (stage.get("optim") or {}).get("lr", UNKNOWN)
    return f"| {stage['name']} | {method} | {stage.get('split', UNKNOWN)} | {rate} |"


def _teacher(teacher: object) -> str:
    if teacher is None:
        return "none"
    values: dict[str, Any] = {"name": teacher} if isinstance(teacher, str) else dict(teacher)  # pyright: ignore
    told = values.get("model") or Path(str(values.get("path", ""))).name
    return f"`{values.get('name', UNKNOWN)}`" + (f" ({told})" if told else "")


def _terms(task: str) -> tuple[str, str]:
    """Licence and citation of a task's data, where the task can be found here."""
    try:
        config = load_local(task).config
    except UserError:
        return UNKNOWN, ""
    return config.licence or UNKNOWN, " ".join(config.citation.split())


def _boards(boards: Sequence[Board]) -> list[str]:
    return [line for board in boards for line in ("## Results", "", markdown(board))]
