"""Comparisons and every preset from end to end on a random student."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from endpoint import Endpoint, Reply, question, said, weighed
from mmpu.core import Group, UserError
from mmpu.methods.opsd import OPSD
from mmpu.recipes import presets, run_config
from mmpu.recipes import training as recipe
from mmpu.studies import compare
from mmpu.studies.compare import Options
from mmpu.task.yaml_task import load_task
from tiny import save

ROWS = 16
LOCAL = (
    "sft_sft",
    "singlepair_dpo",
    "anchorrank_dpo",
    "anchor_grpo",
    "self_ppo",
    "ldl_grpo",
    "dapo",
    "srpo",
    "pbsd",
    "opsd",
    "sdft",
    "lopd",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of two stages on a random student and a task that a grader of the test's own can grade."""
    folder = tmp_path_factory.mktemp("comparison")
    save("qwen2", folder / "student")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2]} for i in range(ROWS)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    anchors = [{"id": row["id"], "output": f"The answer is {row['a']}."} for row in rows]
    (folder / "anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
    (folder / "graders").mkdir()
    # A random student is never right; this grader's verdicts at least differ within a group.
    (folder / "graders" / "spelling.py").write_text(
        "from dataclasses import dataclass\n"
        "from mmpu.core import Grader\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Spelling(Grader):\n"
        "    def grade(self, sample, text):\n"
        "        return None if sample.answer is None else float(sum(map(ord, text)) % 2)\n"
    )
    task = {
        "source": "words.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": "{{ q }}"}],
        "reference": "The answer is {{ a }}.",
        "answer": "{{ a }}",
        "grader": "spelling",
        "splits": {"train": {}, "test": {"part_of": "train"}},
        "sampling": {"max_tokens": 8},
    }
    (folder / "words.yaml").write_text(yaml.safe_dump(task))
    last = {"prompts_per_step": 2, "steps": 1, "k": 3, "preflight": {"prompts": 0}, "optim": {"lr": 1e-3}}
    values: dict[str, Any] = {
        "run": str(folder / "run"),
        "student": {"model": str(folder / "student"), "device": "cpu"},
        "task": str(folder / "words.yaml"),
        "teacher": {"name": "replay", "path": "anchors.jsonl"},
        "stages": [
            {"name": "sft", "method": "sft", "split": "train[:4]", "prompts_per_step": 2, "optim": {"lr": 1e-3}},
            {"name": "last", "method": "sft", "split": "train[4:]", **last},
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder / "config.yaml"


@pytest.fixture(autouse=True)
def _plugins(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_PATH", str(config.parent))


def test_methods_share_the_start_and_the_anchors(config: Path) -> None:
    """Twelve systems, one stage I; the same command again does nothing; the teacher was asked once per prompt."""
    # A random student puts next to no probability on digits, and its grades are noise; here only their number counts.
    readable = tuple(f"{n}.scorer.min_mass=0" for n in ("anchorrank_dpo", "anchor_grpo", "ldl_grpo", "self_ppo"))
    overrides = (f"lopd.method.model={config.parent / 'student'}", *readable)
    options = Options(str(config), LOCAL, (0,), split="test", limit=6, overrides=overrides)
    said: list[str] = []
    found = compare.compare(options, said.append)
    assert [line.name for line in found.lines] == ["start", *LOCAL]
    assert found.teacher_calls == 4 + 2, "the prompts of stage I, and those of stage II once for all methods together"
    for line in found.lines:
        assert line.accuracy is not None
        assert line.accuracy.n == 6
        assert (line.gain is None) == (line.name == "start")
    ledgers = {name: json.loads((config.parent / f"run/seed-0/{name}/ledger.json").read_text()) for name in LOCAL}
    for name, anchors in (("anchorrank_dpo", 0), ("anchor_grpo", 0), ("ldl_grpo", 2), ("self_ppo", 0)):
        text = (config.parent / f"run/seed-0/{name}/groups.jsonl").read_text()
        groups = [json.loads(line) for line in text.splitlines()]
        graded = sum(bool(r["text"].strip()) for g in groups for r in g["responses"])
        assert ledgers[name]["local_eval_calls"] == graded + anchors
    assert "local_eval_calls" not in ledgers["sft_sft"]
    assert "teacher_calls" not in ledgers["self_ppo"]
    assert ledgers["pbsd"]["teacher_tokens_generated"] > 0
    metrics = {n: _metrics(config.parent / f"run/seed-0/{n}/metrics.jsonl") for n in LOCAL}
    for name in LOCAL[1:]:
        expected = {"length", "length_drift", "truncated", "entropy", "duplicates", "kl_ref", "skipped_groups"}
        assert expected <= metrics[name].keys(), name
    for name in ("anchor_grpo", "dapo", "self_ppo", "srpo"):
        assert {"clip_fraction", "score_std", "masked_candidates", "flat_groups"} <= metrics[name].keys(), name
    assert "dropped_groups" in metrics["dapo"]

    files = {p: p.stat().st_mtime_ns for p in config.parent.glob("run/seed-0/*/*") if p.suffix != ".json"}
    again = compare.compare(options, said.append)
    assert again.lines == found.lines
    assert files == {p: p.stat().st_mtime_ns for p in files}
    assert "| anchorrank_dpo |" in (config.parent / "run/comparison.md").read_text()


def test_a_model_that_judges_is_asked_once_and_what_cannot_be_read_is_counted(
    config: Path, tmp_path: Path, endpoint: Endpoint
) -> None:
    """Verdicts are kept as by `mmpu eval`; of several answers all are graded and the first is judged."""
    judge = {
        "about": "Somebody.",
        "kind": "pairwise",
        "prompt": str(ROOT / "judges/pairwise.txt"),
        "engine": {"name": "openai", "model": "somebody", "url": endpoint.url},
    }
    (tmp_path / "somebody.yaml").write_text(yaml.safe_dump(judge))
    overrides = (f"run={tmp_path / 'run'}",)
    judged = Options(str(config), ("sft_sft",), (0,), str(tmp_path / "somebody.yaml"), None, "test", 10, 2, overrides)

    def second(body: dict[str, Any]) -> bool:
        return re.search(r"yes or no [5-9]\?", question(body)) is not None

    def grumble(_: int, body: dict[str, Any]) -> Reply:
        return weighed({"A": 0.9, "B": 0.1}) if second(body) else said("Hm, hard to say")

    endpoint.answer = grumble
    start, ours = compare.compare(judged, lambda _: None).lines
    first = len(endpoint.bodies)
    unread = ours.unread
    assert 1 < unread <= 5
    assert (ours.win_rate, start.win_rate) == (None, None)
    assert set(ours.metrics) == {"avg@2", "pass@2"}
    assert ours.accuracy is not None
    assert set(ours.gains) == {"avg@2", "pass@2"}
    assert start.gains == {}
    table = (tmp_path / "run/comparison.md").read_text()
    assert "| method | accuracy % | gain over start | avg@2 % | avg@2 gain | pass@2 % | pass@2 gain |" in table
    assert f" | – | {unread} | " in table
    assert "A win rate is withheld where more than 2% of its duels could not be read." in table

    endpoint.answer = lambda _, body: weighed({"A": 0.9, "B": 0.1})
    _, ours = compare.compare(judged, lambda _: None).lines
    assert len(endpoint.bodies) == first + 2 * unread, "both orders of what could not be read"
    assert (ours.unread, ours.win_rate.value if ours.win_rate else None) == (0, 0.5)
    compare.compare(judged, lambda _: None)
    assert len(endpoint.bodies) == first + 2 * unread
    assert (tmp_path / "run/verdicts.sqlite").exists()


def _metrics(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("methods", "overrides", "message"),
    [
        (("dppo",), (), "no preset 'dppo'"),
        (("grpo", "grpo"), (), "each method once"),
        (("ldl_grpo", "lopd"), (), "lopd: .*cannot load the tokenizer"),
        (("ldl_grpo",), ("ldl_grpo.k=1",), "ldl_grpo: .*k=1"),
        (("judge_grpo",), (), "judge_grpo: no endpoint"),
        (("pbsd",), ("pbsd.method.privileged=anchor", "teacher=null"), "pbsd: .*needs anchors"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    config: Path, tmp_path: Path, methods: tuple[str, ...], overrides: tuple[str, ...], message: str
) -> None:
    options = Options(str(config), methods, (0,), overrides=(f"run={tmp_path / 'run'}", *overrides))
    with pytest.raises(UserError, match=message):
        compare.compare(options, lambda _: None)
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_every_preset_fits_and_explains_itself(config: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr("mmpu.train.shadow.check_tokenizers", lambda *_: None)
    values = yaml.safe_load(config.read_text())
    values["teacher"] = "reference"
    values["stages"] = [presets.expand({"name": "x", "preset": name, "split": "train[:4]"})]
    recipe.check_run(run_config.read(values, name))
    preset = presets.load(name)
    text = presets.explain(name)
    assert preset.source in text
    assert preset.not_given in text
    assert "needs: " in text


def test_a_stage_takes_a_preset_over_and_its_own_keys_win() -> None:
    stage = presets.expand({"name": "x", "preset": "self_ppo", "k": 4, "optim": {"lr": 1.0}})
    assert stage["method"]["name"] == "ppo"
    assert stage["scorer"] == {"name": "self_eval", "anchor": False}
    assert stage["k"] == 4
    assert stage["optim"] == {"updates": 4, "lr": 1.0}


def test_the_reader_learns_the_wording_that_teachers_use() -> None:
    """Word for word, or a student that learned one prompt would be asked another."""
    named = run_config.load(str(ROOT / "configs/compare-reader.yaml")).task
    lesson = load_task(named.name, **named.values).samples("train[:3]")
    asked = [OPSD().context(Group(sample)).prompt for sample in load_task("market").samples("train[:3]")]
    assert [sample.prompt for sample in lesson] == asked


def test_explaining_a_method_without_a_preset() -> None:
    text = presets.explain("dpo")
    assert "max_pairs: None" in text
    assert "Largest margins first" in text
    with pytest.raises(UserError, match="no preset or method"):
        presets.explain("dppo")
