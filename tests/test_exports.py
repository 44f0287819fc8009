"""What a run leaves, in the hands of others: its export and its adapter say in transformers, peft and vLLM what the
student says. `make test-vllm` runs all of it; without vLLM, what needs no vLLM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from mmpu.core import Sample
from mmpu.engines.vllm import ENVIRONMENT
from mmpu.recipes import runs, training
from mmpu.student import Student
from only_vllm import ONLY_VLLM
from tiny import parts, picture, sample, student

TOLERANCE = 1e-5
"""Nats: the same float32 weights, multiplied in another order."""
SAID = 4


@dataclass(frozen=True)
class Left:
    """A run of a family: what it started from, what it left, and the student that it trained."""

    base: Path
    adapter: Path
    merged: Path
    student: Student
    sample: Sample


@pytest.fixture(scope="module", params=["llama", "llava"])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    student(family).save(folder / "base")
    shown = [{"image": "{{ image }}"}] if family == "llava" else []
    if family == "llava":
        _, tokenizer, processor, _ = parts(family)
        LlavaProcessor(
            processor, tokenizer, 14, "default", tokenizer.chat_template, num_additional_image_tokens=1
        ).save_pretrained(folder / "base")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2], "image": picture()} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"source": "rows.jsonl", "id": "{{ id }}", "prompt": [{"user": [*shown, "{{ q }}"]}], "reference": "{{ a }}"}
    (folder / "task.yaml").write_text(yaml.safe_dump(task | {"splits": {"train": {}}}))
    stage = {"name": "one", "method": "sft", "split": "train", "prompts_per_step": 4, "steps": 2, "optim": {"lr": 0.01}}
    config = {
        "run": str(folder / "run"),
        "student": {"model": str(folder / "base"), "device": "cpu", "lora": {"r": 4, "alpha": 8}},
        "task": str(folder / "task.yaml"),
        "teacher": "reference",
        "stages": [stage],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    run = training.train(str(folder / "run.yaml"))
    runs.export(str(run), folder / "merged")
    asked = sample("x", "yes or no 2?", *([picture()] if shown else []))
    return Left(folder / "base", run / "0-one/adapter", folder / "merged", runs.trained_student(run), asked)


def said(model: Any, left: Left) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens, and the log-probabilities of all tokens at each, by a model of transformers."""
    prompt = left.student.encode(left.sample)
    ids, rows = list(prompt.ids), []
    for _ in range(SAID):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), **dict(prompt.media)).logits[0, -1]
        rows.append(logits.log_softmax(-1))
        ids.append(int(logits[: len(left.student.tokenizer)].argmax()))
    return ids[len(prompt.ids) :], torch.stack(rows)


def test_exports_and_adapters_say_what_the_student_says(left: Left) -> None:
    auto = AutoModelForImageTextToText if left.sample.images else AutoModelForCausalLM
    expected = said(left.student.base.eval(), left)
    base = auto.from_pretrained(left.base).eval()
    before = said(base, left)[1]
    for model in (auto.from_pretrained(left.merged).eval(), PeftModel.from_pretrained(base, left.adapter).eval()):
        found = said(model, left)
        assert found[0] == expected[0]
        torch.testing.assert_close(found[1], expected[1], atol=TOLERANCE, rtol=0)
    assert float((before - expected[1]).abs().max()) > 0.1, "two steps moved it"
    if left.sample.images:
        processor = AutoProcessor.from_pretrained(left.merged)
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "yes or no 2?"}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        made = processor(text=text, images=[shown()], return_tensors="pt", add_special_tokens=False)
        assert tuple(made["input_ids"][0].tolist()) == left.student.encode(left.sample).ids


def shown() -> Image.Image:
    from mmpu.media import load_image

    return load_image(picture())


@pytest.mark.parametrize("what", [pytest.param(name, marks=ONLY_VLLM) for name in ("merged", "adapter")])
def test_exports_and_adapters_load_in_vllm(left: Left, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    adapted = what == "adapter"
    lora = {"enable_lora": True, "max_lora_rank": 8} if adapted else {}
    seeing = {"limit_mm_per_prompt": {"image": 1}} if left.sample.images else {}
    folder = str(left.base if adapted else left.merged)
    engine = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=4, **lora, **seeing)
    prompt = left.student.encode(left.sample).ids
    image = left.student.family.image_token
    if image is not None:  # vLLM writes the placeholders itself
        token = left.student.tokenizer.convert_tokens_to_ids(image)
        prompt = tuple(t for at, t in enumerate(prompt) if t != token or prompt[at - 1] != token)
    asked: Any = {"prompt_token_ids": list(prompt)}
    if image is not None:
        asked["multi_modal_data"] = {"image": [shown()]}
    request = LoRARequest("one", 1, str(left.adapter)) if adapted else None
    greedy = SamplingParams(max_tokens=SAID, temperature=0.0, logprobs=5, ignore_eos=True)
    (answer,) = engine.generate([asked], greedy, lora_request=request, use_tqdm=False)
    expected, logp = said(left.student.base.eval(), left)
    assert list(answer.outputs[0].token_ids) == expected
    worst = max(
        abs(entry.logprob - float(logp[at, token]))
        for at, row in enumerate(answer.outputs[0].logprobs)
        for token, entry in row.items()
    )
    assert worst <= TOLERANCE, worst
