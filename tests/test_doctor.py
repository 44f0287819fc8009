"""`mmpu doctor`: passes what is right, with numbers, and says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import BloomConfig, BloomForCausalLM

from mmpu.cli.main import main
from mmpu.families.qwen2_5_vl import Qwen25VL
from mmpu.recipes.doctor import examine
from mmpu.student.encoding import Encoder
from mmpu.student.selfcheck import can_share
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from tiny import FAMILIES, picture, real_tokenizer, sample, save, shared_student, student, text_model

pytestmark = pytest.mark.numerical


def check(model: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", str(model), "device=cpu", *options])
    return result.exit_code, result.output


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_computed_right(family: str, tmp_path: Path) -> None:
    code, output = check(save(family, tmp_path / "model"))
    assert code == 0, output
    assert "✗" not in output
    for name in (
        "batched = single",
        "sampled = teacher-forced",
        "trunk and branches = plain",
        "adapter saved = loaded",
    ):
        assert f"✓ {name}" in output


@pytest.mark.parametrize("option", ["dtype=bfloat16", "autocast=bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl", "gemma3"])
def test_bfloat16_agrees_within_its_rounding(family: str, option: str, tmp_path: Path) -> None:
    code, output = check(save(family, tmp_path / "model"), option)
    assert code == 0, output


def test_a_position_scheme_that_cannot_share_is_computed_alone(tmp_path: Path) -> None:
    """Bloom's biases follow the mask, so branches cannot stand side by side."""
    _, tok = text_model("qwen2")
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tok), hidden_size=64, n_layer=2, n_head=4))
    odd = Student(model.eval(), tok, StudentConfig("bloom"))
    assert not can_share(odd)
    assert can_share(shared_student("qwen2"))
    odd.save(tmp_path / "model")
    code, output = check(tmp_path / "model", "attention=eager", "lora.targets=[query_key_value]")
    assert code == 0, output
    assert "a sequence of its own" in output


def test_wrong_positions_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Plain positions for a model with M-RoPE: silent elsewhere, 0.1 nats and more wrong."""
    folder = save("qwen2_5_vl", tmp_path / "model")
    monkeypatch.setattr(Qwen25VL, "positions", lambda self, model, ids, media: torch.arange(len(ids)).expand(3, -1))
    code, output = check(folder)
    assert code == 1
    assert "✗ trunk and branches = plain" in output
    assert "do not train" in output


def test_a_template_that_forgets_the_image_is_found(tmp_path: Path) -> None:
    folder = save("llava", tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<image>", ""))
    code, output = check(folder)
    assert code == 1
    assert "wrote 0 image placeholders for 1 images" in output


def test_an_unknown_option_is_a_users_mistake(tmp_path: Path) -> None:
    code, output = check(save("qwen2", tmp_path / "model"), "dtyp=float32")
    assert code == 2
    assert "did you mean" in output


# ------------------------------------------------------------------------------------- real tokenizers and templates

REAL = {
    "qwen2_5": "qwen2",
    "qwen3": "qwen3",
    "llama3": "llama",
    "llama2_llava": "llava",
    "qwen2_5 + image": "qwen2_5_vl",
}
TEMPLATES = {"qwen2_5 + image": "trl_qwen2_5_vl"}


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_and_templates(name: str, shared: Path) -> None:
    """A random model of the family, with the vocabulary and the template that the family really has."""
    family = REAL[name]
    tok = real_tokenizer(shared, name.split()[0], TEMPLATES.get(name))
    real = with_tokenizer(family, tok)
    for found in [f for f in examine_student(real) if f.limit is not None]:
        assert found.passed, found
    if real.family.marker is not None:
        encoded = real.encode(sample("x", "What is this?", picture(), picture(56, 112)))
        assert len(encoded.images) == 2
    rendered = real.encoder.render(sample("x", "Say <|im_end|> </s> <|eot_id|> <image>"))
    closing = [t for t in tok.all_special_tokens if len(t) > 1]
    assert not any(f"Say {t}" in rendered for t in closing)


def with_tokenizer(family: str, tok: Any) -> Student:
    model = student(family)
    model.base.resize_token_embeddings(len(tok), mean_resizing=False)
    config = model.base.config
    for name in ("image", "video", "vision_start", "vision_end"):
        if hasattr(config, f"{name}_token_id") and family == "qwen2_5_vl":
            token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
            setattr(config, f"{name}_token_id", tok.convert_tokens_to_ids(token))
    if family == "llava":
        config.image_token_id = tok.convert_tokens_to_ids("<image>")
    model.base.generation_config.eos_token_id = tok.eos_token_id
    return Student(model.base, tok, StudentConfig(family), model.image_processor, model.family).eval()


def examine_student(model: Student) -> list[Any]:
    """The checks that do not load from a folder."""
    from mmpu.recipes import doctor

    limit = doctor.LIMITS["float32"]
    checks = (doctor._batched, doctor._forced, doctor._shared, doctor._adapter)
    return [*doctor._prompts(model), *doctor._options(model), *(c for check in checks for c in check(model, limit))]


def test_llama_writes_the_same_date_every_day(shared: Path) -> None:
    assert "26 Jul 2024" in encoder("llama", real_tokenizer(shared, "llama3")).render(sample("x"))


def test_qwen3_does_not_think_unless_asked(shared: Path) -> None:
    tok = real_tokenizer(shared, "qwen3")
    assert encoder("qwen3", tok).render(sample("x")).endswith("<think>\n\n</think>\n\n")
    thinking = encoder("qwen3", tok, template_options={"enable_thinking": True})
    assert not thinking.render(sample("x")).endswith("</think>\n\n")


def encoder(family: str, tok: Any, **options: Any) -> Encoder:
    """Of a tokenizer that is larger than the model, for what is only rendered."""
    model = shared_student(family)
    return Encoder(StudentConfig(family, **options), model.base.config, model.base, tok, None, model.family)


def test_checks_arrive_one_by_one(tmp_path: Path) -> None:
    names = [c.name for c in examine(StudentConfig(str(save("qwen2", tmp_path / "model")), device="cpu"))]
    assert names[-1] == "adapter saved = loaded"
