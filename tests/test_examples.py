"""The plug-in examples on real data, as a user would run them; skipped where ../shared is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from conftest import ROOT
from mmpu.recipes import evaluation as assess
from mmpu.recipes import training as recipe
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.task.yaml_task import load_task


@pytest.fixture(autouse=True)
def _examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_PATH", str(ROOT / "examples"))


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_easy_vqa(shared: Path, tmp_path: Path) -> None:
    """Real picture files and questions, from zip and gz as published; a few steps of each stage, then the board."""
    data = str(shared / "data/vision/easy_vqa")
    task = load_task("easy_vqa", data=data)
    rows = {split: task.samples(split) for split in ("sft", "ldl", "test")}
    assert sum(map(len, rows.values())) == 19_210
    pictures = {split: {s.images[0] for s in samples} for split, samples in rows.items()}
    assert not pictures["sft"] & pictures["ldl"]
    assert not (pictures["sft"] | pictures["ldl"]) & pictures["test"]

    few = ["stages.ldl_grpo.steps=3", "stages.ldl_grpo.split='ldl[:200]'"]
    overrides = [f"run={tmp_path / 'run'}", f"task.data={data}", "student.device=cpu", *few]
    run = recipe.train("easy_vqa", overrides)
    last = metrics(run)[-1]
    assert last["stage"] == "ldl_grpo"
    assert last["accuracy"] > 0.35
    board = assess.evaluate(
        assess.EvalOptions(
            ("base=tiny-vl", f"SFT={run / '0-sft'}", f"LDL={run}"),
            "easy_vqa",
            "rule",
            "SFT",
            limit=150,
            data=data,
            folder=str(tmp_path),
        )
    )
    accuracy = {e.system.name: e.accuracy.value for e in board.entries if e.accuracy}
    assert accuracy["SFT"] > accuracy["base"]


def test_gsm8k_with_the_real_tokenizer(shared: Path, tmp_path: Path) -> None:
    """Mechanics only: real rows, real Qwen2.5 tokenizer and chat template, a small random model."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/qwen2_5")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    Student(model, tokenizer, StudentConfig("random")).save(tmp_path / "model")
    data = str(shared / "data/datasets/gsm8k")
    task = load_task("gsm8k", data=data)
    for split in ("train", "test"):
        rows = (shared / f"data/datasets/gsm8k/{split}.jsonl").read_text().strip().split("\n")
        assert len(task.samples(split)) == len(rows) > 500
    assert all(task.grade(s, s.reference or "") == 1.0 for s in task.samples("test"))
    run = recipe.train(
        "gsm8k",
        [
            f"run={tmp_path / 'run'}",
            f"task.data={data}",
            f"student={{model: {tmp_path / 'model'}, device: cpu, lora: {{r: 4, alpha: 8}}}}",
            "stages.sft.prompts_per_step=4",
            "stages.sft.steps=2",
            "stages.ldl_grpo={name: ldl_grpo, method: {name: ldl_grpo, form: ratio}, scorer: {name: self_eval, "
            "min_mass: 0.0}, split: 'train[2000:2016]', k: 3, prompts_per_step: 4, steps: 2, "
            "sampling: {max_tokens: 12}, preflight: {prompts: 8, min_auc: 0.0}}",
        ],
    )
    assert (run / "1-ldl_grpo/adapter").is_dir()
    assert metrics(run)[-1]["truncated"] == pytest.approx(1.0, abs=0.2)


def test_stories_without_a_chat_template(shared: Path, tmp_path: Path) -> None:
    """A pretrained story model, completion style, a scorer from the examples' folder: it moves towards its anchors."""
    run = recipe.train(
        "stories",
        [
            f"run={tmp_path / 'run'}",
            f"task.data={shared / 'data/datasets/tinystories'}",
            f"student.model={shared / 'data/models/stories260K'}",
            "student.device=cpu",
            "stages.sft.steps=4",
            "stages.ldl_grpo.steps=6",
        ],
    )
    losses = [m["nll_per_token"] for m in metrics(run) if m["stage"] == "sft"]
    assert losses[-1] < losses[0] < 3.0  # it was trained on such stories, and is not lost by the prompt's form
    group = json.loads((run / "groups.jsonl").read_text().splitlines()[-1])
    assert len({r["text"] for r in group["responses"]}) > 1
    assert all(r["score"] is not None for r in group["responses"])
