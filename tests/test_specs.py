"""Components in configs: read once, by name and keys, and made of what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmpu.config import build, dump_yaml, load_yaml, to_values
from mmpu.core import Engine, Grader, Scorer, UserError
from mmpu.engines.replay import Replay
from mmpu.graders.exact import Exact
from mmpu.learning import Method
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.recipes.wiring import Source
from mmpu.scorers.mix import Mix
from mmpu.scorers.rule import Rule
from mmpu.scorers.scalar_judge import ScalarJudge
from mmpu.specs import Named, Spec
from mmpu.task.yaml_task import load_task


@dataclass(frozen=True)
class Stage:
    name: str
    method: Spec[Method]
    scorer: Spec[Scorer] | None = None


@dataclass(frozen=True)
class Run:
    task: Named
    stages: tuple[Stage, ...]
    teacher: Source | None = None
    rollout: Spec[Engine] = field(default_factory=lambda: Spec[Engine].read("hf", "rollout", Engine))


MIX: dict[str, Any] = {
    "name": "mix",
    "scorers": ["rule", {"name": "scalar_judge", "judge": {"name": "replay", "path": "said.jsonl"}}],
    "weights": [1, 3],
}
VALUES: dict[str, Any] = {
    "task": {"name": "market", "data": "elsewhere"},
    "stages": [
        {"name": "first", "method": "sft", "scorer": None},
        {"name": "second", "method": {"name": "ldl_grpo", "label_tau": "0.5"}, "scorer": MIX},
    ],
    "teacher": {"engine": "replay", "path": "answers.jsonl", "fallback": {"name": "hf"}},
    "rollout": "hf",
}


def read(**changes: Any) -> Run:
    return build(Run, {**VALUES, **changes}, "x.yaml")


def test_a_config_holds_classes_and_checked_values() -> None:
    run = read()
    assert (run.task.name, run.task.values) == ("market", {"data": "elsewhere"})
    first, second = run.stages
    assert first.scorer is None
    assert second.method.cls is LDLGRPO
    assert second.method.make({}) == LDLGRPO(label_tau=0.5)
    assert second.scorer is not None
    rule, judge = second.scorer.parts["scorers"]
    assert (second.scorer.cls, rule.cls, judge.cls) == (Mix, Rule, ScalarJudge)
    assert judge.parts["judge"].values == {"path": "said.jsonl"}
    assert run.teacher is not None
    assert run.teacher.engine is not None
    assert (run.teacher.engine.cls, list(run.teacher.engine.parts)) == (Replay, ["fallback"])


def test_what_was_written_is_written_again(tmp_path: Path) -> None:
    """A run's folder holds its config; the same command must find it equal."""
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(to_values(read())), encoding="utf-8")
    assert load_yaml(file) == VALUES
    assert build(Run, load_yaml(file), "x.yaml") == read()


def test_a_source_is_an_engine_or_somebody_s_weights() -> None:
    source = Source.read({"name": "hf", "model": "runs/x"}, "teacher")
    assert (source.engine, source.model) == (None, "runs/x")
    for written, got in (("hf", "none"), ({"name": "hf", "rows": 3}, "rows")):
        with pytest.raises(UserError, match=f"teacher hf: takes one key, `model`, .*; got {got}"):
            Source.read(written, "teacher")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"method": {"name": "ldl_grpo", "tau": 1}}, "x.yaml.stages.b.method: unknown key 'tau'; did you mean"),
        ({"method": {"name": "ldl_grpo", "label_tau": "x"}}, "x.yaml.stages.b.method.label_tau: 'x' will not do"),
        ({"method": "ldl_grop"}, "no method 'ldl_grop' on the search path; did you mean 'ldl_grpo'"),
        ({"method": None}, "x.yaml.stages.b.method must be a name or a mapping with a `name`, got None"),
        ({"method": "sft", "scorer": {"tau": 1}}, "x.yaml.stages.b.scorer must be a name or a mapping"),
        (
            {"method": "sft", "scorer": {"name": "scalar_judge", "judge": {"name": "openai", "modle": "x"}}},
            "x.yaml.stages.b.scorer.judge openai: unknown key 'modle'; did you mean 'model'",
        ),
        (
            {"method": "sft", "scorer": {"name": "mix", "scorers": "rule"}},
            "x.yaml.stages.b.scorer.scorers must be a list of scorers, got 'rule'",
        ),
        (
            {"method": "sft", "scorer": {**MIX, "scorers": ["rule", {"name": "rule", "x": 1}]}},
            "x.yaml.stages.b.scorer.scorers.1: unknown key 'x'",
        ),
        ({"method": "sft", "scorer": {"name": "rule", "task": "gsm8k"}}, "x.yaml.stages.b.scorer: unknown key 'task'"),
    ],
)
def test_a_mistake_is_named_where_it_stands(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(stages=[{"name": "b", **stage}])
    assert str(error.value).startswith(message)


def test_what_is_provided_is_no_key_and_what_is_missing_is_named() -> None:
    spec = Spec[Engine].read({"name": "vllm_server", "folder": "x"}, "rollout", Engine)
    with pytest.raises(UserError, match=r"rollout vllm_server: unknown key 'folder'; there is: .*url"):
        spec.make({"student": None, "folder": Path("y")})
    with pytest.raises(UserError, match="rollout vllm_server: the key 'student' is missing"):
        Spec[Engine].read("vllm_server", "rollout", Engine).make({"folder": Path("y")})


def test_a_grader_is_made_as_its_task_says(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("about: x\nsource: t.jsonl\nprompt: [user: q]\ngrader: exact\n")
    task = load_task(str(tmp_path / "t.yaml"))
    assert isinstance(task.grader, Grader)
    assert task.grader == Exact()
    with pytest.raises(UserError, match=r"t\.yaml\.grader: unknown key 'kase'"):
        load_task(str(tmp_path / "t.yaml"), grader={"name": "exact", "kase": True})
