"""The bundled students and tasks: small, sound, and good enough to be interesting."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from conftest import ROOT
from mmpu import plugins
from mmpu.core import Group, Response, Sampling
from mmpu.engines.hf import HF
from mmpu.media.images import fingerprint
from mmpu.scorers.self_eval import SelfEval
from mmpu.statistics import auc
from mmpu.student.loading import load_student
from mmpu.student.student_config import StudentConfig
from mmpu.task.yaml_task import load_task

PAIRS = (("tiny-text", "market"), ("tiny-vl", "shapes"))
SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize(("model", "task"), PAIRS)
def test_students_are_small_and_stand_on_their_own(model: str, task: str) -> None:
    folder = plugins.find_data("models", model)
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md"):
        assert (folder / name).exists(), name
    assert str(ROOT) not in "".join(p.read_text() for p in folder.glob("*.json"))


@pytest.mark.parametrize("task", ["market", "shapes"])
def test_splits_share_no_prompt_and_no_picture(task: str) -> None:
    found = {split: load_task(task).samples(split) for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        prompts = [{(s.prompt[0].text, *(fingerprint(i) for i in s.images)) for s in found[split]} for split in (a, b)]
        assert not prompts[0] & prompts[1]
        pictures = [{fingerprint(i) for s in found[split] for i in s.images} for split in (a, b)]
        assert not pictures[0] & pictures[1]
    assert {s: len(rows) for s, rows in found.items()} == {"train": 3000, "validation": 300, "test": 2000}
    free = sum(not s.meta["letter"] for s in found["test"]) / 2000
    assert 0.3 < free < 0.8  # both free-form and multiple choice


@pytest.mark.parametrize("task", ["market", "shapes"])
def test_the_teacher_answers_everything_and_is_right(task: str) -> None:
    loaded = load_task(task)
    lines = (ROOT / f"tasks/{task}.anchors.jsonl").read_text().splitlines()
    anchors = {row["id"]: row["output"] for row in map(json.loads, lines)}
    for split in ("train", "validation"):
        for sample in loaded.samples(split):
            assert loaded.grade(sample, anchors[sample.id]) == 1.0, (sample.id, anchors[sample.id])
    for sample in loaded.samples("test"):
        assert loaded.grade(sample, sample.reference or "") == 1.0


@pytest.mark.parametrize("task", ["market", "shapes"])
def test_rows_are_the_same_every_time(task: str) -> None:
    module = plugins.load_module(ROOT / f"tasks/{task}.py")
    first, second = (next(iter(module.rows("test"))) for _ in range(2))
    assert {k: v for k, v in first.items() if k != "image"} == {k: v for k, v in second.items() if k != "image"}
    if "image" in first:
        assert first["image"].tobytes() == second["image"].tobytes()


@pytest.mark.parametrize(("model", "task"), PAIRS)
def test_students_know_something_and_grade_what_they_do_not_know(model: str, task: str) -> None:
    """On held-out items: some answers right, some wrong, and self-evaluation tells which (AUC at least 0.8)."""
    student = load_student(StudentConfig(model, device="cpu"))
    loaded = load_task(task)
    samples = loaded.samples("test[:150]")
    answers = HF(student).generate(samples, 2, Sampling(max_tokens=24))
    groups = [Group(s, s.reference, tuple(rs)) for s, rs in zip(samples, answers, strict=True)]
    scores = SelfEval(HF(student)).score(groups)
    graded = [
        (score, loaded.grade(g.sample, r.text))
        for g, each in zip(groups, scores, strict=True)
        for r, score in zip(g.responses, each, strict=True)
    ]
    right = sum(grade or 0 for _, grade in graded) / len(graded)
    assert 0.15 < right < 0.75
    assert auc([s for s, g in graded if g], [s for s, g in graded if not g]) >= 0.8
    assert sum(r.finished for g in groups for r in g.responses) > 0.95 * len(graded)
    assert all(isinstance(r, Response) for g in groups for r in g.responses)


def test_models_are_found_by_name() -> None:
    assert {"tiny-text", "tiny-vl"} <= set(plugins.data("models"))
    assert isinstance(plugins.find_data("models", "tiny-vl"), Path)
