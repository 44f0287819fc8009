"""The gradient of an update equals plain autograd on padded sequences, for every budget, family and adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from mmpu.core import Group, Response, Sampling, UserError
from mmpu.engines.hf import HF
from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.sft import SFT
from mmpu.student.lora import Lora
from mmpu.student.student import Student
from mmpu.train import checkpoint
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from test_students import plain_logp
from tiny import samples, student

pytestmark = pytest.mark.numerical

D = torch.float64
METHODS: dict[str, Method] = {
    "sft": SFT(),
    **{f"ldl_{form}": LDLGRPO(form=form, kl="k2", beta=0.1) for form in ("sum", "mean", "ratio")},
}


def groups_of(model: Student, family: str) -> list[list[Row]]:
    drawn = HF(model).generate(samples(family), 3, Sampling(max_tokens=9, seed=5))
    weights = (0.6, 0.3, 0.1)
    return [
        [Row(s, r, w, g) for r, w in zip(rs, weights, strict=True)]
        for g, (s, rs) in enumerate(zip(samples(family), drawn, strict=True))
    ]


def gradient(model: Student) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def expected_gradient(model: Student, method: Method, groups: list[list[Row]]) -> torch.Tensor:
    """One graph over separately run, unpacked sequences."""
    rows = [row for group in groups for row in group]
    with torch.enable_grad():
        logps = [_plain(model, row) for row in rows]
    with torch.no_grad(), model.frozen():
        references = [_plain(model, row) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(lp) for lp in logps])
    old = pad([torch.tensor(row.response.logp, dtype=D) for row in rows], batch_first=True)
    batch = Batch(
        torch.arange(int(lengths.max()))[None] < lengths[:, None],
        torch.tensor([row.weight for row in rows], dtype=D),
        torch.tensor([row.group for row in rows]),
        len(groups),
        old,
        len(groups),
        len(rows),
        int(lengths.sum()),
    )
    loss, _ = method.loss(Quantities(pad(logps, batch_first=True), pad(references, batch_first=True)), batch)
    model.zero_grad()
    loss.backward()
    result = gradient(model)
    model.zero_grad()
    return result


def _plain(model: Student, row: Row) -> torch.Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        encoded = model.encode(row.sample)
        tokens = row.response.tokens or ()
        ids = torch.tensor([encoded.ids + tokens])
        extra = dict(encoded.media)
        if "image_grid_thw" in extra:
            extra["mm_token_type_ids"] = (ids == model.base.config.image_token_id).int()
        logits = model.base(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
        logits = logits.index_fill(-1, torch.tensor(model.banned, dtype=torch.long), float("-inf"))
        logp = logits.log_softmax(-1)[0, len(encoded.ids) - 1 : -1]
        return logp.gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def update_gradient(model: Student, method: Method, groups: list[list[Row]], budget: int) -> torch.Tensor:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    optim = Optim(lr=1.0, schedule="constant", warmup=0.0, clip=float("inf"), tokens_per_pass=budget)
    Updater(model, model, optimizer, method, optim, accelerator)(groups, 0, 10)
    after = [p.detach() for p in model.parameters() if p.requires_grad]
    step = torch.cat([(b - a).flatten() for b, a in zip(before, after, strict=True)])
    with torch.no_grad():
        for p, b in zip((p for p in model.parameters() if p.requires_grad), before, strict=True):
            p.copy_(b)
    return step


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["qwen2", "llava", "qwen2_5_vl"])
def test_gradient_is_exact_at_any_budget(family: str, name: str, lora: Lora | None) -> None:
    model, method = student(family, lora).double(), METHODS[name]
    model.start_stage(reference=True)
    torch.manual_seed(0)
    with torch.no_grad():  # away from the stage's start, so that the reference term counts
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    groups = groups_of(model, family)
    expected = expected_gradient(model, method, groups)
    longest = max(len(model.encode(g[0].sample).ids) + max(len(r.response.tokens or ()) for r in g) for g in groups)
    for budget in (100_000, 2 * longest, longest):  # everything, about a group, one branch
        found = update_gradient(model, method, groups, budget)
        error = (found - expected).norm() / expected.norm()
        assert error < 1e-10, f"budget {budget}: relative error {error:.1e}"


@pytest.mark.parametrize("template", ["chat", "completion"])
def test_a_prompt_may_be_trained_on_with_its_answer(template: str) -> None:
    """The loss is that of the whole text, every token but the first, with and without a chat template."""
    model = student("qwen2", template=template)
    model.start_stage(reference=False)
    (row,) = SFT(style="opsd_compat").supervise(Group(samples("qwen2")[0], anchor="It is red."))
    ids = torch.tensor([model.encode(row.sample).ids + model.response_ids(row.sample, row.response)])
    with torch.no_grad():
        wanted = model.base(input_ids=ids, labels=ids).loss
    metrics = Updater(model, model, Optim().build(model), SFT(), Optim(), Accelerator(cpu=True))([[row]], 0, 10)
    assert metrics["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_a_picture_cannot_be_trained_on() -> None:
    model = student("llava")
    model.start_stage(reference=False)
    row = Row(samples("llava")[0], Response("red"), whole=True)
    with pytest.raises(UserError, match="'a' has images; train on its answer alone"):
        Updater(model, model, Optim().build(model), SFT(), Optim(), Accelerator(cpu=True))([[row]], 0, 10)


def test_a_budget_below_one_branch_names_the_least() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    groups = groups_of(model, "qwen2")
    with pytest.raises(UserError, match=r"tokens_per_pass=10 is too small .* set at least \d+"):
        update_gradient(model, SFT(), groups, 10)


def test_a_non_finite_gradient_changes_nothing() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    groups = [[dataclasses.replace(row, weight=float("nan")) for row in g] for g in groups_of(model, "qwen2")]
    before, version = {n: p.detach().clone() for n, p in model.named_parameters()}, model.version
    accelerator = Accelerator(cpu=True)
    optimizer = Optim().build(model)
    metrics = Updater(model, model, optimizer, LDLGRPO(kl="none"), Optim(), accelerator)(groups, 0, 10)
    assert metrics["refused"] == 1
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert model.version == version


def test_every_change_of_the_weights_is_a_new_version(tmp_path: Path) -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    started = model.version
    assert model.stage_version == started
    optimizer = Optim().build(model)
    updater = Updater(model, model, optimizer, SFT(), Optim(), Accelerator(cpu=True))
    updater(groups_of(model, "qwen2"), 0, 10)
    assert model.version == started + 1
    checkpoint.save(tmp_path, 1, model, optimizer.state_dict(), {})
    checkpoint.restore(tmp_path, model, optimizer)
    assert model.version == started + 2
    model.start_stage(reference=False)
    assert model.stage_version == model.version == started + 3


def test_without_rows_nothing_happens() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    updater = Updater(model, model, Optim().build(model), SFT(), Optim(), Accelerator(cpu=True))
    assert updater([[], []], 0, 10) == {"loss": 0.0}


def test_rows_of_several_prompts_in_one_group_are_caught() -> None:
    model = student("qwen2")
    model.start_stage(reference=False)
    rows = [Row(s, Response("yes")) for s in samples("qwen2")]
    with pytest.raises(AssertionError, match="several prompts"):
        Updater(model, model, Optim().build(model), SFT(), Optim(), Accelerator(cpu=True))([rows], 0, 10)


def test_the_schedule() -> None:
    optim = Optim(lr=1.0, warmup=0.1)
    rates = [optim.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[-1] < 0.01
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert Optim(lr=1.0, schedule="constant").rate(99, 100) == 1.0


def test_plain_logp_of_the_student_tests_agrees() -> None:
    model = student("llava")
    row = groups_of(model, "llava")[0][0]
    with torch.no_grad():
        torch.testing.assert_close(_plain(model, row), plain_logp(model, row.sample, row.response.tokens or ()))
