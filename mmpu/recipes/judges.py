"""A judge from its YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmpu import plugins
from mmpu.config import Values, build, load_yaml
from mmpu.core import Engine, UserError
from mmpu.duel import Judge
from mmpu.recipes import wiring
from mmpu.specs import Spec, spec_of, split
from mmpu.task import YamlTask

if TYPE_CHECKING:
    from mmpu.judging import Prices


@dataclass(frozen=True)
class JudgeConfig:
    """A judge YAML, read but for what a task may replace."""

    path: Path
    kind: str
    values: Values
    """Keys of the judge's class."""
    prices: Prices | None

    def make(self, task: YamlTask, url: str | None = None, concurrency: int | None = None) -> Judge:
        """The judge, with the task's own prompt for that kind of judge if it has one; `url` and `concurrency` replace
        its engine's, whose endpoint must be known before anything runs."""
        values, where = {"name": self.path.stem, **self.values}, str(self.path)
        if "engine" in values:
            name, keys = split(values["engine"], f"{where}: engine")
            given = {"url": url, "concurrency": concurrency}
            values["engine"] = {"name": name, **keys, **{key: value for key, value in given.items() if value}}
        if "prompt" in values:
            values["prompt"] = str(self._prompt(task) or plugins.beside(self.path, str(values["prompt"])))
        spec = spec_of(Judge, self.kind, values, where)
        parts = {name: wiring.engine(cast(Spec[Engine], part), task) for name, part in spec.parts.items()}
        return spec.make({"task": task, **parts})

    def _prompt(self, task: YamlTask) -> Path | None:
        """The prompt that a task has for judges of this kind."""
        prompts = task.config.judge_prompts
        for known in prompts:
            plugins.find_class("judges", known, Judge)
        if self.kind not in prompts:
            return None
        folder = task.path.parent.resolve()
        prompt = (folder / prompts[self.kind]).resolve()
        if not prompt.is_relative_to(folder):
            raise UserError(
                f"{task.path}: `judge_prompts.{self.kind}` leaves the task's folder; put {prompt.name} beside it"
            )
        return prompt


@dataclass(frozen=True)
class _Keys:
    """The keys of a judge YAML besides those of its class."""

    about: str
    kind: str
    prices: Mapping[str, Any] | None = None
    """A price list: see `judging.economy.Prices`."""


def read_judge(name: str) -> JudgeConfig:
    """A judge's YAML by its name or path."""
    from mmpu.judging import Prices

    path = plugins.find_data("judges", name)
    values = load_yaml(path)
    own = build(_Keys, {k: values.pop(k) for k in ("about", "kind", "prices") if k in values}, str(path))
    return JudgeConfig(path, own.kind, values, build(Prices, own.prices, f"{path}: prices") if own.prices else None)
