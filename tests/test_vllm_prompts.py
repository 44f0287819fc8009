"""What goes to vLLM and how its answers are read: the part that needs no vLLM."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpu.core import Choice, Failed, Group, Response, Sample, Sampling, UserError
from mmpu.engines import _vllm
from mmpu.engines._vllm import Question
from mmpu.engines.replay import Replay
from mmpu.media import images as media
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.scorers.rule import Rule
from mmpu.store.store import Ledger
from mmpu.student.packing import Encoded
from mmpu.train.rollout import Rollout
from tiny import FAMILIES, IMAGE_FAMILIES, noise, picture, sample, samples, shared_student


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_goes_as_one_placeholder(family: str) -> None:
    model = shared_student(family)
    for asked in samples(family):
        question = _vllm.question(model, asked, 8, 2048)
        assert isinstance(question, Question)
        token = model.tokenizer.convert_tokens_to_ids(model.family.image_token or "yes")
        lengths = iter(question.encoded.image_lengths)
        assert len(question.encoded.image_lengths) == len(asked.images) == len(question.pictures)
        expanded = [t for i in question.ids for t in [i] * (next(lengths) if asked.images and i == token else 1)]
        assert tuple(expanded) == question.encoded.ids


def test_images_without_a_word_between_them_stay_two() -> None:
    model = shared_student("llava")
    image = model.tokenizer.convert_tokens_to_ids("<image>")
    encoded = Encoded((7, *[image] * 7, 8), torch.arange(9)[None], image_lengths=(4, 3))
    assert _vllm._one_per_image(model, encoded) == (7, image, image, 8)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
@pytest.mark.parametrize("image", [noise(), noise(60, 200), picture()])
def test_processing_a_processed_picture_changes_nothing(family: str, image: str) -> None:
    processor = shared_student(family).image_processor
    once = _vllm.processed(shared_student(family), media.load_image(image))
    for name, expected in processor(images=[media.load_image(image)], return_tensors="pt").items():
        again = processor(images=[once], return_tensors="pt")[name]
        torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)


def test_stop_tokens_go_by_id_and_unknown_ones_are_refused() -> None:
    model = shared_student("qwen2_5_vl")
    values = _vllm.sampling_values(model, Sampling(stop=("<|im_start|>", "\n\n")), 4, "a")
    assert values["stop"] == ["\n\n"]
    assert values["stop_token_ids"] == sorted({*model.eos, model.tokenizer.convert_tokens_to_ids("<|im_start|>")})
    assert set(values["bad_words"]) == set(model.family.never_sampled)
    with pytest.raises(UserError, match=r"'<\|eot_id\|>' looks like a special token"):
        _vllm.sampling_values(model, Sampling(stop=("<|eot_id|>",)), 4, "a")


def test_seeds_are_keyed_by_seed_and_sample() -> None:
    model = shared_student("qwen2")
    asked = [(seed, name) for seed in (0, 1) for name in ("a", "b")]
    seeds = [_vllm.sampling_values(model, Sampling(seed=seed), 8, name)["seed"] for seed, name in asked]
    assert len(set(seeds)) == 4
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) > 8  # the index of a response is added
    assert max(seeds) < 2**62


def test_more_tokens_than_vllm_reports_are_refused() -> None:
    model = shared_student("qwen2")
    every = [model.decode([i]).strip() for i in range(200)]
    with pytest.raises(UserError, match="ask for fewer options"):
        _vllm.reading(model, every)


def test_answers_are_read_as_the_in_process_engine_would() -> None:
    model = shared_student("qwen2")
    tokens = model.tokenizer("yes no maybe")["input_ids"]
    logp = [-0.5] * len(tokens)
    stopped = _vllm.response(model, Sampling(stop=("no",)), tokens, logp, "stop")
    assert stopped == Response("yes ", tuple(tokens), tuple(logp), True)
    cut = _vllm.response(model, Sampling(), tokens, logp, "length")
    assert cut == Response("yes no maybe", tuple(tokens), tuple(logp), False)
    greedy = _vllm.response(model, Sampling(temperature=0.0), tokens, logp, "stop")
    assert isinstance(greedy, Response)
    assert set(greedy.logp) == {0.0}
    assert isinstance(_vllm.response(model, Sampling(), tokens, logp, "abort"), Failed)


def test_an_options_probability_is_that_of_all_its_tokens() -> None:
    read = _vllm.choice(["yes", "no", "never"], [[3, 5], [4], []], {3: -1.0, 4: -2.0, 5: float("-inf"), 9: -0.1})
    assert read.probs == pytest.approx({"yes": math.exp(-1), "no": math.exp(-2), "never": 0.0})
    assert read.outside == pytest.approx(1 - math.exp(-1) - math.exp(-2))


class Told(_vllm.Mirrored):
    """Outputs as a test says, by sample id."""

    def __init__(self, outputs: dict[str, Any]) -> None:
        self.student = shared_student("qwen2")
        self.outputs = outputs
        self.asked: list[str] = []

    def ask(self, samples: Sequence[Sample], values: Sequence[dict[str, Any]]) -> list[Any]:
        assert len(samples) == len(values)
        self.asked += [sample.id for sample in samples]
        return [self.outputs[sample.id] for sample in samples]

    def said(self, output: Any) -> Iterable[_vllm.Said]:
        return output

    def weighed(self, output: Any) -> dict[int, float]:
        return output


def test_an_output_fails_where_one_answer_in_it_does() -> None:
    good, ended = ((3, 4), (-0.5, -1.0), "stop"), ((3,), (-0.5,), "abort")
    engine = Told({"a": [good, good], "b": [good, ended], "c": Failed("no picture")})
    whole, half, none = engine.generate([sample(name) for name in "abc"], 2, Sampling())
    assert isinstance(whole, tuple)
    assert [r.tokens for r in whole] == [(3, 4), (3, 4)]
    assert half == Failed("vLLM ended the answer with 'abort'")
    assert none == Failed("no picture")


def test_the_same_question_is_put_once() -> None:
    (token,) = shared_student("qwen2").option_ids("yes")[:1]
    certain = dict.fromkeys(shared_student("qwen2").option_ids("yes"), -99.0) | {token: 0.0}
    engine = Told({"a": certain, "b": certain, "c": Failed("too long")})
    first, second, failed = engine.choose([sample("a", "?"), sample("b", "?"), sample("c", "!")], ["yes"])
    assert len(engine.asked) == 2
    assert first == second
    assert isinstance(first, Choice)
    assert first.probs["yes"] == pytest.approx(1.0)
    assert failed == Failed("too long")


def test_what_cannot_be_asked_fails_alone() -> None:
    model = shared_student("qwen2")
    long = _vllm.question(model, sample("long", "yes no " * 100), 8, 128)
    assert isinstance(long, Failed)
    assert "more than the 128" in long.reason
    seen = _vllm.question(model, sample("seen", "?", picture()), 8, 128)
    assert isinstance(seen, Failed)
    assert "reads text only" in seen.reason


# ------------------------------------------------------------------------------------------------------------ wiring


def test_a_prompt_without_candidates_is_counted(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"id": "a", "output": "yes"}) + "\n")
    ledger = Ledger(tmp_path / "ledger.json")
    rollout = Rollout(LDLGRPO(), Rule(None), Replay(str(answers)), None, 1, Sampling(), ledger)
    groups = [Group(sample("a")), Group(sample("b"))]
    assert [g.sample.id for g in rollout.sampled(groups, 0)] == ["a", "b"]
    assert ledger.counts["student_failures"] == 1
    with pytest.raises(UserError, match="all 1 prompts; first, 'b'"):
        rollout.sampled(groups[1:], 0)
