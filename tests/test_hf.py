"""The in-process engine: sampling draws what it says, a prompt is encoded once, a batch mate changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from mmpu.core import Choice, Failed, Response, Sampling
from mmpu.engines.hf import HF, draw
from mmpu.student.attention import Prefix
from mmpu.student.logprobs import log_softmax
from mmpu.student.packing import Tree, pack
from mmpu.student.student import Student
from tiny import FAMILIES, IMAGE_FAMILIES, picture, sample, samples, shared_student, student

pytestmark = pytest.mark.numerical


def generate(model: Student, *args: object, **knobs: object) -> list[tuple[Response, ...]]:
    return HF(model).generate(*args, Sampling(**knobs))


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_single_and_sampler_equals_teacher_forced(family: str) -> None:
    """The seed's numbers all lie 3e-6 or more from where the next token begins, which rounding does not cross; of
    another seed's, one lay within 5e-9."""
    model = shared_student(family)
    prompts = samples(family)
    together = generate(model, prompts, 4, max_tokens=12, seed=4)
    for prompt, responses in zip(prompts, together, strict=True):
        (alone,) = generate(model, [prompt], 4, max_tokens=12, seed=4)
        assert [r.tokens for r in alone] == [r.tokens for r in responses]
        assert len({r.tokens for r in responses}) > 1
    trees = [Tree(model.encode(p), tuple(r.tokens or () for r in rs)) for p, rs in zip(prompts, together, strict=True)]
    with torch.no_grad():
        forced = model(pack(trees, model.pad))
    recorded = torch.tensor([lp for rs in together for r in rs for lp in r.logp])
    torch.testing.assert_close(recorded, forced, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_the_vision_tower_sees_an_image_once_per_call(family: str) -> None:
    model = shared_student(family)
    tower = next(m for n, m in model.base.named_modules() if n.endswith(("visual", "vision_tower")))
    calls: list[int] = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        generate(model, [sample("x", "yes?", picture())], 8, max_tokens=4)
        assert len(calls) == 1
        HF(model).choose([sample("x", "What colour is it? " * 4 + str(i), picture()) for i in range(9)], ["yes"])
        assert len(calls) == 2
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_choose_shares_the_prefix_and_changes_nothing(family: str) -> None:
    model = shared_student(family)
    images = (picture(),) if family in IMAGE_FAMILIES else ()
    prompts = [
        sample("x", "What colour is the large shape in the picture? " * 6 + f"{i} yes", *images) for i in range(9)
    ]
    forwarded: list[int] = []
    embeddings = model.base.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _m, args, _o: forwarded.append(args[0].numel()))
    try:
        together = HF(model).choose(prompts, ["yes", "no", "7"])
        shared, forwarded[:] = sum(forwarded), []
        alone = [HF(model).choose([p], ["yes", "no", "7"])[0] for p in prompts]
        assert shared <= 0.25 * sum(forwarded)
    finally:
        handle.remove()
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a, Choice)
        assert isinstance(b, Choice)
        assert a.probs == pytest.approx(b.probs, abs=1e-7)
        assert sum(a.probs.values()) + a.outside == pytest.approx(1)


def test_an_option_counts_every_token_that_reads_like_it() -> None:
    model = shared_student("qwen2")
    texts = {model.tokenizer.decode([i]) for i in model.option_ids("yes")}
    assert texts == {"yes", " yes"}
    assert len(model.option_ids("7")) == 1
    assert model.option_ids("no such token") == []


def test_stop_strings_end_a_response_and_are_not_part_of_it() -> None:
    model = shared_student("qwen2")
    (free,) = generate(model, [sample("x")], 1, max_tokens=40, seed=1, temperature=1.0)
    stop = free[0].text[10:12]
    (cut,) = generate(model, [sample("x")], 1, max_tokens=40, seed=1, stop=(stop,))
    assert cut[0].text == free[0].text[: free[0].text.index(stop)]
    assert cut[0].finished
    assert cut[0].tokens == (free[0].tokens or ())[: len(cut[0].tokens or ())]


def test_the_length_limit_leaves_a_response_unfinished() -> None:
    (responses,) = generate(shared_student("qwen2"), [sample("x")], 8, max_tokens=3)
    for response in responses:
        assert response.finished == ((response.tokens or ())[-1] in shared_student("qwen2").eos)


def test_a_prompt_that_does_not_fit_fails_alone() -> None:
    prompts = [sample("a"), sample("long", "0 1 2 " * 1000), sample("c")]
    found = HF(shared_student("qwen2")).generate(prompts, 2, Sampling(max_tokens=4))
    chosen = HF(shared_student("qwen2")).choose(prompts, ["yes"])
    for answers in (found, chosen):
        assert [isinstance(a, Failed) for a in answers] == [False, True, False]
        assert "'long'" in answers[1].reason


@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_a_response_stops_at_the_end_of_the_context(family: str) -> None:
    """OPT's learned positions end there; reading on would fail."""
    model = student(family)
    short, long = sample("a", "0 1"), sample("b", "yes no maybe " * 3)
    model.encoder.limit = len(model.encode(long).ids) + 5
    (a, b) = generate(model, [short, long], 3, max_tokens=40, seed=2)
    assert max(len(r.tokens or ()) for r in b) == 5
    assert all(len(r.tokens or ()) == 5 or r.finished for r in b)
    assert max(len(r.tokens or ()) for r in a) > 5
    assert [r.tokens for r in generate(model, [short], 3, max_tokens=40, seed=2)[0]] == [r.tokens for r in a]


def test_greedy_is_the_argmax() -> None:
    model = shared_student("qwen2")
    (responses,) = generate(model, [sample("x")], 2, temperature=0.0, max_tokens=5)
    assert responses[0].tokens == responses[1].tokens
    ids = torch.tensor([model.encode(sample("x")).ids])
    with torch.no_grad():
        assert responses[0].tokens[0] == int(model.base(ids).logits[0, -1].argmax())


# ------------------------------------------------------------------------------------------------------ drawing

PROBS = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05, 0.0])


def frequencies(sampling: Sampling) -> torch.Tensor:
    """What 20,000 evenly spaced uniforms draw."""
    n = 20_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    token, logp = draw(PROBS.log().expand(n, -1), uniform, sampling)
    counts = torch.bincount(token, minlength=len(PROBS)) / n
    seen = counts > 0
    recorded = torch.zeros_like(PROBS).scatter(0, token, logp.exp())
    torch.testing.assert_close(recorded[seen], counts[seen], atol=2e-4, rtol=0)
    return counts


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, (0.4, 0.3, 0.15, 0.1, 0.05, 0)),
        ({"top_k": 2}, (4 / 7, 3 / 7, 0, 0, 0, 0)),
        ({"top_p": 0.5}, (4 / 7, 3 / 7, 0, 0, 0, 0)),
        ({"top_p": 0.1}, (1, 0, 0, 0, 0, 0)),
        ({"min_p": 0.3}, (0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0, 0)),
        ({"top_k": 4, "top_p": 0.8, "min_p": 0.1}, (0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0, 0)),
        ({"temperature": 0.5}, tuple(p**2 / 0.2850 for p in (0.4, 0.3, 0.15, 0.1, 0.05, 0))),
    ],
)
def test_draw_follows_the_sampling_distribution(knobs: dict[str, float], expected: tuple[float, ...]) -> None:
    found = frequencies(Sampling(**knobs))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=2e-3, rtol=0)


def test_log_probabilities_over_a_large_vocabulary_are_exact_to_float32() -> None:
    """150k tokens about as likely: a sum in one float32 per vector lane is off by up to 2e-4."""
    logits = torch.randn(4, 151_669, generator=torch.Generator().manual_seed(0)) * 1e-4
    token, logp = draw(logits, torch.linspace(0.1, 0.9, 4, dtype=torch.float64), Sampling())
    expected = logits.double().log_softmax(1).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), expected, atol=3e-6, rtol=0)  # log 151,669 = 11.9, held to 1e-6


def test_a_uniform_at_either_end_draws_a_possible_token() -> None:
    token, _ = draw(PROBS.flip(0).log().expand(2, -1), torch.tensor([0.0, 1.0], dtype=torch.float64), Sampling())
    assert bool((PROBS.flip(0)[token] > 0).all())


def test_a_large_vocabulary_is_searched_in_blocks_and_gives_the_plain_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2000, generator=generator) * 3
    logits[:, 300:1500] = float("-inf")  # whole blocks without mass
    cdf = logits.softmax(1).cumsum(1, dtype=torch.float64)
    for uniform in torch.rand(200, 6, generator=generator, dtype=torch.float64):
        expected = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True)[:, 0]
        assert draw(logits, uniform, Sampling())[0].tolist() == expected.tolist()


def test_many_tokens_of_equal_mass_are_added_up_exactly() -> None:
    """Rounding has one direction there: torch's log_softmax is off by 1e-4 and more on some processors."""
    logits = torch.zeros(2, 128_256)
    logits[:, 7] = 2.1
    token, logp = draw(logits, torch.tensor([0.3, 0.9], dtype=torch.float64), Sampling())
    exact = logits.double().log_softmax(1).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [range(6), (0, 1, 2), (1, 2, 5), (4,)], ids=str)
def test_attention_over_a_shared_prompt_is_attention_over_its_copies(rows: Sequence[int], dtype: torch.dtype) -> None:
    """Two prompts, the first left-padded, of three rows each, of which some go on."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    cache, mask = DynamicCache(), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    cache.update(drawn(2, 2, 5, 8), drawn(2, 2, 5, 8), 0)
    whole = Prefix.of(cache, mask, 3)
    assert whole is not None
    prefix = whole.select(list(rows))
    query, key, value = drawn(len(rows), 4, 1, 8), drawn(len(rows), 2, 7, 8), drawn(len(rows), 2, 7, 8)
    found = prefix.attend(0, query, key, value, 0.3)

    owner = torch.tensor([row // 3 for row in rows])
    held = cache.layers[0]
    copies = [
        torch.cat([old[owner], new], 2).repeat_interleave(2, 1) for old, new in ((held.keys, key), (held.values, value))
    ]
    seen = torch.cat([mask[owner].bool(), torch.ones(len(rows), 7, dtype=torch.bool)], 1)[:, None, None]
    keys, values = (x.double() for x in copies)
    expected = scaled_dot_product_attention(query.double(), keys, values, attn_mask=seen, scale=0.3)
    torch.testing.assert_close(found.double(), expected, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=0)


def test_a_cache_that_forgets_is_no_prefix() -> None:
    cache = DynamicCache(config=shared_student("gemma3").base.config.get_text_config())
    cache.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), 0)
    assert Prefix.of(cache, torch.ones(1, 3), 2) is None


def test_a_template_that_begins_the_thinking_leaves_no_answer_before_its_end() -> None:
    model = student("qwen2", template_options={"enable_thinking": True})
    model.tokenizer.chat_template = str(model.tokenizer.chat_template) + "{{ '<think>\\n' }}"
    ((response,),) = generate(model, [sample("x", "Why?")], 1, max_tokens=4)
    assert response.raw == "<think>\n" + model.decode(response.tokens or ())
    assert response.text == ""
    recorded = Response(f"{response.raw}</think>7", tokens=None)
    assert model.decode(model.response_ids(sample("x", "Why?"), recorded)) == recorded.raw.removeprefix("<think>\n")


@pytest.mark.parametrize("vocabulary", [1_000, 152_000])
def test_what_is_recorded_is_exact_over_any_vocabulary(vocabulary: int) -> None:
    """A flat distribution, where a sum in few accumulators drifts: within the rounding of the logits themselves."""
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0)) * 0.1
    exact = logits.double().log_softmax(1)
    assert float((log_softmax(logits) - exact).abs().max()) < 4e-6
    token, logp = draw(logits, torch.linspace(0.1, 0.9, 4, dtype=torch.float64), Sampling())
    assert float((logp - exact.gather(1, token[:, None])[:, 0]).abs().max()) < 4e-6
