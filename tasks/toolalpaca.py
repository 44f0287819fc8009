"""ToolAlpaca in one text form: SDPO's files as they are, and the real-API evaluation set of the authors put into it.

Yields prompt, answer (the gold calls, JSON), reference (the same as text), and `readable`: whether all gold
arguments are JSON, which four of the authors' are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpu.core import UserError
from mmpu.task.sources import read_rows

FILES = {
    "train": ("train.json", "sdpo_tooluse_train.json"),
    "test": ("test.json", "sdpo_tooluse_test.json"),
    "test_real": ("eval_real.json",),
}
PROMPT = """Your task is to answer the user's question using available tools.
You have access to the following tools:
Name: {name}
Description: {description}
Documentation:
{documentation}

Write one call of a tool, or several one after the other, in this form:
Thought: what to do, and why
Action: the tool's name, as documented
Action Input: its input, a JSON object with nothing that the user did not say or imply

Question: {question}"""


def rows(split: str, folder: Path) -> Iterator[dict[str, object]]:
    file = next((folder / name for name in FILES[split] if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"{folder} holds none of {', '.join(FILES[split])}; take them from https://github.com/lasgroup/SDPO "
            "(datasets/tooluse) and https://github.com/tangqiaoyu/ToolAlpaca (data)"
        )
    for _, row in read_rows(file, split):
        yield from real(row) if split == "test_real" else [made(row["prompt"], row["answer"])]


def real(api: dict[str, Any]) -> Iterator[dict[str, object]]:
    """The instructions for one API, whose gold answers are lists of calls."""
    for question, gold in zip(api["Instructions"], api["Golden_Answers"], strict=True):
        prompt = PROMPT.format(
            name=api["Name"],
            description=api["Description"],
            documentation=api["NLDocumentation"].strip(),
            question=question,
        )
        yield made(prompt, json.dumps(gold))


def made(prompt: str, answer: str) -> dict[str, object]:
    calls = json.loads(answer)
    lines = (f"Action: {call['Action']}\nAction Input: {call['Action_Input']}" for call in calls)
    readable = all(is_json(call["Action_Input"]) for call in calls)
    return {"prompt": prompt, "answer": answer, "reference": "\n".join(lines), "readable": readable}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
