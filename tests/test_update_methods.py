"""Every method on real students: the update's gradient equals plain autograd over separate, padded-free sequences with
all their logits, for every token budget; teachers and references get none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence

from mmpu.core import Group, Sample, Sampling, Scorer
from mmpu.engines.hf import HF
from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.losses import kl_per_token
from mmpu.methods.dapo import DAPO
from mmpu.methods.dpo import DPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.lopd import LOPD
from mmpu.methods.opsd import OPSD
from mmpu.methods.pbsd import PBSD
from mmpu.methods.ppo import PPO
from mmpu.methods.sdft import SDFT
from mmpu.methods.srpo import SRPO
from mmpu.store.store import Ledger
from mmpu.student.divergence import divergence, log_softmax
from mmpu.student.lora import Lora
from mmpu.student.student import Student
from mmpu.train.optim import Optim
from mmpu.train.rollout import Rollout
from mmpu.train.shadow import Shadow
from mmpu.train.update import Updater
from tiny import samples, student

pytestmark = pytest.mark.numerical

TEMPERATURE = 1.3
D = torch.float64
METHODS: dict[str, Method] = {
    "dpo": DPO(),
    "grpo": GRPO(beta=0.3),
    "grpo_full": GRPO(kl="full", beta=0.3),
    "dapo": DAPO(batches=0),
    "ppo": PPO(),
    "ldl_ratio": LDLGRPO("ratio", beta=0.1),
    "ldl_full": LDLGRPO(kl="full", beta=0.1),
    "pbsd": PBSD(),
    "opsd": OPSD(),
    "opsd_jsd": OPSD(beta=0.3, top_k=30, clip=0.5, clip_what="token", max_ratio=2.0),
    "sdft": SDFT(skip_first=1),
    "srpo": SRPO(top_k=30),
    "lopd": LOPD(model="another"),
}
CASES = [("qwen2", name) for name in METHODS]
CASES += [(family, name) for family in ("llava", "qwen2_5_vl") for name in ("dpo", "grpo", "pbsd", "srpo")]


@dataclass(frozen=True)
class Places(Scorer):
    """0, 1/(K − 1), … 1 in the order of sampling: a scorer for tests that need scores of some kind."""

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        return [tuple(i / max(1, len(g.responses) - 1) for i in range(len(g.responses))) for g in groups]


def perturb(tensors: Sequence[torch.Tensor], scale: float = 0.02) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.add_(torch.randn(tensor.shape) * scale)


def prepared(family: str, method: Method, lora: Lora | None) -> tuple[Student, Shadow | None, list[list[Row]]]:
    """A student away from its stage's start, its shadow away from both, and rows of three prompts. In float64: what is
    compared is exact, while AdamW makes whole steps of float32's rounding where a gradient should be zero."""
    torch.manual_seed(0)
    model = student(family, lora).double()
    model.start_stage(reference=True, value="value" in method.needs)
    model.double()  # adapters and value head too
    other = student(family).double() if method.shadow and method.shadow.kind == "external" else None
    if other is not None:
        perturb(list(other.parameters()))
    shadow = Shadow(method.shadow, model, other) if method.shadow else None
    perturb([p for p in model.parameters() if p.requires_grad])
    if shadow is not None:
        perturb(list(shadow._kept.values()))
    sampling = Sampling(max_tokens=9, temperature=TEMPERATURE)
    rollout = Rollout(method, Places(), HF(model), None, 3, sampling, Ledger(Path("nowhere.json")), shadow)
    groups = [Group(s, anchor=s.reference, anchor_score=0.9) for s in samples(family)]
    groups = rollout.scored(rollout.sampled(groups, 5))
    groups = [replace(g, scores=tuple(s if s else float(i == 1) for s in g.scores)) for i, g in enumerate(groups)]
    rows = [[replace(row, group=n) for row in method.supervise(group)] for n, group in enumerate(groups)]
    return model, shadow, [each for each in rows if each]


def plain(
    speaker: Student, prompt: Sample, tokens: tuple[int, ...], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-softmax over the vocabulary at each token (T, V) and the hidden states behind it, by the model's own
    forward."""
    encoded = speaker.encode(prompt)
    ids = torch.tensor([encoded.ids + tokens])
    extra = dict(encoded.media)
    if "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == speaker.base.config.image_token_id).int()
    out = speaker.base(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **extra)
    logits = out.logits.index_fill(-1, torch.tensor(speaker.banned, dtype=torch.long), float("-inf"))
    begin = len(encoded.ids) - 1
    return log_softmax(logits[0, begin:-1] / temperature), out.hidden_states[-1][0, begin:-1]


def expected(
    model: Student, shadow: Shadow | None, method: Method, groups: list[list[Row]]
) -> tuple[torch.Tensor, float]:
    """Gradient and loss of one graph over sequences that are run one by one."""
    rows = [row for group in groups for row in group]
    tokens = [model.response_ids(row.sample, row.response) for row in rows]
    scale = TEMPERATURE if method.tempered else 1.0
    columns: dict[str, list[torch.Tensor]] = {}

    def add(name: str, value: torch.Tensor) -> None:
        columns.setdefault(f"{name}_BT", []).append(value)

    for row, ids in zip(rows, tokens, strict=True):
        index = torch.tensor(ids)[:, None]
        full, hidden = plain(model, row.sample, ids, scale)
        add("logp", full.gather(1, index)[:, 0])
        if "value" in method.needs:
            assert model.value is not None
            value = model.value(hidden)[:, 0]
            add("value", value)
            add("old_value", value.detach())
        with torch.no_grad(), model.frozen():
            if "reference" in method.needs:
                add("ref_logp", plain(model, row.sample, ids, scale)[0].gather(1, index)[:, 0])
        if shadow is not None and row.context is not None:
            with torch.no_grad(), shadow.speaking() as speaker:
                theirs = plain(speaker, row.context, ids, scale)[0]
            add("teacher_logp", theirs.gather(1, index)[:, 0])
            add("teacher_entropy", -(theirs.exp() * theirs).sum(1))
            if method.divergence is not None:
                add("divergence", divergence(full, theirs, method.divergence))
        elif shadow is not None:
            for name in ("teacher_logp", "teacher_entropy", "divergence"):
                add(name, torch.zeros(len(ids), dtype=D))
    lengths = torch.tensor([len(ids) for ids in tokens])
    group_of = [g for g, group in enumerate(groups) for _ in group]
    first = [group_of.index(g) for g in group_of]
    sampled = [
        torch.tensor(row.response.logp or [0.0] * len(ids), dtype=D) for row, ids in zip(rows, tokens, strict=True)
    ]
    batch = Batch(
        torch.arange(int(lengths.max()))[None] < lengths[:, None],
        torch.tensor([row.weight for row in rows], dtype=D),
        torch.tensor(group_of),
        len(groups),
        pad_sequence(sampled, batch_first=True),
        len(groups),
        len(rows),
        int(lengths.sum()),
        torch.tensor([row.score for row in rows], dtype=D),
        torch.tensor([row.context is not None for row in rows]),
        torch.tensor([(b, first[b] + o) for b, row in enumerate(rows) for o in row.beats]).view(-1, 2),
    )
    needed = {"teacher_logp", "teacher_entropy"} - method.needs
    quantities = Quantities(
        **{k: pad_sequence(v, batch_first=True) for k, v in columns.items() if k.removesuffix("_BT") not in needed}
    )
    assert batch.old_logp_BT is not None
    with torch.no_grad():
        before = {k: v.detach() for k, v in vars(quantities).items() if v is not None} | {"logp_BT": batch.old_logp_BT}
        weight = method.prepare(Quantities(**before), batch, lambda value: value)
    loss, _ = method.loss(replace(quantities, weight_BT=weight), batch)
    model.zero_grad()
    loss.backward()
    found = gradient(model)
    model.zero_grad()
    return found, float(loss.detach())


def gradient(model: Student) -> torch.Tensor:
    zero = (p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters() if p.requires_grad)
    return torch.cat([g.flatten() for g in zero])


def updated(
    model: Student, shadow: Shadow | None, method: Method, groups: list[list[Row]], budget: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The step that plain gradient descent of rate 1 takes, and the diagnostics; the student is put back."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    optim = Optim(lr=1.0, schedule="constant", warmup=0.0, clip=float("inf"), tokens_per_pass=budget)
    update = Updater(
        model, model, torch.optim.SGD(trainable, lr=1.0), method, optim, Accelerator(cpu=True), shadow, TEMPERATURE
    )
    metrics = update(groups, 0, 10, kl=True)
    step = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, trainable, strict=True)])
    with torch.no_grad():
        for p, b in zip(trainable, before, strict=True):
            p.copy_(b)
    return step, metrics


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_gradient_is_exact_at_any_budget(family: str, name: str, lora: Lora | None) -> None:
    method = METHODS[name]
    model, shadow, groups = prepared(family, method, lora)
    wanted, loss = expected(model, shadow, method, groups)
    assert wanted.norm() > 1e-4
    contexts = [row.context for group in groups for row in group if row.context is not None]
    prompts = [group[0].sample for group in groups] + contexts
    longest = max(len(model.encode(p).ids) for p in prompts) + 10
    kept = {name: tensor.clone() for name, tensor in shadow.state().items()} if shadow else {}
    for budget in (100_000, 2 * longest, longest):  # everything, about a group, one branch
        found, metrics = updated(model, shadow, method, groups, budget)
        error = (found - wanted).norm() / wanted.norm()
        assert error < 1e-10, f"budget {budget}: relative error {error:.1e}"
        assert metrics["loss"] == pytest.approx(loss, rel=1e-10, abs=1e-12)
        assert metrics["kl_ref"] > 0
    if shadow is not None:
        assert all(torch.equal(tensor, kept[name]) for name, tensor in shadow.state().items())
        assert shadow.other is None or all(p.grad is None for p in shadow.other.parameters())


def test_kl_is_measured_alike_for_methods_that_do_not_need_it() -> None:
    method = GRPO(kl="none")
    model, shadow, groups = prepared("qwen2", method, None)
    rows = [row for group in groups for row in group]
    with torch.no_grad():
        ids = [model.response_ids(row.sample, row.response) for row in rows]
        index = [torch.tensor(i)[:, None] for i in ids]
        live = [
            plain(model, r.sample, i, TEMPERATURE)[0].gather(1, n) for r, i, n in zip(rows, ids, index, strict=True)
        ]
        with model.frozen():
            start = [
                plain(model, r.sample, i, TEMPERATURE)[0].gather(1, n) for r, i, n in zip(rows, ids, index, strict=True)
            ]
    wanted = kl_per_token("k3", torch.cat(live), torch.cat(start)).mean()
    assert updated(model, shadow, method, groups, 10_000)[1]["kl_ref"] == pytest.approx(float(wanted), rel=1e-10)


def test_what_is_read_at_the_sampling_temperature() -> None:
    """Ratios and distillation are; sequence likelihoods are not, nor is a KL beside them."""
    at_one = {"dpo", "pbsd", "ldl_full"}
    assert {name for name, method in METHODS.items() if not method.tempered} == at_one


def test_a_teacher_that_reads_the_students_prompt_gives_another_margin() -> None:
    """What it is shown must reach it: pbsd with a shared prompt would be dpo."""
    method = PBSD()
    model, shadow, groups = prepared("qwen2", method, None)
    shared = [[replace(row, context=row.sample) for row in group] for group in groups]
    told, blind = (updated(model, shadow, method, rows, 10_000)[1]["margin"] for rows in (groups, shared))
    assert abs(told - blind) > 1e-3


def test_several_updates_of_one_rollout_move_the_ratio() -> None:
    """The clip fraction is zero at the first update and not at later ones; constants are made once."""
    method = PPO(baseline="none", beta=0.0)
    model, _, groups = prepared("qwen2", method, None)
    found = {}
    for updates in (1, 4):
        optim = Optim(lr=3e-3, schedule="constant", warmup=0.0, updates=updates)
        trainable = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trainable]
        update = Updater(model, model, optim.build(model), method, optim, Accelerator(cpu=True), None, TEMPERATURE)
        found[updates] = update(groups, 0, 10)["clip_fraction"]
        with torch.no_grad():
            for p, b in zip(trainable, before, strict=True):
                p.copy_(b)
    assert found[1] == 0
    assert found[4] > 0


def test_parts_of_a_step_are_added_with_their_shares() -> None:
    """L = λ L_a + (1 − λ) L_b, each under its own denominators."""
    method = GRPO("token_mean", kl="none")
    model, _, groups = prepared("qwen2", method, None)
    parted = [[replace(row, part=int(g == 0)) for row in group] for g, group in enumerate(groups)]
    update = Updater(model, model, None, method, Optim(), Accelerator(cpu=True), None, TEMPERATURE, (0.3, 0.7))
    model.zero_grad()
    together = update.prepare(parted)
    for pieces, totals, share in together.parts:
        for chunk in update._plan(pieces):
            update._backward(chunk, totals, share, 0.0)
    found = gradient(model)
    wanted = (
        0.3
        * expected(model, None, method, [[replace(r, group=g) for r in each] for g, each in enumerate(groups[1:])])[0]
    )
    wanted = wanted + 0.7 * expected(model, None, method, groups[:1])[0]
    assert (found - wanted).norm() / wanted.norm() < 1e-10


# ------------------------------------------------------------------------------------------------- the shadow's weights


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)], ids=["full", "lora"])
def test_an_average_follows_and_a_copy_waits(lora: Lora | None) -> None:
    model = student("qwen2", lora)
    model.start_stage(reference=True)
    average, copy = Shadow(SRPO().shadow, model), Shadow(PBSD(refresh_every=2).shadow, model)
    start = {name: tensor.clone() for name, tensor in average.state().items()}
    perturb([p for p in model.model.parameters() if p.requires_grad])
    live = {name: p.detach().clone() for name, p in model.model.named_parameters() if name in start}
    for done in (1, 2):
        average.follow(done)
        copy.follow(done)
        for name, tensor in average.state().items():
            torch.testing.assert_close(tensor, start[name] + (1 - 0.95**done) * (live[name] - start[name]))
        assert all(torch.equal(tensor, (start if done == 1 else live)[name]) for name, tensor in copy.state().items())


def test_speaking_with_the_shadows_weights_leaves_the_students_alone() -> None:
    model = student("qwen2")
    model.start_stage(reference=True)
    shadow = Shadow(SRPO().shadow, model)
    prompt = samples("qwen2")[0]
    start = plain(model, prompt, (9, 10), 1.0)[0].detach()
    perturb([p for p in model.parameters() if p.requires_grad])
    live = plain(model, prompt, (9, 10), 1.0)[0].detach()
    with shadow.speaking() as speaker:
        torch.testing.assert_close(plain(speaker, prompt, (9, 10), 1.0)[0].detach(), start)
    torch.testing.assert_close(plain(model, prompt, (9, 10), 1.0)[0].detach(), live)
    assert (live - start).abs().max() > 1e-3


def test_teacher_and_student_draw_from_streams_of_their_own() -> None:
    """Under a context that tells nothing the two distributions are the same; one stream would make equal pairs."""

    class Uninformed(PBSD):
        def context(self, group: Group) -> Sample:
            return group.sample

    model = student("qwen2")
    model.start_stage(reference=True)
    method = Uninformed()
    sampling = Sampling(max_tokens=9)
    rollout = Rollout(method, None, HF(model), None, 3, sampling, Ledger(Path("x.json")), Shadow(method.shadow, model))
    for group in rollout.sampled([Group(s) for s in samples("qwen2")], 5):
        assert not {r.tokens for r in group.responses} & {r.tokens for r in group.teacher_responses}
