"""`mmpu.Student`: a model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpu.api.answers import Answers, prompts_of
from mmpu.api.task import Task
from mmpu.config import build, replaced
from mmpu.core import Sample, Sampling, UserError
from mmpu.recipes import runs

if TYPE_CHECKING:
    from mmpu.student import Student as Loaded


class Student:
    """A bundled model, a folder, a stage or a run, or a model of the hub.

        mmpu.Student("tiny-text").generate(["1+1?"], max_tokens=16).texts

    Args:
        model: As under `student.model` in a config, or a run's folder (its last finished stage).
        trust: Whether Python that comes with a run's model may run, where its config says so.
        options: Keys of `student:` in a config, such as `dtype="bfloat16"`.

    Raises:
        UserError: on first use, if the model cannot be loaded or is computed wrong.
    """

    def __init__(self, model: str | Path, *, trust: bool = False, **options: Any) -> None:
        self.model = str(model)
        self.options = options
        self.trust = trust

    @cached_property
    def loaded(self) -> Loaded:
        """The model itself, loaded and checked when it is first asked for."""
        from mmpu.student import StudentConfig, load_student

        values = {**runs.held(self.model, trust=self.trust), **self.options}
        return load_student(build(StudentConfig, values, "Student"))

    def generate(
        self, prompts: Sequence[str | Sample] | Task, *, split: str | None = None, n: int = 1, **sampling: Any
    ) -> Answers:
        """Answers of the model as it is; nothing is kept on the disk.

        Args:
            prompts: Texts of a user, samples, or a task.
            split: Of a task, `test` or `test[:20]`; None takes the one that it is evaluated on.
            n: Answers to each prompt.
            sampling: `temperature`, `top_p`, `max_tokens` (tokens of an answer), `seed`, …; else the task's own.
        """
        from mmpu.engines.hf import HF

        own = prompts.task.config.sampling if isinstance(prompts, Task) else Sampling()
        samples = prompts_of(prompts, split)
        return Answers(samples, HF(self.loaded).generate(samples, n, replaced(own, sampling, "generate")))

    def export(self, folder: str | Path) -> Path:
        """Writes the merged weights as a folder that transformers and vLLM load."""
        if Path(folder).exists():
            raise UserError(f"{folder} exists; choose another folder")
        runs.export(self.model, Path(folder), trust=self.trust)
        return Path(folder)

    def __repr__(self) -> str:
        return f"Student({self.model!r})"
