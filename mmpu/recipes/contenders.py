"""Who answers in an evaluation: a run, a stage or a model, in process or in vLLM; an endpoint; any engine by its YAML;
recorded answers.

    runs/vl    LABEL=vllm:runs/vl    LABEL=openai:MODEL@URL    LABEL=engine.yaml    answers.jsonl    reference

What does not answer in this process is kept in a store beside the boards, under engine, weights, prompt and sampling:
an answer is asked for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpu.config import Values, load_yaml
from mmpu.core import Engine, Sample, Sampling, UserError
from mmpu.engines.cached import Cached
from mmpu.files import file_name
from mmpu.recipes import runs, wiring
from mmpu.recipes.collecting import Collection
from mmpu.specs import Spec, split
from mmpu.store import Ledger, Store
from mmpu.task import YamlTask

if TYPE_CHECKING:
    from mmpu.evaluation import Contender

STORE, LEDGER = "answers.sqlite", "answers.ledger.json"
YAML = (".yaml", ".yml")
WEIGHTS = ("hf", "vllm")
"""Engines that answer with the weights of a run, a stage or a model."""
ALONE = {"memory": 0.9}
"""Keys of vLLM where nothing is trained beside it."""


@dataclass(frozen=True)
class Contenders:
    """Makes them."""

    task: YamlTask
    folder: Path
    """Where boards go, and answers with them."""
    engine: str = "hf"
    """Of runs, stages and models: `hf`, `vllm`, or a YAML file with the keys of one."""
    trust: bool = False
    """As for `runs.as_trained`."""
    asks: bool = True
    """False where nothing is to be asked or written."""

    def __call__(self, label: str, target: str) -> Contender:
        """Who answers under a label.

        Raises:
            UserError: there is no such system, or its engine cannot answer.
        """
        path, (kind, colon, rest) = Path(target).expanduser(), target.partition(":")
        if path.suffix in YAML and path.is_file():
            return self._configured(label, path)
        if colon and kind == "openai" and not path.exists():
            return self._served(label, rest)
        keys = self._keys
        if colon and kind in WEIGHTS and not path.exists():
            keys, target = (keys if keys["name"] == kind else {"name": kind}), rest
        return self._weights(label, target, keys)

    @staticmethod
    def elsewhere(target: str) -> bool:
        """Whether a target's answers come from an endpoint or an engine without weights of ours."""
        path = Path(target).expanduser()
        if path.suffix in YAML and path.is_file():
            return split(load_yaml(path), str(path))[0] not in WEIGHTS
        return target.startswith("openai:") and not path.exists()

    def price(self, label: str, target: str, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[str]:
        """What is still to be asked of such a target, and what it costs, in words; nothing if nothing is."""
        engine = self(label, target).engine
        if not isinstance(engine, Cached) or not engine.missing(samples, n, sampling):
            return []
        asked = Collection(samples, n, sampling, engine, self.folder)
        return [f"system            {label}", *asked.preview().splitlines(), ""]

    @cached_property
    def _keys(self) -> Values:
        """Of the engine of runs, stages and models.

        Raises:
            UserError: it is none that takes their weights.
        """
        file = Path(self.engine)
        name, values = split(load_yaml(file) if file.suffix in YAML else self.engine, "--engine")
        if name not in WEIGHTS:
            raise UserError(
                f"--engine {self.engine}: runs and models are answered for by hf or vllm; an endpoint is a system of "
                "its own, LABEL=openai:MODEL@URL, and any other engine LABEL=engine.yaml"
            )
        return {"name": name, **values}

    def _weights(self, label: str, target: str, keys: Values) -> Contender:
        if keys["name"] == "hf" or runs.is_recorded(target):
            return runs.contender(label, target, trust=self.trust)
        spec = Spec[Engine].read({**ALONE, **keys}, f"{label}: engine", Engine)
        # The student reads prompts for vLLM; its weights go there.
        found = runs.contender(label, target, trust=self.trust, held={"device": "cpu", "device_map": None})
        place = self.folder / f".{file_name(label)}.vllm"
        engine = wiring.engine(spec, self.task, student=student_of(found.engine), folder=place)
        return replace(found, engine=self._kept(engine, found.weights))

    def _served(self, label: str, target: str) -> Contender:
        model, _, url = target.partition("@")
        if not model:
            raise UserError(f"{label}: openai:{target} names no model; write {label}=openai:MODEL@URL")
        return self._asked(label, model, {"name": "openai", "model": model, "url": url or None})

    def _configured(self, label: str, path: Path) -> Contender:
        values = load_yaml(path)
        name, keys = split(values, str(path))
        if name in WEIGHTS:
            model = str(keys.pop("model", ""))
            if not model:
                raise UserError(f"{path}: {name} needs `model`, a run, a stage or a model")
            return self._weights(label, model, {"name": name, **keys})
        return self._asked(label, str(values.get("model", path.stem)), values)

    def _asked(self, label: str, model: str, values: Any) -> Contender:
        from mmpu.evaluation import Contender

        engine = wiring.engine(Spec[Engine].read(values, f"{label}: engine", Engine), self.task)
        return Contender(label, model, self._kept(engine, ""), f"{values['name']}:{model}")

    def _kept(self, engine: Engine, weights: str) -> Cached:
        return Cached(engine, self._store, self._ledger, "answers", weights)

    @cached_property
    def _store(self) -> Store:
        path = self.folder / STORE
        return Store(path if self.asks or path.exists() else Path(":memory:"))

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.folder / LEDGER, at_once=self.asks)


def student_of(engine: Engine) -> Any:
    """The student whose weights answer; None where there is none."""
    return getattr(engine.engine if isinstance(engine, Cached) else engine, "student", None)
