"""`mmpu.Task`: a task by its name or file, or made of rows that Python holds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mmpu import files, lent
from mmpu.api import rows as held
from mmpu.api.shown import frame, html
from mmpu.config import Values, dump_yaml
from mmpu.core import Sample, UserError, digest
from mmpu.store import write_atomically
from mmpu.task import YamlTask, load_task


class Task:
    """Prompts with what is known of their answers, in splits.

        mmpu.Task("gsm8k")
        mmpu.Task("mine.jsonl")
        mmpu.Task([{"prompt": "1+1?", "answer": "2"}], prompt=[{"user": "{{ prompt }}"}], answer="{{ answer }}",
                  grader=lambda sample, text: text.strip() == sample.answer, name="sums")

    Args:
        source: A task's name, a YAML or a file of rows, or rows: a list of mappings, a `datasets.Dataset`, a
            `pandas.DataFrame`. Rows in a known shape (messages, prompt and completion, …) need no further keys.
        name: Of a task made of rows.
        folder: Where rows are written, with a YAML and pictures beside them; default: in the user's cache, by content.
            What trains on them reads them there.
        data: Of a named task: the folder of its files, as `--data`.
        trust: Whether a task given by its path may run code.
        keys: Of a task made of rows: keys of a task's YAML (docs/tasks.md), `grader` also as a function of a sample
            and a text that returns 0 to 1, or None where it cannot grade.

    Raises:
        UserError: there is no such task, or its rows or keys will not do.
    """

    def __init__(
        self,
        source: str | Path | held.Rows,
        *,
        name: str = "rows",
        folder: str | Path | None = None,
        data: str | None = None,
        trust: bool = False,
        **keys: Any,
    ) -> None:
        if isinstance(source, str | Path):
            if keys:
                raise UserError(f"{', '.join(keys)}: keys of a task made of rows; {source} has its own")
            self.source = str(source)
        else:
            self.source = str(_written(held.listed(source), name, None if folder is None else Path(folder), keys))
        self.data = data
        self.trust = trust
        more: dict[str, Any] = {} if data is None else {"data": data}
        self.task: YamlTask = load_task(self.source, trust=trust, **more)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.task.config.splits)

    def samples(self, split: str | None = None) -> Sequence[Sample]:
        """The samples of `test` or `train[:100]`; None takes the split that the task is evaluated on."""
        return self.task.samples(split or self.evaluated)

    @property
    def evaluated(self) -> str:
        """The split that it is evaluated on."""
        own = self.task.config.evaluate
        return own if own in self.splits else self.splits[0]

    def grade(self, sample: Sample, text: str) -> float | None:
        """0 to 1, or None where it cannot be graded."""
        return self.task.grade(sample, text)

    def to_pandas(self, split: str | None = None) -> Any:
        """A row per sample: `id`, `prompt`, `images`, `reference`, `answer`."""
        return frame([_row(sample) for sample in self.samples(split)])

    def in_config(self) -> str | Values:
        """As it stands under `task:` in a config."""
        more = ({"data": self.data} if self.data else {}) | ({"trust": True} if self.trust else {})
        return {"name": self.source, **more} if more else self.source

    def __repr__(self) -> str:
        return f"Task({self.name!r}, splits {', '.join(self.splits)})"

    def _repr_html_(self) -> str:
        found = [_row(sample) for sample in self.samples(f"{self.evaluated}[:3]")]
        title = f"{self.name}: {self.task.config.about} Splits: {', '.join(self.splits)}"
        return html(title, list(found[0]), [list(row.values()) for row in found])


def _row(sample: Sample) -> dict[str, object]:
    prompt = "\n".join(f"{message.role}: {message.text}" for message in sample.prompt)
    return {
        "id": sample.id,
        "prompt": prompt,
        "images": len(sample.images),
        "reference": sample.reference,
        "answer": sample.answer,
    }


def _written(rows: Sequence[Any], name: str, folder: Path | None, keys: Values) -> Path:
    """The YAML of a task that is made of rows, beside them."""
    values: Values = {"about": f"{len(rows)} rows given in Python.", **keys, "source": f"{name}.jsonl"}
    grader = keys.get("grader")
    if callable(grader):
        values["grader"] = {"name": "function", "of": lent.lend(cast(lent.Judgement, grader))}
    if folder is None:
        with tempfile.TemporaryDirectory() as aside:
            content = digest([held.write(rows, Path(aside), name), values])
        folder = files.cache() / "tasks" / f"{files.file_name(name)}-{content}"
    held.write(rows, folder, name)
    if "prompt" not in keys and "format" not in keys:
        import yaml

        values = {**yaml.safe_load(load_task(str(folder / f"{name}.jsonl")).written), **values}
    values.setdefault("splits", {"train": "90%", "test": "10%"})
    path = folder / f"{name}.yaml"
    write_atomically(path, dump_yaml(values))
    return path
