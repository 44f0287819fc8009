"""What people have: pretrained models with real vocabularies, templates and distributions, through the whole of mmpu.

They are not part of the project: `python scripts/real_models.py FOLDER` fetches two, and MMPU_REAL_MODELS=FOLDER names
where they, or any others (GGUF files, folders), lie. Without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from mmpu.core import Group, Response, Sampling, UserError
from mmpu.engines.hf import HF
from mmpu.recipes import doctor, training
from mmpu.scorers.self_eval import SelfEval
from mmpu.student import Student, StudentConfig, load_student
from mmpu.student.gguf import place
from tiny import sample

HOME = os.environ.get("MMPU_REAL_MODELS")
MODELS = sorted(p for p in Path(HOME).iterdir() if p.suffix == ".gguf" or (p / "config.json").exists()) if HOME else []
QUESTIONS = ("What is 2 + 3?", "Name a colour of the sky.", "How many days has a week?", "What do cows drink?")
ANSWERS = ("2 + 3 is 5.", "The sky is blue.", "A week has 7 days.", "Cows drink water.")


def test_a_file_without_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'mmpu\[gguf\]'"):
        place(str(file))
    assert place(str(tmp_path)) == (str(tmp_path), {})


@pytest.fixture(scope="module", params=MODELS or ["none"], ids=lambda path: Path(str(path)).stem)
def model(request: pytest.FixtureRequest) -> Path:
    if HOME is None:
        pytest.skip("MMPU_REAL_MODELS names no folder of pretrained models; scripts/real_models.py fetches some")
    if not MODELS:
        pytest.skip(f"MMPU_REAL_MODELS={HOME} holds no GGUF file and no model's folder")
    if request.param.suffix == ".gguf" and importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf, which reads GGUF files, is not installed")
    return request.param


@pytest.fixture(scope="module")
def student(model: Path) -> Student:
    return load_student(StudentConfig(str(model), device="cpu"))


def test_the_doctor_finds_nothing(model: Path) -> None:
    failed = [check for check in doctor.examine(StudentConfig(str(model), device="cpu")) if not check.passed]
    assert not [check for check in failed if check.name != "options are single tokens"]


def test_rollouts_and_scores(student: Student) -> None:
    """Samples end as the template ends a turn; every way of reading gives a score in [0, 1] or says why not, and an
    anchor recalls itself better than another's answer does."""
    engine = HF(student)
    samples = [sample(f"q{i}", question) for i, question in enumerate(QUESTIONS)]
    drawn = engine.generate(samples, 2, Sampling(max_tokens=24, temperature=0.0))
    assert all(isinstance(each, tuple) and each[0].text.strip() for each in drawn)
    groups = [
        Group(s, anchor, (Response(anchor), Response(ANSWERS[i - 1])))
        for i, (s, anchor) in enumerate(zip(samples, ANSWERS, strict=True))
    ]
    for name, reader in SelfEval(engine, min_mass=0.0).readings(groups[2:]).items():
        reads = [read for of_group in reader.reads(groups[:2]) for read in of_group]
        assert all(0 <= read.score <= 1 for read in reads), name
        if name == "recall":
            assert reads[0].score > reads[1].score
            assert reads[2].score > reads[3].score


def test_an_update_and_an_export(model: Path, tmp_path: Path) -> None:
    """A step of SFT and of LDL-GRPO on LoRA, then weights that transformers loads and that answer as the run does."""
    task = tmp_path / "words.yaml"
    rows = "\n".join(
        f'{{"id": "q{i}", "question": "{q}", "answer": "{a}"}}'
        for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    )
    (tmp_path / "words.jsonl").write_text(rows + "\n")
    (tmp_path / "test.jsonl").write_text('{"id": "t", "question": "What is 1 + 1?", "answer": "2"}\n')
    task.write_text(
        'prompt: [{user: "{{ question }}"}]\nid: "{{ id }}"\nreference: "{{ answer }}"\n'
        "splits: {train: {source: words.jsonl}, test: {source: test.jsonl}}\nsampling: {max_tokens: 8}\n"
    )
    config = tmp_path / "run.yaml"
    config.write_text(
        f"run: {tmp_path / 'run'}\nstudent: {{model: {model}, device: cpu, lora: {{r: 4, alpha: 8}}}}\n"
        f"task: {task}\nteacher: reference\nstages:\n"
        "  - {name: sft, method: sft, split: train, prompts_per_step: 2, steps: 1}\n"
        "  - {name: ldl, method: {name: ldl_grpo, form: ratio}, scorer: {name: self_eval, mode: recall},\n"
        "     split: train, k: 2, prompts_per_step: 2, steps: 1, preflight: {prompts: 0}}\n"
    )
    run = training.train(str(config))
    from mmpu.recipes import runs

    runs.export(str(run), tmp_path / "exported")
    again = load_student(StudentConfig(str(tmp_path / "exported"), device="cpu"))
    trained = load_student(StudentConfig(str(run / "1-ldl"), device="cpu"))
    prompt = sample("q", QUESTIONS[0])
    asked = ([prompt], [Response(ANSWERS[0])])
    found = [HF(each).likelihoods(*asked)[0].logp for each in (again, trained)]
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert math.isfinite(found[0])
    assert torch.is_tensor(again.head.weight_VH)


def test_the_script_names_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mmpu import plugins

    script = plugins.load_module(ROOT / "scripts/real_models.py")
    monkeypatch.setattr(sys, "argv", ["real_models.py", "folder", "gpt-9"])
    with pytest.raises(SystemExit):
        script.main()
    assert "no model gpt-9; there are smollm2-135m" in capsys.readouterr().err
    assert replace(script.MODELS["smollm2-135m"], about="").sha256.startswith("b179")


def test_the_recipe_is_read_as_it_stands() -> None:
    from mmpu.recipes import run_config

    run = run_config.load(str(ROOT / "examples/real/smollm2.yaml"), [])
    sft, ldl = run.stages
    assert (sft.method.name, ldl.method.name) == ("sft", "ldl_grpo")
    assert ldl.scorer is not None
    assert ldl.scorer.make({"engine": None, "live": None, "task": None}).mode == "auto"
    assert place(run.student.model) == (run.student.model, {}), "fetched first"
