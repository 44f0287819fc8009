"""`mmpu.generate` and `mmpu.Answers`: what models say to prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpu.api.shown import frame, html
from mmpu.api.task import Task
from mmpu.core import Failed, Response, Sample, UserError, user
from mmpu.files import file_name
from mmpu.recipes import collecting
from mmpu.store import write_atomically


@dataclass(frozen=True)
class Answers:
    """Answers to samples, in their order."""

    samples: Sequence[Sample]
    responses: Sequence[tuple[Response, ...] | Failed]
    """All answers to each sample, or why there is none."""

    @property
    def texts(self) -> list[str | None]:
        """The first answer to each sample, without its thinking; None where there is none."""
        return [None if isinstance(each, Failed) or not each else each[0].text for each in self.responses]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.texts)

    def save(self, path: str | Path) -> Path:
        """Writes the JSONL that `replay` and `mmpu eval` read; samples without an answer are left out."""
        pairs = zip(self.samples, self.responses, strict=True)
        rows = [{"id": s.id, **collecting.recorded(each)} for s, each in pairs if not isinstance(each, Failed)]
        write_atomically(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return Path(path)

    def to_pandas(self) -> Any:
        """A row per answer: `id`, `prompt`, `answer`, `text`, `finished`, `failed`."""
        return frame(self._rows())

    def _rows(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for sample, each in zip(self.samples, self.responses, strict=True):
            known: dict[str, object] = {"id": sample.id, "prompt": sample.prompt[-1].text, "answer": sample.answer}
            if isinstance(each, Failed):
                rows.append({**known, "text": None, "finished": False, "failed": each.reason})
            else:
                rows += [{**known, "text": r.text, "finished": r.finished, "failed": None} for r in each]
        return rows

    def _repr_html_(self) -> str:
        rows = self._rows()
        names = ("prompt", "text", "answer")
        return html(f"{len(self)} prompts", names, [[row[name] for name in names] for row in rows])


def prompts_of(prompts: Sequence[str | Sample] | Task, split: str | None = None) -> Sequence[Sample]:
    """Samples of what stands for them."""
    if isinstance(prompts, Task):
        return prompts.samples(split)
    if isinstance(prompts, str):
        raise UserError("give a list of prompts, or a task; one prompt is [prompt]")
    return [
        prompt if isinstance(prompt, Sample) else Sample(f"prompt-{number}", user(prompt))
        for number, prompt in enumerate(prompts, 1)
    ]


def generate(
    task: Task | str,
    engine: str | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    n: int = 1,
    store: str | Path | None = None,
    **sampling: Any,
) -> Answers:
    """An engine's answers to a task, kept in a store as they come: the same call resumes and pays for nothing twice.

    Args:
        task: A task, or its name or file.
        engine: An engine's name or YAML, or its keys: `{"name": "openai", "model": …, "url": …}`,
            `{"name": "hf", "model": RUN}`.
        out: The JSONL of the answers; default: `answers/<task>.<split>.jsonl`.
        split: `train`, `test[:100]`; None takes the one that the task is evaluated on.
        limit: First so many prompts only.
        n: Answers to each prompt.
        store: Where answers are kept; default: `store.sqlite` beside `out`.
        sampling: `temperature`, `top_p`, `max_tokens` (tokens of an answer), `seed`; else the task's own.

    Raises:
        UserError: as `mmpu generate`. Prompts that got no answer are in the result, with the reason.
    """
    from mmpu.engines.replay import Replay

    found = task if isinstance(task, Task) else Task(task)
    chosen = split or found.evaluated
    file = Path(out) if out is not None else Path("answers") / f"{file_name(f'{found.name}.{chosen}')}.jsonl"
    keys = {"name": engine} if isinstance(engine, str) else dict(engine)
    settings = tuple(f"{key}={json.dumps(value)}" for key, value in keys.items() if key != "name")
    options = collecting.GenerateOptions(
        found.source,
        str(keys["name"]),
        settings,
        file,
        chosen,
        limit,
        n,
        sampling,
        None if store is None else Path(store),
        found.data or (),
        found.trust,
    )
    collection = collecting.collection(options)
    report = collecting.run(collection)
    answered = Replay(str(file)).generate(collection.samples, n, collection.sampling)
    if report.failed:
        print(report.text)
    return Answers(collection.samples, answered)
