"""Every family: what the adapter computes equals the plain padded forward of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mmpu.core import Failed, Part, Response, Sample, Sampling, UserError, user
from mmpu.engines.hf import HF
from mmpu.media.images import load_image
from mmpu.student.loading import load_student
from mmpu.student.lora import Lora
from mmpu.student.packing import Tree, pack, share
from mmpu.student.parts import checkpoint_activations
from mmpu.student.student import Student, _cache_keyword
from mmpu.student.student_config import StudentConfig
from tiny import FAMILIES, IMAGE_FAMILIES, TEXT_FAMILIES, picture, sample, samples, save, shared_student, student

pytestmark = pytest.mark.numerical

TOLERANCE = 1e-5


def plain_logp(student: Student, prompt: Sample, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities by transformers' own forward of one unpadded sequence, its own positions and mask."""
    encoded = student.encode(prompt)
    ids = torch.tensor([encoded.ids + tokens])
    extra = dict(encoded.media)
    if student.family.image_token and "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == student.base.config.image_token_id).int()
    if student.base.config.model_type == "gemma3":
        extra["token_type_ids"] = (ids == student.base.config.image_token_id).int()
    with torch.no_grad():
        logits = student.base(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits.float()
    logits[..., list(student.banned)] = float("-inf")
    logp = logits.log_softmax(-1)[0, len(encoded.ids) - 1 : -1]
    return logp.gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_plain_for_ragged_branches(family: str) -> None:
    model = shared_student(family)
    lengths = ((3, 7, 1), (5,), (2, 9))
    torch.manual_seed(1)
    trees = [
        Tree(model.encode(s), tuple(tuple(torch.randint(8, 250, (n,)).tolist()) for n in each))
        for s, each in zip(samples(family), lengths, strict=True)
    ]
    with torch.no_grad():
        packed = model(pack(trees, model.pad))
    expected = torch.cat(
        [plain_logp(model, s, b) for s, tree in zip(samples(family), trees, strict=True) for b in tree.branches]
    )
    torch.testing.assert_close(packed, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_the_same_with_checkpointing(family: str) -> None:
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = student(family)
        if checkpointing:
            checkpoint_activations(model.base)
        model.train()
        trees = [Tree(model.encode(s), ((9, 10), (11, 12, 13))) for s in samples(family)]
        model(pack(trees, model.pad)).sum().backward()
        return torch.cat([p.grad.flatten() for p in model._language_model().parameters() if p.grad is not None])

    plain = gradient(False)
    torch.testing.assert_close(gradient(True), plain, atol=1e-5, rtol=1e-4)
    assert plain.abs().max() > 0


def test_a_cache_goes_by_the_name_that_the_model_has_for_it() -> None:
    """transformers renamed it in 5.24, and code that comes with a model may be older or newer than that."""

    class Older(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, past_key_values: object = None) -> object: ...

    class Newer(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, cache: object = None) -> object: ...

    assert _cache_keyword(Older) == "past_key_values"
    assert _cache_keyword(Newer) == "cache"


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_weights_stay_while_live_ones_move(family: str) -> None:
    for lora in (None, Lora(r=4, alpha=8)):
        model = student(family, lora)
        tree = Tree(model.encode(samples(family)[0]), ((9, 10, 11),))
        with torch.no_grad():
            before = model(pack([tree], model.pad))
        model.start_stage(reference=True)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
            moved = model(pack([tree], model.pad))
            with model.frozen():
                frozen = model(pack([tree], model.pad))
            again = model(pack([tree], model.pad))
        torch.testing.assert_close(frozen, before, atol=1e-6, rtol=0)
        torch.testing.assert_close(again, moved)
        assert (moved - before).abs().max() > 1e-3


def test_lora_of_a_second_stage_starts_from_the_first(tmp_path: Path) -> None:
    """«Adapter off» must mean the weights after stage I, not the base model."""
    model = student("qwen2", Lora(r=4, alpha=8))
    tree = Tree(model.encode(sample("a")), ((9, 10, 11),))
    model.start_stage(reference=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
        after_first = model(pack([tree], model.pad))
        model.start_stage(reference=True)
        with model.frozen():
            torch.testing.assert_close(model(pack([tree], model.pad)), after_first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_vision_tower_is_frozen_by_default(family: str) -> None:
    model = student(family)
    model.start_stage(reference=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not any(part in name for name in trained for part in ("visual", "vision_tower", "projector"))


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path / "model")
    loaded = load_student(StudentConfig(str(folder), device="cpu"))
    original = shared_student(family)
    prompt = samples(family)[0]
    assert loaded.encode(prompt).ids == original.encode(prompt).ids
    tree = Tree(loaded.encode(prompt), ((9, 10, 11),))
    with torch.no_grad():
        torch.testing.assert_close(loaded(pack([tree], 0)), original(pack([tree], 0)), atol=1e-6, rtol=0)
    auto = AutoModelForImageTextToText if family in IMAGE_FAMILIES else AutoModelForCausalLM
    assert auto.from_pretrained(folder) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_is_saved_without_its_adapter(family: str, tmp_path: Path) -> None:
    model = student(family, Lora(r=4, alpha=8))
    model.start_stage(reference=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    model.save_base(tmp_path)
    loaded = load_student(StudentConfig(str(tmp_path), device="cpu"))
    tree = Tree(model.encode(samples(family)[0]), ((9, 10, 11),))
    with torch.no_grad():
        live = model(pack([tree], model.pad))
        with model.frozen():
            torch.testing.assert_close(loaded(pack([tree], model.pad)), model(pack([tree], model.pad)))
    assert not torch.allclose(live, loaded(pack([tree], model.pad)), atol=1e-3)


# ---------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_placeholders_match_the_features(family: str) -> None:
    model = shared_student(family)
    marker = model.tokenizer.convert_tokens_to_ids(model.family.image_token)
    for images in ((), (picture(),), (picture(56, 112), picture())):
        encoded = model.encode(sample("x", "yes?", *images))
        assert encoded.ids.count(marker) == sum(
            model.family.image_length(model.base.config, model.encoder.image(i, "x")[1]) for i in images
        )
        assert len(encoded.images) == len(images)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_text_student_refuses_an_image(family: str) -> None:
    with pytest.raises(UserError, match=r"'x' has an image.*text only"):
        shared_student(family).encode(sample("x", "yes?", picture()))


@pytest.mark.parametrize("family", FAMILIES)
def test_quoted_special_tokens_forge_nothing(family: str) -> None:
    model = shared_student(family)
    special = [t for t in model.tokenizer.all_special_tokens if len(t) > 1]
    quoted = model.encode(sample("x", "yes " + " ".join(special)))
    clean = model.encode(sample("x", "yes"))
    ids = set(model.tokenizer.all_special_ids)
    assert sum(i in ids for i in quoted.ids) == sum(i in ids for i in clean.ids)
    assert not ids & set(model.response_ids(sample("x"), Response(" ".join(special), finished=False)))


def test_a_given_text_ends_with_eos_and_a_sampled_one_is_left_alone() -> None:
    model = shared_student("qwen2")
    assert model.response_ids(sample("x"), Response("yes"))[-1] == model.tokenizer.eos_token_id
    assert model.response_ids(sample("x"), Response("yes", (5, 6, 7))) == (5, 6, 7)


def test_a_prompt_longer_than_the_model_reads_is_refused() -> None:
    with pytest.raises(UserError, match=r"'long'.*2048 at most"):
        shared_student("qwen2").encode(sample("long", "0 1 2 " * 1000))


def test_unknown_models_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'tiny-text'"):
        load_student(StudentConfig("tiny-txt"))
    with pytest.raises(UserError, match=r"without config\.json"):
        load_student(StudentConfig(str(tmp_path)))


def test_a_model_without_chat_template_needs_completion_style(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="template: completion"):
        load_student(StudentConfig(str(folder)))
    loaded = load_student(StudentConfig(str(folder), template="completion", device="cpu"))
    assert "yes no" in loaded.tokenizer.decode(loaded.encode(sample("x", "yes no")).ids)


def test_lora_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"no layer .* is named nothing_proj"):
        student("qwen2", Lora(targets=("nothing_proj",))).start_stage(reference=False)


# ------------------------------------------------------------------------------------------------------ trunks


@pytest.mark.parametrize("family", FAMILIES)
def test_share_splits_after_the_last_image(family: str) -> None:
    model = shared_student(family)
    images = (picture(),) if family in IMAGE_FAMILIES else ()
    prompts = [model.encode(sample("x", "What colour is it? " * 4 + end, *images)) for end in ("yes", "no maybe", "")]
    ((trunk, branches),) = share(prompts)
    assert [trunk.ids + b for b in branches] == [p.ids for p in prompts]
    assert len(trunk.ids) >= trunk.image_end


def test_share_keeps_different_pictures_apart() -> None:
    model = shared_student("llava")
    prompts = [model.encode(sample("x", "What colour? " * 4, picture(colour=c))) for c in ("red", "blue")]
    assert len(share(prompts)) == 2


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_an_image_after_the_shared_part_is_never_cut_off(family: str) -> None:
    model = shared_student(family)
    prompts = [
        model.encode(Sample("x", user("What colour is the shape? " * 6 + end, Part("image", picture()))))
        for end in ("a", "b")
    ]
    choices = HF(model).choose(
        [Sample("x", user("What colour is the shape? " * 6 + e, Part("image", picture()))) for e in "ab"], ["yes"]
    )
    assert sum(len(b) for _, b in share(prompts)) == len(prompts)
    alone = HF(model).choose(
        [Sample("x", user("What colour is the shape? " * 6 + "b", Part("image", picture())))], ["yes"]
    )
    assert choices[1].probs["yes"] == pytest.approx(alone[0].probs["yes"], abs=1e-7)


def test_sampling_bans_placeholders() -> None:
    model = shared_student("qwen2_5_vl")
    drawn = HF(model).generate([sample("x", "yes", picture())], 64, Sampling(max_tokens=32, temperature=5.0))
    assert not {t for r in drawn[0] for t in r.tokens} & set(model.banned)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_resizing_agrees_with_qwen_vl_utils(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qwen_vl_utils", reason="the extra qwen-vl is not installed", exc_type=ImportError)
    processor = shared_student(family).image_processor
    rules = shared_student(family).family
    for width, height in ((84, 56), (300, 40), (31, 517), (640, 480), (20, 20)):
        image = load_image(picture(width, height))
        theirs = rules.features(processor, image)
        with monkeypatch.context() as patched:
            patched.setattr("mmpu.families.qwen2_5_vl._fetch_image", lambda: None)
            ours = rules.features(processor, image)
        assert theirs["image_grid_thw"].tolist() == ours["image_grid_thw"].tolist()
        torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"], atol=0, rtol=0)
        assert len(ours["pixel_values"]) == ours["image_grid_thw"].prod()


def test_a_quantised_base_needs_an_adapter_and_a_gpu() -> None:
    with pytest.raises(UserError, match=r"set student\.lora"):
        StudentConfig("tiny-text", quantize="4bit")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a CUDA device"):
            load_student(StudentConfig("tiny-text", quantize="4bit", lora=Lora()))


def test_dropout_of_the_published_config_is_off(tmp_path: Path) -> None:
    """OPT's files ask for dropout 0.1; a dropped unit would make two forwards of one response differ."""
    model = student("opt")
    model.base.config.dropout = 0.3
    model.save(tmp_path / "model")
    loaded = load_student(StudentConfig(str(tmp_path / "model"), device="cpu")).train()
    tree = Tree(loaded.encode(sample("a")), ((9, 10, 11),))
    with torch.no_grad():
        torch.testing.assert_close(loaded(loaded.pack([tree])), loaded(loaded.pack([tree])), atol=0, rtol=0)


def test_a_model_without_an_end_of_sequence_says_so() -> None:
    """A chat template would name one; texts without turns have none but the tokenizer's and the model's."""
    model = student("qwen2", template="completion")
    model.tokenizer.eos_token = None
    model.base.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        model.response_ids(sample("x"), Response("yes"))
    model.base.generation_config.eos_token_id = [7, 9]
    assert model.response_ids(sample("x"), Response("yes"))[-1] == 7


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "qwen2_5_vl"])
def test_autocast_computes_in_half_and_keeps_weights_and_gradients_whole(family: str) -> None:
    whole, half = student(family), student(family)
    half.config = replace(half.config, autocast="bfloat16")
    trees = [Tree(whole.encode(s), ((9, 10), (11, 12, 13))) for s in samples(family)]

    def gradient(model: Student) -> tuple[torch.Tensor, torch.Tensor]:
        logp = model(model.pack(trees))
        parameters = [p for p in model._language_model().parameters() if p.requires_grad]
        found = torch.autograd.grad(logp.sum(), parameters)
        assert {g.dtype for g in found} == {p.dtype for p in parameters} == {torch.float32}
        return logp.detach(), torch.cat([g.flatten() for g in found])

    (expected, direction), (logp, found) = gradient(whole), gradient(half)
    assert logp.dtype == torch.float32
    assert 0 < (logp - expected).abs().max() < 0.15
    assert torch.cosine_similarity(found, direction, dim=0) > 0.99

    (responses,) = HF(half).generate(samples(family)[:1], 2, Sampling(max_tokens=6))
    assert not isinstance(responses, Failed)
    with torch.no_grad():
        again = half(half.pack([Tree(half.encode(samples(family)[0]), tuple(r.tokens or () for r in responses))]))
    sampled = torch.tensor([value for r in responses for value in r.logp or ()])
    torch.testing.assert_close(again, sampled, atol=0.1, rtol=0)
