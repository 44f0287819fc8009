"""The LM Evaluation Harness, both ways: its tasks on our students, and our text tasks for it.

`run` hands a student to lm-eval's own model class and keeps what it reports, with versions and hashes. `export` writes
a folder for `lm_eval --include_path`: per task a YAML and the samples as JSON lines, and one Python file through which
lm-eval calls the task's own grader, so that the same answers get the same grades.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from mmpu import files
from mmpu.config import dump_yaml
from mmpu.core import Sample, UserError, digest, user
from mmpu.store import write_atomically
from mmpu.task import YamlTask, load_local, load_task

if TYPE_CHECKING:
    from mmpu.student import Student

KEPT = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better", "chat_template_sha")
"""What of lm-eval's report goes into an entry, beside the hashes of its samples."""
_BRIDGE = """from mmpu.evaluation.lm_eval import grade

__all__ = ["grade"]
"""


def run(
    student: Student,
    tasks: Sequence[str],
    limit: int | None = None,
    include: Path | None = None,
    data: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """lm-eval's report on a student, as plain JSON values.

    Args:
        tasks: lm-eval's names.
        limit: First documents of each task only.
        include: A folder of further lm-eval tasks, as `export` writes.
        data: By task, a folder to read instead of the hub (a clone of its data set's repository, or JSON lines), or
            `@REVISION` of that data set.

    Raises:
        UserError: lm-eval is not installed, or a task is unknown or cannot be loaded.
    """
    lm_eval = _library("lm_eval")
    manager = _library("lm_eval.tasks").TaskManager(include_path=str(include) if include else None)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise UserError(f"lm-eval has no task {', '.join(map(repr, unknown))}; `lm_eval ls tasks` lists them")
    was_training = student.training
    student.eval()
    model = _library("lm_eval.models.huggingface").HFLM(
        pretrained=student.model,
        tokenizer=student.tokenizer,
        backend="causal",
        batch_size=8,
        device=str(student.device),
    )
    try:
        with TemporaryDirectory() as folder:
            report = lm_eval.simple_evaluate(
                model=model,
                tasks=[_local(manager, name, data[name], Path(folder)) if name in data else name for name in tasks],
                limit=limit,
                task_manager=manager,
                apply_chat_template=student.config.template == "chat",
            )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"lm-eval cannot run {', '.join(tasks)}: {error}") from None
    finally:
        student.train(was_training)
    kept = {key: report[key] for key in KEPT if key in report}
    hashes = {
        name: digest([[s["doc_hash"], s["prompt_hash"], s["target_hash"]] for s in samples])
        for name, samples in report["samples"].items()
    }
    plain = {"lm_eval": lm_eval.__version__, "limit": limit, **kept, "hashes": hashes}
    return finite(json.loads(json.dumps(plain, default=str)))


def finite(value: Any) -> Any:
    """A report without NaN and infinities, as lm-eval has them for the error of a single document or an empty group:
    they are no JSON and no result, so null takes their place."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [finite(item) for item in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def export(names: Sequence[str], folder: Path, split: str | None = None, data: Sequence[str] = ()) -> None:
    """Writes tasks for `lm_eval --include_path FOLDER`, named `mmpu_<task>`.

    Args:
        split: Default: the one that each task is evaluated on.
        data: As `mmpu.task.yaml_task.load_local` takes it.

    Raises:
        UserError: a task has no grader, or prompts of more than one text turn.
    """
    for name in names:
        task = load_local(name, data)
        _export(task, split or task.config.evaluate, folder)
    write_atomically(folder / "mmpu_grade.py", _BRIDGE)


def grade(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's `process_results`: the grade of an answer to a row that `export` wrote."""
    sample = Sample(doc["id"], user(doc["prompt"]), doc["reference"] or None, doc["answer"], json.loads(doc["meta"]))
    value = _task(doc["task"]).grade(sample, results[0])
    if value is None:
        raise UserError(f"task {doc['task']} cannot grade sample {sample.id!r}")
    return {"grade": value}


def _local(manager: Any, name: str, data: str, folder: Path) -> str:
    """Writes lm-eval's task into `folder` once more, with its rows from `data`; returns the path of its YAML."""
    values: dict[str, Any] = {"include": str(manager.task_index[name].yaml_path), "task": name}
    place = files.place(data).resolve()
    splits = {split: place / f"{split}.jsonl" for split in ("train", "validation", "test")}
    there = {split: str(file) for split, file in splits.items() if file.exists()}
    if data.startswith("@"):
        values |= {"dataset_kwargs": {"revision": data[1:]}}
    elif there:
        values |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": there}}
    elif any(place.rglob("*.parquet")):
        values |= {"dataset_path": str(place)}
    else:
        raise UserError(
            f"--data {name}={data}: lm-eval reads a clone of the hub's repository with its Parquet files, or "
            "train.jsonl, validation.jsonl and test.jsonl with the same columns; the folder has neither"
        )
    write_atomically(folder / f"{name}.yaml", dump_yaml(values))
    return str(folder / f"{name}.yaml")


def _export(task: YamlTask, split: str, folder: Path) -> None:
    samples = task.samples(split)
    if task.grader is None:
        raise UserError(f"task {task.name} has no grader, and lm-eval no judge; choose another task")
    chats = [s.id for s in samples if len(s.prompt) != 1 or s.prompt[0].role != "user" or s.images]
    if chats:
        raise UserError(
            f"task {task.name}: {len(chats)} samples have pictures or several turns, which lm-eval's text tasks cannot "
            f"hold; first: {chats[0]!r}"
        )
    rows = [
        {
            "task": str(task.path),
            "id": s.id,
            "prompt": s.prompt[0].text,
            "reference": s.reference or "",
            "answer": s.answer or "",
            "meta": json.dumps(dict(s.meta), ensure_ascii=False),
        }
        for s in samples
    ]
    name = f"mmpu_{task.name}"
    file = folder.resolve() / f"{name}.jsonl"
    write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    sampling = task.config.sampling
    generation: dict[str, Any] = {
        "until": list(sampling.stop),
        "max_gen_toks": sampling.max_tokens,
        "do_sample": sampling.temperature > 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    values = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": generation,
        "metric_list": [{"metric": "grade", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "data_hash": digest(rows)},
    }
    # A YAML tag that only lm-eval knows, so it cannot be written as a value.
    write_atomically(folder / f"{name}.yaml", dump_yaml(values) + "process_results: !function mmpu_grade.grade\n")


@cache
def _task(name: str) -> YamlTask:
    return load_task(name)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs lm-eval ({error}); run `pip install 'mmpu[lm-eval]'`") from None
