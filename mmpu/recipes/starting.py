"""A config to begin with, of a few answers, that runs as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mmpu.config import Values, dump_yaml
from mmpu.core import UserError
from mmpu.recipes import outlook, run_config, schema
from mmpu.store import write_atomically
from mmpu.task import load_task

FIRST_STAGE = "sft"


@dataclass(frozen=True)
class Answers:
    """What `mmpu init` asks."""

    student: str
    task: str
    teacher: str
    """`reference`, a file of answers, or the address of an endpoint with its model, `http://localhost:8000/v1=model`."""
    method: str
    """`sft`, or what comes after it: a preset or a method."""
    run: str


def write(answers: Answers, path: Path) -> list[Path]:
    """Writes a config and the schema that editors check it by.

    Raises:
        UserError: a file is there, or the config would not run; then nothing is left.
    """
    if path.exists():
        raise UserError(f"{path} exists; choose another --out, or remove it")
    beside = path.with_name(schema.NAME)
    values = config(answers)
    write_atomically(path, f"# yaml-language-server: $schema={schema.NAME}\n{dump_yaml(values)}")
    try:
        outlook.checked(run_config.load(str(path)))
    except UserError:
        path.unlink()
        raise
    write_atomically(beside, json.dumps(schema.schema(), indent=1, ensure_ascii=False) + "\n")
    return [path, beside]


def config(answers: Answers) -> Values:
    """The keys of the config; with a second stage the prompts are parted between the two."""
    first: Values = {"name": FIRST_STAGE, "method": "sft", "split": "train", "optim": {"lr": 1e-5}}
    stages = [first]
    if answers.method != "sft":
        half = max(1, len(load_task(answers.task).samples("train")) // 2)
        first["split"] = f"train[:{half}]"
        second: Values = {"name": answers.method, "preset": answers.method, "split": f"train[{half}:]"}
        stages.append({**second, "optim": {"lr": 1e-5}})
    return {
        "run": answers.run,
        "student": {"model": answers.student},
        "task": answers.task,
        "teacher": _teacher(answers.teacher),
        "stages": stages,
    }


def _teacher(said: str) -> str | Values:
    if said.endswith((".jsonl", ".json")):
        return {"name": "replay", "path": said}
    url, equals, model = said.partition("=")
    if said.startswith(("http://", "https://")):
        if not equals:
            raise UserError(f"teacher {said}: which model? write {said}=MODEL")
        return {"name": "openai", "model": model, "url": url}
    return said
