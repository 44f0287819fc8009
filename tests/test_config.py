"""Config: what a user can get wrong is refused, by name and with a way out; what is right survives a round trip."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mmpu.config import build, dump_yaml, load_yaml, override, to_values
from mmpu.core import Engine, Sampling, UserError
from mmpu.specs import split


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.99)


@dataclass(frozen=True)
class Stage:
    name: str
    method: str | dict[str, Any]
    optim: Optim = field(default_factory=Optim)
    sampling: Sampling | None = None
    steps: int | None = None
    kind: Literal["short", "long"] = "short"


@dataclass(frozen=True)
class Run:
    run: str
    stages: tuple[Stage, ...]
    by_name: dict[str, Optim] = field(default_factory=dict[str, Optim])
    flag: bool = False


@dataclass(frozen=True)
class Wired:
    engine: Engine | None
    width: int = 1


VALUES: dict[str, Any] = {
    "run": "runs/x",
    "stages": [
        {"name": "first", "method": "sft"},
        {"name": "second", "method": {"name": "ldl_grpo", "tau": 1.0}, "optim": {"lr": 0.1}},
    ],
}


def built(*assignments: str, **values: object) -> Run:
    return build(Run, override({**VALUES, **values}, assignments), "x.yaml")


def test_values_become_dataclasses_with_their_defaults() -> None:
    assert built() == Run(
        "runs/x",
        (Stage("first", "sft"), Stage("second", {"name": "ldl_grpo", "tau": 1.0}, Optim(0.1))),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flaq": True}, "x.yaml: unknown key 'flaq'; did you mean 'flag'?"),
        ({"zzz": 1}, "x.yaml: unknown key 'zzz'; there is: by_name, flag, run, stages"),
        ({"stages": [{"name": "a", "method": "sft", "stepz": 3}]}, "x.yaml.stages.a: unknown key 'stepz'"),
        ({"stages": [{"name": "a", "method": "sft", "optim": {"rl": 3}}]}, "x.yaml.stages.a.optim: unknown key 'rl'"),
        (
            {"stages": [{"name": "a", "method": "sft", "sampling": {"temprature": 1}}]},
            "x.yaml.stages.a.sampling: unknown key 'temprature'; did you mean 'temperature'?",
        ),
        ({"by_name": {"a": {"rl": 1}}}, "x.yaml.by_name.a: unknown key 'rl'"),
    ],
)
def test_an_unknown_key_is_refused_where_it_stands(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        built(**values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("assignment", "place"),
    [
        ("flag=perhaps", "x.yaml.flag: 'perhaps'"),
        ("stages.0.steps=2.5", "x.yaml.stages.first.steps: 2.5"),
        ("stages.1.optim.lr=fast", "x.yaml.stages.second.optim.lr: 'fast'"),
        ("stages.1.optim.betas=[0.9,high]", "x.yaml.stages.second.optim.betas.1: 'high'"),
        ("stages.1.kind=middling", "x.yaml.stages.second.kind: 'middling'"),
        ("stages.1.optim=3", "x.yaml.stages.second.optim: 3"),
        ("by_name={a: {lr: slow}}", "x.yaml.by_name.a.lr: 'slow'"),
        ("run=", "x.yaml.run: None"),
        ("stages.1.sampling={temperature: -1}", "x.yaml.stages.second.sampling.temperature"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_place(assignment: str, place: str) -> None:
    with pytest.raises(UserError) as error:
        built(assignment)
    assert str(error.value).startswith(place)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"x\.yaml: the key 'stages' is missing"):
        build(Run, {"run": "r"}, "x.yaml")


def test_overrides_reach_list_items_by_index_and_by_name() -> None:
    run = built("stages.0.steps=7", "stages.second.optim.lr=0.5", "stages.1.method.tau=0.8", "flag=true")
    assert run.stages[0].steps == 7
    assert run.stages[1].optim.lr == 0.5
    assert run.stages[1].method == {"name": "ldl_grpo", "tau": 0.8}
    assert run.flag is True


def test_an_override_may_open_what_the_file_left_out_or_wrote_short() -> None:
    run = built("stages.first.sampling.max_tokens=9", "stages.first.method.weight=2", "by_name.a.lr=3")
    assert run.stages[0].sampling == Sampling(max_tokens=9)
    assert run.stages[0].method == {"name": "sft", "weight": 2}
    assert run.by_name == {"a": Optim(3.0)}


def test_overrides_leave_the_file_s_values_alone() -> None:
    before = dump_yaml(VALUES)
    override(VALUES, ["stages.0.method.x=1", "stages.1.optim.lr=9"])
    assert dump_yaml(VALUES) == before


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_scientific_notation_is_a_number_although_yaml_reads_a_string(text: str) -> None:
    assert built(f"stages.1.optim.lr={text}").stages[1].optim.lr == 1e-4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages.2.steps=1", "'stages.2', which is not there; there is: 0, 1, first, second"),
        ("stages.secnd.steps=1", "did you mean 'second'?"),
        ("stages.²=1", "which is not there"),
        ("flag.x=1", "goes through 'flag', which is a plain value"),
        ("flag", "write key.sub=value"),
        (".a=1", "write key.sub=value"),
        ("flag=[1", "not valid YAML"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override({**VALUES, "flag": False}, [assignment])


def test_a_component_is_a_name_or_a_mapping_with_one() -> None:
    assert split("sft", "method") == ("sft", {})
    assert split({"name": "ldl_grpo", "tau": 1.2}, "method") == ("ldl_grpo", {"tau": 1.2})
    for spec in ({"tau": 1.2}, 3, None, {"name": 3}):
        with pytest.raises(UserError, match="method must be a name or a mapping with a `name`"):
            split(spec, "method")


def test_wired_fields_are_no_keys() -> None:
    assert build(Wired, {"width": 2}, "x", {"engine": None, "task": "unused"}) == Wired(None, 2)
    with pytest.raises(UserError, match="x: unknown key 'engine'; there is: width"):
        build(Wired, {"engine": "openai"}, "x", {"engine": None})


def test_the_resolved_config_is_itself_a_config(tmp_path: Path) -> None:
    run = built("stages.0.sampling.stop=[a,b]", "by_name.a.lr=1e-5", "stages.1.optim.betas=[0.1]", "run='größer: 1'")
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(to_values(run)), encoding="utf-8")
    assert build(Run, load_yaml(file), "config.yaml") == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1\nb: 2", "line 2"),
        (b"- 1\n- 2", "must hold a mapping at its top level, it holds list"),
        (b"", "must hold a mapping at its top level, it holds NoneType"),
        (b"\xff\xfe\xff", "cannot read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        load_yaml(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("kind", ["tasks", "judges", "configs"])
def test_every_yaml_of_ours_parses(kind: str) -> None:
    files = sorted((Path(__file__).parent.parent / kind).rglob("*.yaml"))
    assert files
    for file in files:
        assert yaml.safe_load(dump_yaml(load_yaml(file))) == load_yaml(file)
        assert load_yaml(file).get("about"), f"{file}: listings show `about`"
