"""Golden values of the methods' formulas, and the identities that a wrong formula breaks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import kl_div

from mmpu.core import NAN, Group, Response, UserError
from mmpu.learning import Batch, Quantities, Shadow
from mmpu.losses import group_log_softmax, kl_per_token, label_distribution, seq_mean, seq_sum
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.sft import SFT
from mmpu.student.divergence import REVERSE
from tiny import sample

SCORES = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
SUMS = (-12.0, -10.0, -11.0)
LENGTHS = (6, 4, 5)


def close(actual: torch.Tensor | float, expected: object, tolerance: float = 5e-9) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        atol=tolerance,
        rtol=0,
    )


# ------------------------------------------------------------------------------------------- the label distribution D


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(1.0, (0.53137648, 0.30261371, 0.16600981)), (5.0, (0.86287848, 0.12422914, 0.01289238))],
)
def test_label_distribution_golden(gamma: float, expected: tuple[float, ...]) -> None:
    close(label_distribution(SCORES, 1.0, gamma, 1.2).exp(), expected)


def test_label_distribution_keeps_the_order_of_margins() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        gamma = 10 ** torch.empty(()).uniform_(-3, 2, generator=generator).item()
        tau = 10 ** torch.empty(()).uniform_(-2, 1, generator=generator).item()
        scores = torch.rand(8, generator=generator, dtype=torch.float64)
        scores[3] = scores[5]
        log_d = label_distribution(scores, torch.rand((), generator=generator).item(), gamma, tau)
        assert log_d[3] == log_d[5]
        order = scores.argsort(stable=True)
        assert bool((log_d[order].diff() >= 0).all())


def test_label_distribution_is_finite_at_extreme_margins() -> None:
    log_d = label_distribution(torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64), 0.0, 5.0, 1.2)
    assert bool(torch.isfinite(log_d).all())
    assert log_d.argmax() == 2


def test_label_distribution_limits_and_invariances() -> None:
    tau = 1.2
    flat_gate = label_distribution(SCORES, 0.3, 1e-12, tau)
    close(flat_gate, torch.log_softmax(SCORES / tau, 0), 1e-8)  # γ → 0: s* drops out
    close(label_distribution(SCORES + 7, 1.0 + 7, 5.0, tau), label_distribution(SCORES, 1.0, 5.0, tau), 1e-12)
    sharp = label_distribution(SCORES, 0.6, 1e6, tau).exp()
    close(sharp, (1.0, 0.0, 0.0))  # γ → ∞ with mixed signs: nothing below the anchor
    permutation = torch.tensor([2, 0, 1])
    close(
        label_distribution(SCORES[permutation], 1.0, 5.0, tau), label_distribution(SCORES, 1.0, 5.0, tau)[permutation]
    )


@pytest.mark.parametrize(("k", "gap"), [(2, 0.33416), (4, 0.72425), (8, 1.16777), (16, 1.66015)])
def test_concentration_bound_is_attained(k: int, gap: float) -> None:
    """r_max − E_D[r] ≤ τ W((K−1)/e), with equality for one candidate at 0 and the others at −τ(1 + W)."""
    tau, w = 1.2, gap / 1.2
    scores = torch.tensor([0.0] + [-tau * (1 + w)] * (k - 1), dtype=torch.float64)
    d = label_distribution(scores, 0.0, 1e-12, tau).exp()
    assert float(scores.max() - (d * scores).sum()) == pytest.approx(gap, abs=2e-5)


# ------------------------------------------------------------------------------------------------- the LDL-GRPO loss


def batch(lengths: tuple[int, ...], weights: torch.Tensor, old: torch.Tensor | None = None) -> Batch:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    zeros = torch.zeros(len(lengths), dtype=torch.long)
    return Batch(mask, weights, zeros, 1, old, 1.0, len(lengths), sum(lengths))


def log_probs(lengths: tuple[int, ...] = LENGTHS, sums: tuple[float, ...] = SUMS) -> torch.Tensor:
    rows = [torch.full((n,), s / n, dtype=torch.float64) for n, s in zip(lengths, sums, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


D5 = label_distribution(SCORES, 1.0, 5.0, 1.2).exp()


def test_ldl_sum_golden() -> None:
    logp = log_probs().requires_grad_()
    q = torch.log_softmax(seq_sum(logp.detach(), batch(LENGTHS, D5).mask_BT), 0).exp()
    close(q, (0.09003057, 0.66524096, 0.24472847))
    loss, metrics = LDLGRPO(form="sum", kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
    close(loss.detach(), 1.70380477)
    close(loss.detach() + metrics["entropy_d"], 2.14625530)  # the cross-entropy
    (gradient,) = torch.autograd.grad(loss, logp)
    for row, (length, coefficient) in enumerate(zip(LENGTHS, (-0.77284790, 0.54101181, 0.23183609), strict=True)):
        close(gradient[row, :length], [coefficient] * length)
        assert not gradient[row, length:].any()


def test_ldl_mean_golden() -> None:
    logp = log_probs().requires_grad_()
    mask = batch(LENGTHS, D5).mask_BT
    close(torch.softmax(seq_mean(logp.detach(), mask), 0), (0.41232669, 0.25008878, 0.33758454))
    loss, _ = LDLGRPO(form="mean", kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
    close(loss.detach(), 0.50818184)
    (gradient,) = torch.autograd.grad(loss, logp)
    for row, coefficient in enumerate((-0.07509197, 0.03146491, 0.06493843)):
        close(gradient[row, 0], coefficient)


def test_ldl_ratio_starts_uniform_and_ignores_flat_scores() -> None:
    logp = log_probs()
    loss, metrics = LDLGRPO(form="ratio", kl="none").loss(Quantities(logp), batch(LENGTHS, D5, logp))
    close(metrics["max_q"], 1 / 3)
    flat = torch.full((3,), 1 / 3, dtype=torch.float64)
    moving = logp.clone().requires_grad_()
    loss, _ = LDLGRPO(form="ratio", kl="none").loss(Quantities(moving), batch(LENGTHS, flat, logp))
    (gradient,) = torch.autograd.grad(loss, moving)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("form", ["sum", "mean"])
def test_ldl_with_flat_scores_still_flattens_likelihoods(form: str) -> None:
    """Σ (q − 1/K) dz, as METHODS says: equal to the formula, and not zero."""
    logp = log_probs().requires_grad_()
    flat = torch.full((3,), 1 / 3, dtype=torch.float64)
    loss, _ = LDLGRPO(form=form, kl="none").loss(Quantities(logp), batch(LENGTHS, flat))
    (gradient,) = torch.autograd.grad(loss, logp)
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)
    z = torch.tensor(SUMS, dtype=torch.float64) / (lengths if form == "mean" else 1)
    expected = (torch.softmax(z, 0) - 1 / 3) / (lengths if form == "mean" else 1)
    close(gradient[:, 0], expected)
    assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("form", ["sum", "mean", "ratio"])
def test_ldl_gradient_is_that_of_finite_differences(form: str) -> None:
    method = LDLGRPO(form=form, kl="k3", beta=0.3)
    old, reference = log_probs(), log_probs(sums=(-11.0, -10.5, -12.0))
    assert torch.autograd.gradcheck(
        lambda logp: method.loss(Quantities(logp, reference), batch(LENGTHS, D5, old))[0],
        log_probs().requires_grad_(),
    )


@pytest.mark.parametrize("form", ["sum", "mean"])
def test_ldl_has_the_gradient_of_the_cross_entropy(form: str) -> None:
    logp = log_probs().requires_grad_()
    loss, _ = LDLGRPO(form=form, kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
    reduce = seq_sum if form == "sum" else seq_mean
    cross_entropy = -(D5 * torch.log_softmax(reduce(logp, batch(LENGTHS, D5).mask_BT), 0)).sum()
    close(torch.autograd.grad(loss, logp)[0], torch.autograd.grad(cross_entropy, logp)[0], 1e-15)


def test_ldl_of_a_single_candidate_teaches_nothing() -> None:
    logp = torch.full((1, 3), -1.0, dtype=torch.float64).requires_grad_()
    loss, _ = LDLGRPO(form="sum", kl="none").loss(Quantities(logp), batch((3,), torch.ones(1, dtype=torch.float64)))
    (gradient,) = torch.autograd.grad(loss, logp)
    assert float(loss.detach()) == 0
    assert not gradient.any()


def test_ldl_at_q_equal_d_is_still() -> None:
    logp = D5.log()[:, None].requires_grad_()
    loss, _ = LDLGRPO(form="sum", kl="none").loss(Quantities(logp), batch((1, 1, 1), D5))
    (gradient,) = torch.autograd.grad(loss, logp)
    assert abs(float(loss.detach())) < 1e-12
    assert gradient.abs().max() < 1e-12


def test_ldl_direction_is_d_to_q() -> None:
    logp = log_probs()
    loss, _ = LDLGRPO(form="sum", kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
    close(loss, kl_div(torch.log_softmax(seq_sum(logp, batch(LENGTHS, D5).mask_BT), 0), D5, reduction="sum"))


def test_kl_to_reference_is_reduced_as_z_is() -> None:
    logp = log_probs()
    reference = logp - 0.3 * batch(LENGTHS, D5).mask_BT
    for form, tokens in (("mean", 1.0), ("sum", sum(LENGTHS) / 3)):
        without, _ = LDLGRPO(form=form, kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
        for kl, value in (("k2", 0.045), ("k3", 0.04081822), ("k3+", 0.04081822)):
            method = LDLGRPO(form=form, kl=kl, beta=1.0)
            loss, _ = method.loss(Quantities(logp, reference), batch(LENGTHS, D5))
            close(loss - without, value * tokens, 1e-7)


def test_a_full_kl_enters_as_measured() -> None:
    """Another forward of the stage's start, no sampled estimate, likelihoods still at temperature 1."""
    method = LDLGRPO(kl="full", beta=0.1)
    assert "reference" not in method.needs
    assert (method.shadow, method.divergence, method.tempered) == (Shadow("start"), REVERSE, False)
    off = LDLGRPO(kl="full", beta=0.0)
    assert (off.shadow, off.divergence) == (None, None)
    logp = log_probs()
    without, _ = LDLGRPO(kl="none").loss(Quantities(logp), batch(LENGTHS, D5))
    loss, _ = method.loss(Quantities(logp, divergence_BT=torch.full_like(logp, 0.7)), batch(LENGTHS, D5))
    close(loss - without, 0.07)


def test_groups_do_not_mix() -> None:
    """Two groups in one batch give the sum of the two alone."""
    logp = log_probs()
    both = torch.cat([logp, logp.flip(0)])
    mask = torch.cat([batch(LENGTHS, D5).mask_BT, batch(LENGTHS, D5).mask_BT.flip(0)])
    weights = torch.cat([D5, D5])
    pair = Batch(mask, weights, torch.tensor([0, 0, 0, 1, 1, 1]), 2, None, 2.0, 6.0, 30.0)
    joint, _ = LDLGRPO(form="mean", kl="none").loss(Quantities(both), pair)
    alone = [
        LDLGRPO(form="mean", kl="none").loss(
            Quantities(both[part]), Batch(mask[part], D5, torch.zeros(3, dtype=torch.long), 1, None, 2.0, 6.0, 30.0)
        )[0]
        for part in (slice(0, 3), slice(3, 6))
    ]
    close(joint, sum(alone))
    close(
        group_log_softmax(seq_sum(both, mask), pair.group_B, 2)[:3],
        torch.log_softmax(seq_sum(logp, batch(LENGTHS, D5).mask_BT), 0),
    )


# -------------------------------------------------------------------------------------------------- KL estimators


def test_kl_estimator_values() -> None:
    r = torch.tensor(0.3, dtype=torch.float64)
    for form, value in (("k1", 0.3), ("k2", 0.045), ("k3", 0.04081822), ("k3+", 0.04081822)):
        close(kl_per_token(form, r, torch.zeros_like(r)), value)
    with pytest.raises(ValueError, match="k4"):
        kl_per_token("k4", r, r)


def test_kl_estimator_gradients_by_enumeration() -> None:
    """On a categorical policy: E[∇k1] = 0, E[∇k2] = ∇KL(p ‖ ref) = E[∇k3+], E[∇k3] = ∇KL(ref ‖ p)."""
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.randn(5, dtype=torch.float64), 0)
    policy = torch.log_softmax(theta, 0)
    weights = policy.exp().detach()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, theta, retain_graph=True)[0]

    estimated = {f: gradient((weights * kl_per_token(f, policy, reference)).sum()) for f in ("k1", "k2", "k3", "k3+")}
    forward = gradient((policy.exp() * (policy - reference)).sum())
    backward = gradient((reference.exp() * (reference - policy)).sum())
    close(estimated["k1"], torch.zeros(5), 1e-9)
    close(estimated["k2"], forward, 1e-9)
    close(estimated["k3+"], forward, 1e-9)
    close(estimated["k3"], backward, 1e-9)
    assert (forward - backward).abs().max() > 1e-2


# --------------------------------------------------------------------------------------------------------- supervise


def group(scores: tuple[float, ...], anchor_score: float = 1.0) -> Group:
    responses = tuple(Response(f"r{i}", (i + 1,), (-1.0,)) for i in range(len(scores)))
    return Group(sample("x"), "the anchor", responses, scores, anchor_score)


def test_supervise_masks_unread_scores_and_renormalises() -> None:
    rows = LDLGRPO().supervise(group((0.9, NAN, 0.5, 0.1)))
    assert [row.response.text for row in rows] == ["r0", "r2", "r3"]
    close([row.weight for row in rows], (0.86287848, 0.12422914, 0.01289238))


@pytest.mark.parametrize("scores", [(0.9, NAN), (NAN, NAN), (0.4,)])
def test_supervise_skips_a_group_without_two_scores(scores: tuple[float, ...]) -> None:
    assert LDLGRPO().supervise(group(scores)) == []


def test_supervise_skips_a_group_without_anchor_score() -> None:
    assert LDLGRPO().supervise(group((0.1, 0.9), NAN)) == []


def test_flat_groups_are_kept_unless_told_otherwise() -> None:
    rows = LDLGRPO().supervise(group((0.5, 0.5)))
    assert [row.weight for row in rows] == [0.5, 0.5]
    assert LDLGRPO(skip_flat_groups=True).supervise(group((0.5, 0.5))) == []


def test_methods_refuse_impossible_knobs() -> None:
    for knobs in ({"label_tau": 0.0}, {"gamma": -1.0}, {"beta": -0.1}):
        with pytest.raises(UserError, match="ldl_grpo"):
            LDLGRPO(**knobs)


def test_needs_follow_the_knobs() -> None:
    assert "reference" in LDLGRPO().needs
    assert "reference" not in LDLGRPO(beta=0.0).needs
    assert "old_logp" in LDLGRPO(form="ratio").needs


def test_sft_reductions() -> None:
    logp = log_probs()
    shape = batch(LENGTHS, torch.ones(3))
    close(SFT().loss(Quantities(logp), shape)[0], 33 / 15)
    close(SFT(reduction="seq_sum").loss(Quantities(logp), shape)[0], 11.0)


def test_null_signal_lets_lengths_drift_under_sum_only() -> None:
    """A toy policy with a learnable stop probability and constant scores, in expectation over its own samples: the
    first update lengthens answers under `sum`, and does nothing under `ratio`."""
    stop = torch.tensor(0.0, dtype=torch.float64)
    drift: dict[str, float] = {}
    for form in ("sum", "ratio"):
        total = 0.0
        torch.manual_seed(1)
        for _ in range(300):
            lengths = tuple(int(n) for n in torch.distributions.Geometric(0.5).sample((4,)) + 1)
            theta = stop.clone().requires_grad_()
            go, end = torch.nn.functional.logsigmoid(-theta), torch.nn.functional.logsigmoid(theta)
            rows = [torch.stack([go] * (n - 1) + [end]) for n in lengths]
            logp = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            flat = torch.full((4,), 0.25, dtype=torch.float64)
            loss, _ = LDLGRPO(form=form, kl="none").loss(Quantities(logp), batch(lengths, flat, logp.detach()))
            total += torch.autograd.grad(loss, theta)[0].item()
        drift[form] = total / 300
    assert drift["ratio"] == pytest.approx(0.0, abs=1e-15)
    assert drift["sum"] > 0.05  # descending lowers the stop logit: longer answers


def test_the_forms_differ_on_unequal_lengths() -> None:
    logp = log_probs()
    losses = {
        f: float(LDLGRPO(form=f, kl="none").loss(Quantities(logp), batch(LENGTHS, D5, logp))[0])
        for f in ("sum", "mean", "ratio")
    }
    for a, b in itertools.combinations(losses.values(), 2):
        assert not math.isclose(a, b, rel_tol=1e-3)
