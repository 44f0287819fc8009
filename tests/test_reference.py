"""The reference of a config's keys is what the classes say, for people and for editors; a config to begin with runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mmpu.cli.main import main
from mmpu.config import to_values
from mmpu.recipes import reference, run_config, schema
from mmpu.recipes.dry_run import parameters
from mmpu.recipes.resolved import resolved
from mmpu.student import StudentConfig, load_student

ROOT = Path(__file__).parent.parent
FLAGS = ["--student", "tiny-text", "--task", "market", "--teacher", "reference", "--method", "ldl_grpo", "--run", "r"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sections() -> list[reference.Section]:
    return list(reference.sections(own=True))


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return schema.schema()


def faults(value: Any, part: dict[str, Any], whole: dict[str, Any], where: str = "") -> list[str]:
    """What of JSON Schema 2020-12 the schema uses, as editors read it; any other word in it is a KeyError."""
    kinds = {"string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "object": dict}
    kinds["null"] = type(None)
    bounds = {"minimum": "__ge__", "exclusiveMinimum": "__gt__", "maximum": "__le__", "exclusiveMaximum": "__lt__"}
    found: list[str] = []
    for word, said in part.items():
        if word == "$ref":
            found += faults(value, whole["$defs"][said.removeprefix("#/$defs/")], whole, where)
        elif word == "anyOf":
            found += [] if any(not faults(value, each, whole, where) for each in said) else [f"{where}: none of anyOf"]
        elif word == "type":
            right = isinstance(value, kinds[said]) and (said == "boolean" or not isinstance(value, bool))
            found += [] if right else [f"{where}: no {said}"]
        elif word in ("enum", "const"):
            found += [] if value in (said if word == "enum" else [said]) else [f"{where}: {value!r}"]
        elif word in bounds and isinstance(value, int | float):
            found += [] if getattr(float(value), bounds[word])(float(said)) else [f"{where}: {word}"]
        elif word == "properties" and isinstance(value, dict):
            known = {key: item for key, item in value.items() if key in said}
            found += [each for key, item in known.items() for each in faults(item, said[key], whole, f"{where}.{key}")]
        elif word == "additionalProperties" and isinstance(value, dict):
            found += [f"{where}: {key}" for key in value if key not in part["properties"]]
        elif word == "required" and isinstance(value, dict):
            found += [f"{where}: no {key}" for key in said if key not in value]
        elif word == "items" and isinstance(value, list):
            found += [each for i, item in enumerate(value) for each in faults(item, said, whole, f"{where}.{i}")]
        elif word not in (*bounds, "properties", "additionalProperties", "required", "items"):
            assert word in ("$schema", "$defs", "title", "description"), word
    return found


def test_the_document_is_what_the_command_prints(sections: list[reference.Section]) -> None:
    """`mmpu config --format markdown > docs/config.md`."""
    assert (ROOT / "docs/config.md").read_text(encoding="utf-8") == reference.markdown(sections)


def test_every_key_is_there_with_a_line_of_its_own(sections: list[reference.Section]) -> None:
    found = {section.key: {knob.name: knob for knob in section.knobs} for section in sections}
    assert {"", "student", "student.lora", "stages[]", "stages[].optim", "method: ldl_grpo", "engine: openai"} <= set(
        found
    )
    assert set(found["student"]) == set(to_values(StudentConfig("x")))
    assert not [(section, name) for section, knobs in found.items() for name, knob in knobs.items() if not knob.about]
    lr = found["stages[].optim"]["lr"]
    assert (lr.kind, lr.default, lr.bounds, lr.free) == ("number", "1e-06", "above 0 and at most 1", False)
    assert found["stages[].optim"]["tokens_per_pass"].free
    assert found["stages[]"]["method"].kind == "method"
    assert found["stages[]"]["split"].default == "required"
    assert found["engine: openai"]["url"].kind == "text or null"
    assert "student" not in found["engine: hf"], "it is given"


def test_the_command_finds_a_part_and_names_the_nearest(folder: Path) -> None:
    done = CliRunner().invoke(main, ["config", "lora"])
    assert done.output.startswith("student.lora: Low-rank adapters")
    wrong = CliRunner().invoke(main, ["config", "optm"])
    assert (wrong.exit_code, "did you mean 'optim'?" in wrong.stderr) == (2, True)


def test_editors_accept_our_configs_and_refuse_what_is_refused(whole: dict[str, Any]) -> None:
    ours = list((ROOT / "configs").glob("*.yaml"))
    assert len(ours) >= 5
    for path in ours:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert faults(values, whole, whole, path.name) == []
    run = run_config.load("quickstart-text")
    samplings = [stage.sampling or run.teacher_sampling for stage in run.stages]
    plain = json.loads(json.dumps(resolved(run, samplings)))
    assert faults(plain, whole, whole) == [], "with every default written out"
    good = yaml.safe_load((ROOT / "configs/quickstart-text.yaml").read_text(encoding="utf-8"))
    for wrong in (
        {**good, "seeed": 1},
        {**good, "seed": -1},
        {**good, "student": {"model": "x", "dtype": "float8"}},
        {**good, "stages": [{**good["stages"][0], "method": "sfft"}]},
        {**good, "stages": [{**good["stages"][0], "method": {"name": "ldl_grpo", "tau": 1}}]},
        {**good, "stages": [{**good["stages"][0], "optim": {"lr": 2}}]},
    ):
        assert faults(wrong, whole, whole)


def test_a_config_to_begin_with_runs(folder: Path, whole: dict[str, Any]) -> None:
    done = CliRunner().invoke(main, ["init", *FLAGS])
    assert done.exit_code == 0, done.output
    assert done.output == "written: mmpu.yaml, mmpu.schema.json. Next: mmpu train mmpu.yaml --dry-run\n"
    text = Path("mmpu.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=mmpu.schema.json\n")
    assert faults(yaml.safe_load(text), whole, whole) == []
    assert json.loads(Path("mmpu.schema.json").read_text()) == whole
    again = CliRunner().invoke(main, ["init", *FLAGS])
    assert (again.exit_code, "mmpu.yaml exists" in again.stderr) == (2, True)

    dry = CliRunner().invoke(main, ["train", "mmpu.yaml", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    size = parameters("tiny-text")
    assert "stage sft: 1,500 prompts of about 18 tokens, 47 steps of 32\n" in dry.stdout
    assert f"47 steps of 32; {47 * 32 * 8:,} responses sampled, {47 * 32 * 8 * 24:,} tokens at most" in dry.stdout
    assert "teacher: 3,000 answers are recorded" in dry.stdout
    assert f"memory: {size:,} parameters, 0.01 GiB for weights, gradients and AdamW of all" in dry.stdout
    assert not Path("r").exists(), "nothing was begun"
    assert size == sum(weight.numel() for weight in load_student(StudentConfig("tiny-text")).parameters())


def test_questions_are_asked_where_flags_are_missing_and_what_cannot_run_is_not_written(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(
        '{"prompt": "1+1?", "completion": "2"}\n' * 1 + '{"prompt": "?", "completion": "!"}\n'
    )
    asked = CliRunner().invoke(main, ["init"], input="tiny-text\nrows.jsonl\n\nsft\nruns/q\n")
    assert asked.exit_code == 0, asked.output
    assert asked.output.count("]: ") == 5
    values = yaml.safe_load(Path("mmpu.yaml").read_text())
    assert (values["task"], values["teacher"], [stage["split"] for stage in values["stages"]]) == (
        "rows.jsonl",
        "reference",
        ["train"],
    )
    wrong = CliRunner().invoke(main, ["init", *FLAGS, "--task", "markt", "--method", "sft", "--out", "b.yaml"])
    assert (wrong.exit_code, "no task 'markt'" in wrong.stderr, Path("b.yaml").exists()) == (2, True, False)


def test_an_endpoint_as_a_teacher_is_priced_by_its_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    flags = [*FLAGS, "--teacher", "http://localhost:9/v1=big", "--method", "sft"]
    assert CliRunner().invoke(main, ["init", *flags]).exit_code == 0
    assert yaml.safe_load(Path("mmpu.yaml").read_text())["teacher"] == {
        "name": "openai",
        "model": "big",
        "url": "http://localhost:9/v1",
    }
    words = ["train", "mmpu.yaml", "--dry-run", "stages.sft.split=train[:10]", "teacher.price={input: 1000, output: 0}"]
    dry = CliRunner().invoke(main, words)
    assert dry.exit_code == 0, dry.output
    assert "teacher: 10 calls (0 answers are stored), about 178 tokens in" in dry.stdout
    assert "20,480 out at most; 0.18 at most" in dry.stdout
