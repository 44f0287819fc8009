"""Golden values of the methods' losses, and identities that a wrong formula breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from mmpu.core import NAN, Group, Response, UserError
from mmpu.learning import Batch, Method, Quantities, Row
from mmpu.losses import gae, group_advantages, overlong_penalty, sigmoid_pair_loss
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
from tables import GROUPS, build, group, table
from tiny import sample

pytestmark = pytest.mark.numerical

D = torch.float64


def one(value: torch.Tensor) -> torch.Tensor:
    return value


def step(
    lengths: Sequence[int], weights: Sequence[float], groups: Sequence[int] | None = None, **more: torch.Tensor
) -> Batch:
    group_of = list(groups or [0] * len(lengths))
    n = torch.tensor(lengths)
    return Batch(
        torch.arange(max(lengths))[None] < n[:, None],
        torch.tensor(weights, dtype=D),
        torch.tensor(group_of),
        max(group_of) + 1,
        more.pop("old_logp_BT", None),
        max(group_of) + 1,
        len(lengths),
        int(n.sum()),
        **more,
    )


def gradient(loss: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


# -------------------------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize(
    ("std", "high", "low"),
    [("sample", 1.61983525, -0.53994508), ("population", 1.73165090, -0.57721697), ("none", 0.75, -0.25)],
)
def test_advantages_golden(std: str, high: float, low: float) -> None:
    found = group_advantages(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1], dtype=D), std, 1e-4)
    assert found[0].item() == pytest.approx(high, abs=5e-9)
    assert found[1].item() == pytest.approx(low, abs=5e-9)


@pytest.mark.parametrize("std", ["sample", "population", "none", "batch"])
def test_equal_rewards_give_exactly_no_advantage(std: str) -> None:
    """0.1 three times has a mean that is not 0.1 in floating point; divided by a small ε that would leak."""
    assert group_advantages(torch.full((3,), 0.1, dtype=D), std, 1e-8).abs().max() == 0


def test_a_least_divisor_tames_noise() -> None:
    scores = torch.tensor([0.94, 0.95, 0.94, 0.95], dtype=D)
    assert group_advantages(scores, "sample").abs().max() > 0.8
    assert group_advantages(scores, "sample", min_std=0.05).abs().max() == pytest.approx(0.1)


def test_the_margin_and_the_score_give_the_same_advantage() -> None:
    scores = torch.rand(8, dtype=D)
    torch.testing.assert_close(group_advantages(scores, "sample"), group_advantages(scores - 0.93, "sample"))


def test_batch_advantages_share_one_divisor() -> None:
    method = GRPO("token_mean", adv_std="batch", kl="none")
    made = table(method)
    assert made.quantities.weight_BT is not None
    scores = torch.tensor([s for g in GROUPS for s in g.scores], dtype=D)
    wanted = torch.cat([torch.tensor(g.scores, dtype=D) - sum(g.scores) / 4 for g in GROUPS]) / (scores.std() + 1e-4)
    torch.testing.assert_close(made.quantities.weight_BT[:, 0], wanted)


@pytest.mark.parametrize(("length", "value"), [(16384, 0.0), (18432, -0.5), (20480, -1.0), (100, 0.0)])
def test_overlong_golden(length: int, value: float) -> None:
    assert overlong_penalty(length, 20480, 4096) == value


def test_dapo_filters_by_score_and_trains_on_the_shaped_reward() -> None:
    method = DAPO(overlong_length=8, overlong_buffer=4)
    flat = group("flat", (1.0, 1.0, 1.0), (4, 6, 8))
    assert method.supervise(flat) == []  # though lengths make the rewards differ
    assert len(DAPO(batches=0).supervise(flat)) == 3
    rows = method.supervise(group("x", (1.0, 0.0, 1.0), (4, 6, 8)))
    assert [row.score for row in rows] == [1.0, -0.5, 0.0]
    assert method.refill == 10


# ----------------------------------------------------------------------------------------------------------- surrogate


def grpo_loss(
    method: GRPO, logp: torch.Tensor, old: torch.Tensor, lengths: Sequence[int], a: Sequence[float]
) -> torch.Tensor:
    return method.loss(Quantities(logp), step(lengths, a, old_logp_BT=old))[0]


def test_one_update_has_the_plain_policy_gradient() -> None:
    logp = -torch.rand(2, 3, dtype=D).requires_grad_()
    loss = grpo_loss(GRPO(kl="none"), logp, logp.detach(), (3, 2), (1.0, -0.5))
    wanted = torch.tensor([[-1 / 6] * 3, [0.5 / 4, 0.5 / 4, 0.0]], dtype=D)
    torch.testing.assert_close(gradient(loss, logp), wanted)


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [(1, 1.25, True), (1, 1.3, False), (-1, 1.3, True), (-1, 0.75, False), (1, 0.75, True), (-1, 11.0, False)],
)
def test_clips_and_dual_clip(advantage: float, ratio: float, moves: bool) -> None:
    """Upper clip 0.28 for gains, lower 0.2 for losses, and at 10 a bound on the loss of a bad token grown likely."""
    logp = torch.tensor([[math.log(ratio)]], dtype=D).requires_grad_()
    loss, metrics = DAPO().loss(Quantities(logp), step((1,), (advantage,), old_logp_BT=torch.zeros(1, 1, dtype=D)))
    assert (gradient(loss, logp).abs() > 0).item() == moves
    assert metrics["clip_fraction"].item() == (not moves)
    if ratio == 11.0:
        assert loss.item() == pytest.approx(10.0)


def test_aggregations_agree_on_equal_lengths_and_differ_on_others() -> None:
    old = torch.zeros(3, 4, dtype=D)
    logp = torch.randn(3, 4, dtype=D) * 0.05
    for lengths, same in (((4, 4, 4), True), ((1, 2, 4), False)):
        losses = [
            grpo_loss(GRPO(how, 4, kl="none"), logp, old, lengths, (1.0, 0.5, -1.0)).item()
            for how in ("seq_mean_token_mean", "token_mean", "fixed_len", "token_mean_micro")
        ]
        assert (max(losses) - min(losses) < 1e-12) == same


# --------------------------------------------------------------------------------------------------- null signal


def test_without_signal_there_is_no_preference_gradient() -> None:
    flat = [group(g.sample.id, (0.6,) * 4, [len(r.tokens or ()) for r in g.responses]) for g in GROUPS]
    assert [row for g in flat for row in DPO().supervise(g)] == []
    for method in (GRPO(kl="none"), SRPO(correct=0.9), LDLGRPO("ratio", kl="none")):
        made = table(method, flat)
        assert made.batch.old_logp_BT is not None
        logp = made.batch.old_logp_BT.clone().requires_grad_()
        loss = method.loss(replace(made.quantities, logp_BT=logp), made.batch)[0]
        assert gradient(loss, logp).abs().max() < 1e-15


# ---------------------------------------------------------------------------------------------------------------- DPO


def pairs_of(method: DPO, scores: Sequence[float], anchor_score: float = 0.5) -> set[tuple[str, str]]:
    rows = method.supervise(group("x", scores, [4] * len(scores), anchor_score))
    return {(r.response.text, rows[worse].response.text) for r in rows for worse in r.beats}


def named(*pairs: tuple[int, int]) -> set[tuple[str, str]]:
    def name(i: int) -> str:
        return f"student {i} of x" if i >= 0 else "the anchor"

    return {(name(a), name(b)) for a, b in pairs}


def test_which_pairs() -> None:
    scores = (0.9, 0.1, NAN, 0.5, 0.5)
    assert pairs_of(DPO(), scores) == named((0, 1), (0, 3), (0, 4), (3, 1), (4, 1))
    assert pairs_of(DPO("best_worst"), scores) == named((0, 1))
    assert pairs_of(DPO("top_vs_rest"), scores) == named((0, 1), (0, 3), (0, 4))
    assert pairs_of(DPO(max_pairs=2), scores) == named((0, 1), (0, 3))
    assert pairs_of(DPO(delta=0.4), scores) == named((0, 1))
    assert pairs_of(DPO("best_worst", include_anchor=True), scores) == named((0, 1), (-1, 1))
    assert pairs_of(DPO("anchor_vs_sample"), (NAN,)) == named((-1, 0))
    assert pairs_of(DPO(), (0.5, 0.5)) == set()
    same = Group(sample("x"), "yes", (Response("yes ", (9,)),))
    assert DPO("anchor_vs_sample").supervise(same) == []


def test_pairs_are_averaged_per_prompt_first() -> None:
    """A prompt with six pairs weighs no more than one with one."""
    method = DPO()
    made = table(method, [group("a", (0.9, 0.1, 0.5, 0.2), (4,) * 4), group("b", (1.0, 0.0), (4, 4))])
    alone = [table(method, [g]) for g in (group("a", (0.9, 0.1, 0.5, 0.2), (4,) * 4), group("b", (1.0, 0.0), (4, 4)))]
    whole = method.loss(made.quantities, made.batch)[0]
    torch.testing.assert_close(whole, sum(method.loss(t.quantities, t.batch)[0] for t in alone) / 2)


def test_dpo_starts_at_ln_2() -> None:
    made = table(DPO())
    assert made.quantities.ref_logp_BT is not None
    loss = DPO().loss(replace(made.quantities, logp_BT=made.quantities.ref_logp_BT), made.batch)[0]
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)


# --------------------------------------------------------------------------------------------------------------- PBSD


def pbsd_case(
    better: torch.Tensor, worse: torch.Tensor, t_better: torch.Tensor, t_worse: torch.Tensor, beta: float
) -> torch.Tensor:
    """The loss of one pair of sequences, per token."""
    pad = torch.nn.utils.rnn.pad_sequence
    quantities = Quantities(
        pad([better, worse], batch_first=True), teacher_logp_BT=pad([t_better, t_worse], batch_first=True)
    )
    batch = step((len(better), len(worse)), (1.0, -1.0), pairs_P2=torch.tensor([[0, 1]]))
    return PBSD(beta=beta).loss(quantities, batch)[0]


def test_pbsd_golden() -> None:
    def spread(total: float, n: int) -> torch.Tensor:
        return torch.full((n,), total / n, dtype=D)

    better, worse = spread(-40, 8).requires_grad_(), spread(-35, 5).requires_grad_()
    loss = pbsd_case(better, worse, spread(-30, 8), spread(-38, 5), 0.1)
    assert loss.item() == pytest.approx(1.54100845, abs=5e-9)
    for leaf, sign in ((better, -1), (worse, 1)):
        torch.testing.assert_close(gradient(loss, leaf), torch.full_like(leaf, sign * 0.07858350), atol=5e-9, rtol=0)


def test_pbsd_gradient_is_eq_12_for_unequal_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, m in ((3, 9), (7, 2)):
        better, worse = (-torch.rand(k, generator=generator, dtype=D).requires_grad_() for k in (n, m))
        theirs = [-torch.rand(k, generator=generator, dtype=D).requires_grad_() for k in (n, m)]
        loss = pbsd_case(better, worse, *theirs, 0.7)
        margin = 0.7 * ((better.sum() - theirs[0].sum()) - (worse.sum() - theirs[1].sum()))
        weight = 0.7 * torch.sigmoid(-margin).item()
        torch.testing.assert_close(gradient(loss, better), torch.full((n,), -weight, dtype=D))
        torch.testing.assert_close(gradient(loss, worse), torch.full((m,), weight, dtype=D))
        swapped = pbsd_case(worse, better, theirs[1], theirs[0], 0.7)
        torch.testing.assert_close(swapped, -logsigmoid(-margin))
        still = pbsd_case(better, better, theirs[0], theirs[0], 0.7)
        assert still.item() == pytest.approx(math.log(2))
        assert gradient(still, better).abs().max() == 0


def test_equal_responses_make_no_pair() -> None:
    made = group("x", (0.0, 0.0), (4, 5))
    same = replace(made, teacher_responses=made.responses)
    assert PBSD().supervise(same) == []
    assert len(PBSD().supervise(replace(same, teacher_responses=(made.responses[1], made.responses[0])))) == 4


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_pbsd_comes_to_rest_at_the_teacher(beta: float) -> None:
    """Expected update on an enumerated policy: for every β the fixed point is π_T; with the initial student as
    reference it is elsewhere."""
    torch.manual_seed(0)
    start, teacher = (torch.log_softmax(torch.randn(6, dtype=D), 0) for _ in range(2))

    def expected(theta: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        policy = torch.log_softmax(theta, 0)
        margin = beta * ((policy - reference)[:, None] - (policy - reference)[None, :])
        pair = teacher.exp()[:, None] * policy.exp().detach()[None, :]  # y+ from the teacher, y- from the policy
        return (pair * sigmoid_pair_loss(margin)).sum()

    at_teacher = teacher.clone().requires_grad_()
    assert gradient(expected(at_teacher, teacher), at_teacher).abs().max() < 1e-12
    distance = {}
    rate = 4 / beta if beta < 1 else 1.0
    for name, reference in (("teacher", teacher), ("start", start)):
        theta = start.clone().requires_grad_()
        for _ in range(400):
            move = gradient(expected(theta, reference), theta)
            theta = (theta.detach() - rate * move).requires_grad_()
        distance[name] = float((torch.softmax(theta.detach(), 0) - teacher.exp()).abs().sum() / 2)
    assert distance["teacher"] < 1e-6
    assert distance["start"] > 5e-3


# ---------------------------------------------------------------------------------------------------------------- PPO


def test_gae_by_hand() -> None:
    reward, value = torch.tensor([[0.1, 0.0, 1.0, 9.0]], dtype=D), torch.tensor([[0.5, 0.2, 0.4, 9.0]], dtype=D)
    mask = torch.tensor([[True, True, True, False]])
    deltas = [0.1 + 0.9 * 0.2 - 0.5, 0.9 * 0.4 - 0.2, 1.0 - 0.4]
    third = deltas[2]
    second = deltas[1] + 0.9 * 0.8 * third
    first = deltas[0] + 0.9 * 0.8 * second
    torch.testing.assert_close(gae(reward, value, mask, 0.9, 0.8), torch.tensor([[first, second, third, 0.0]], dtype=D))


def test_ppo_puts_the_score_on_the_last_token_and_the_penalty_on_all() -> None:
    method = PPO(baseline="none", whiten=False, beta=0.5)
    old = torch.tensor([[-1.0, -2.0, -1.0], [-1.0, -1.0, 7.0]], dtype=D)
    reference = torch.tensor([[-1.0, -1.0, -2.0], [-3.0, -1.0, 7.0]], dtype=D)
    batch = step((3, 2), (1.0, 0.0), old_logp_BT=old)
    found = method.prepare(Quantities(old, reference), batch, one)
    wanted = torch.tensor([[1 + 0.5 - 0.5, 1 + 0.5 - 0.5, 1 - 0.5], [-1.0, 0.0, 0.0]], dtype=D)  # sums of what follows
    torch.testing.assert_close(found, wanted)


def test_whitening_of_a_single_token_is_zero_not_nan() -> None:
    old = torch.full((1, 1), -1.0, dtype=D)
    found = PPO("none", beta=0.0).prepare(Quantities(old), step((1,), (0.7,), old_logp_BT=old), one)
    assert found.item() == 0.0


def test_whitened_advantages_have_mean_0_and_deviation_1() -> None:
    made = table(PPO())
    assert made.quantities.weight_BT is not None
    seen = made.quantities.weight_BT[made.batch.mask_BT]
    assert seen.mean().item() == pytest.approx(0, abs=1e-12)
    assert seen.std().item() == pytest.approx(1, abs=1e-6)


def test_ppo_baselines() -> None:
    old = torch.full((1, 2), -1.0, dtype=D)
    batch = replace(step((2,), (0.7,), old_logp_BT=old), mean_score=0.4)
    for name, wanted in (("none", 0.7), ("ema", 0.3)):
        method = PPO(name, beta=0.0, whiten=False)
        found = method.prepare(Quantities(old), batch, one)
        torch.testing.assert_close(found, torch.full((1, 2), wanted, dtype=D))
    cut = replace(GROUPS[0].responses[0], finished=False)
    penalised = PPO(missing_eos_penalty=0.5).supervise(replace(GROUPS[0], responses=(cut,), scores=(0.6,)))
    assert penalised[0].weight == pytest.approx(0.1)


# --------------------------------------------------------------------------------------------------------- OPSD, SDFT


def test_first_tokens_are_left_out_of_numerator_and_denominator() -> None:
    divergence = torch.ones(2, 6, dtype=D)
    batch = step((6, 4), (1.0, 1.0), context_B=torch.ones(2, dtype=torch.bool))
    for method in (SDFT(aggregation="token_mean", skip_first=0), SDFT(aggregation="token_mean"), OPSD(skip_first=2)):
        assert method.loss(Quantities(divergence, divergence_BT=divergence), batch)[0].item() == pytest.approx(1.0)
    short = group("x", (0.0, 0.0), (3, 5))
    assert len(SDFT().supervise(short)) == 1


def test_a_ratio_is_truncated_and_carries_no_gradient() -> None:
    old = torch.zeros(1, 2, dtype=D)
    logp = torch.full((1, 2), math.log(3.0), dtype=D).requires_grad_()
    value = torch.ones(1, 2, dtype=D).requires_grad_()
    loss, _ = OPSD(max_ratio=2.0).loss(Quantities(logp, divergence_BT=value), step((2,), (1.0,), old_logp_BT=old))
    assert loss.item() == pytest.approx(2.0)
    assert torch.autograd.grad(loss, [logp], allow_unused=True, retain_graph=True)[0] is None
    torch.testing.assert_close(gradient(loss, value), torch.ones(1, 2, dtype=D))


def test_a_teacher_without_a_solution_is_refused() -> None:
    bare = Group(replace(sample("q7"), reference=None))
    for method in (OPSD(), PBSD(), SDFT()):
        with pytest.raises(UserError, match=r"'q7' has no reference"):
            method.context(bare)
    shown = OPSD(privileged="anchor").context(replace(bare, anchor="It is red."))
    assert "It is red." in shown.prompt[0].text
    assert "anchor" in OPSD(privileged="anchor").needs


def test_a_long_solution_loses_its_beginning_and_the_question_nothing() -> None:
    long = replace(sample("x", "The whole question?"), reference="begin " * 50 + "the end")
    text = OPSD(max_privileged=20).context(Group(long)).prompt[0].text
    assert "The whole question?" in text
    assert "the end" in text
    assert text.count("begin") <= 3


def test_lopd_needs_a_model_that_can_be_loaded() -> None:
    with pytest.raises(UserError, match="engine that only answers does not give"):
        LOPD()
    assert LOPD(model="x").context(GROUPS[0]) == GROUPS[0].sample
    assert LOPD(model="x").divergence.beta == 1


# --------------------------------------------------------------------------------------------------------------- SRPO


def routes(scores: Sequence[float], **knobs: object) -> list[bool]:
    rows = SRPO(**knobs).supervise(group("x", scores, [5] * len(scores)))
    return [row.context is not None for row in rows]


def test_srpo_truth_table() -> None:
    assert routes((1.0, 0.0, 1.0)) == [False, True, False]
    assert routes((0.0, 0.0, 0.0)) == [False, False, False]
    assert routes((1.0, 1.0)) == [False, False]
    assert routes((0.999, 0.4)) == [False, True]
    rows = SRPO().supervise(group("x", (0.0, 1.0, 0.0), (5, 5, 5)))
    assert all("student 1 of x" in row.context.prompt[0].text for row in rows if row.context)
    assert routes((0.0, 0.0), solution="reference") == [True, True]


def test_srpo_weights_golden() -> None:
    entropy = torch.tensor([[0.0, 1.0, 2.0], [9.0, 9.0, 9.0]], dtype=D)
    batch = step((3, 3), (0.0, 0.0), context_B=torch.tensor([True, False]))
    found = SRPO().prepare(Quantities(entropy, teacher_entropy_BT=entropy), batch, one)
    assert found is not None
    torch.testing.assert_close(found[0], torch.tensor([1.99572287, 0.73418541, 0.27009172], dtype=D), atol=5e-9, rtol=0)
    assert not found[1].any()
    for b in (0.3, 1.0, 5.0):
        weights = SRPO(entropy_weight=b).prepare(Quantities(entropy, teacher_entropy_BT=entropy), batch, one)
        assert weights is not None
        assert weights[0].mean().item() == pytest.approx(1)
    flat = SRPO(entropy_weight=0.0).prepare(Quantities(entropy), batch, one)
    torch.testing.assert_close(flat, torch.tensor([[1.0] * 3, [0.0] * 3]))


def test_srpo_without_routed_rows_is_grpo() -> None:
    all_wrong = [group(g.sample.id, (0.1, 0.2, 0.3, 0.0), [5, 6, 4, 7]) for g in GROUPS]
    ours, theirs = SRPO(), GRPO("token_mean", adv_std="none", clip_high=0.28, kl="none")
    made, plain = table(ours, all_wrong), table(theirs, all_wrong)
    loss = ours.loss(made.quantities, made.batch)[0]
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, theirs.loss(plain.quantities, plain.batch)[0])


def test_srpo_has_one_denominator() -> None:
    """Two sequences of loss 1 and six of loss 3 with as many tokens in all: 2.0 however they are split."""
    method = SRPO(entropy_weight=0.0)
    lengths = [6, 6] + [2] * 6
    per_token = torch.tensor([[1.0] * 6] * 2 + [[3.0] * 6] * 6, dtype=D)
    zeros = torch.zeros(8, 6, dtype=D)
    context = torch.ones(8, dtype=torch.bool)
    batch = step(lengths, [0.0] * 8, old_logp_BT=zeros, context_B=context)
    weight = method.prepare(Quantities(zeros), batch, one)
    whole = method.loss(Quantities(zeros, divergence_BT=per_token, weight_BT=weight), batch)[0]
    assert whole.item() == pytest.approx(2.0)
    parts = 0.0
    for rows in (slice(0, 2), slice(2, 8)):
        here = replace(
            batch,
            **{k: getattr(batch, k)[rows] for k in ("mask_BT", "weight_B", "group_B", "old_logp_BT", "context_B")},
        )
        assert weight is not None
        loss = method.loss(Quantities(zeros[rows], divergence_BT=per_token[rows], weight_BT=weight[rows]), here)[0]
        parts += loss.item()
    assert parts == pytest.approx(2.0)


# --------------------------------------------------------------------------------------------------------------- knobs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPO(beta=0.0), "beta=0.0 .above 0"),
        (lambda: DPO("anchor_vs_sample", include_anchor=True), "include_anchor"),
        (lambda: GRPO("fixed_len"), "max_length"),
        (lambda: GRPO(clip_low=-1.0), "at least 0"),
        (lambda: DAPO(overlong_length=100), "overlong_buffer"),
        (lambda: PPO(lam=2.0), "lam=2.0 .at least 0 and at most 1"),
        (lambda: PBSD(beta=-1.0), "beta=-1.0 .above 0"),
        (lambda: OPSD(beta=2.0), "beta=2.0 .at least 0 and at most 1"),
        (lambda: OPSD(teacher="ema", ema_rate=0.0), "ema_rate=0.0 .above 0"),
        (lambda: OPSD(aggregation="fixed_len"), "for grpo"),
        (lambda: SRPO("fixed_len", 5), "one denominator"),
        (lambda: PBSD(refresh_every=-1).shadow, "refresh_every=-1 .at least 1"),
    ],
)
def test_impossible_knobs_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_rows_of_a_group_keep_their_pairs_when_numbered() -> None:
    method: Method = PBSD()
    rows: list[Row] = method.supervise(GROUPS[0])
    assert build(method, rows, 1).batch.pairs_P2.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
