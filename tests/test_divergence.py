"""Divergences: golden values, conventions, what clipping and truncation do; and log-probs without logits."""

from __future__ import annotations

import pytest
import torch

from mmpu.core import UserError
from mmpu.learning import Divergence
from mmpu.losses import kl_per_token
from mmpu.student.divergence import FLOOR, divergence, log_softmax
from mmpu.student.head import Ask, Head, Teacher, measure
from mmpu.student.logprobs import SPARE, Room

pytestmark = pytest.mark.numerical

T = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
S = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("beta", "value"), [(0.0, 0.58381470), (1.0, 0.53717646), (0.5, 0.13291801), (0.01, 0.00576046)]
)
def test_golden_values(beta: float, value: float) -> None:
    assert divergence(S, T, Divergence(beta)).item() == pytest.approx(value, abs=5e-9)


def test_the_interior_vanishes_towards_its_ends() -> None:
    """JSD_b / b → KL(T ‖ S): no interpolation of strength."""
    forward = divergence(S, T, Divergence(0.0)).item()
    assert divergence(S, T, Divergence(1e-6)).item() / 1e-6 == pytest.approx(forward, rel=1e-4)


def random(seed: int, n: int = 6, v: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, v, generator=generator, dtype=torch.float64) * 2


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_zero_at_equality_positive_elsewhere_and_teacher_without_gradient(beta: float) -> None:
    student, teacher = random(0).requires_grad_(), random(1).requires_grad_()
    value = divergence(log_softmax(student), log_softmax(teacher), Divergence(beta))
    assert bool((value > 0).all())
    assert torch.autograd.grad(value.sum(), [student, teacher], allow_unused=True)[1] is None
    same = divergence(log_softmax(student), log_softmax(student), Divergence(beta))
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "form",
    [
        Divergence(b, k, w, t)
        for b in (0.0, 0.4, 1.0)
        for k, w, t in ((0, "teacher", False), (7, "student", True), (7, "teacher", False))
    ],
)
def test_gradients_are_those_of_finite_differences(form: Divergence) -> None:
    teacher = log_softmax(random(3))
    assert torch.autograd.gradcheck(
        lambda logits: divergence(log_softmax(logits), teacher, form), random(2).requires_grad_()
    )


def test_full_kl_is_the_expectation_of_k2() -> None:
    """E over the policy of ∇k2 = ∇ of the full-vocabulary KL(p ‖ ref), which is the reverse divergence."""
    logits, reference = random(4, 1).requires_grad_(), log_softmax(random(5, 1))
    policy = log_softmax(logits)
    sampled = (policy.exp().detach() * kl_per_token("k2", policy, reference)).sum()
    full = divergence(policy, reference, Divergence(1.0)).sum()
    a, b = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (sampled, full))
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_reward_penalty_of_k1_has_the_gradient_of_the_kl() -> None:
    logits, reference = random(6, 1).requires_grad_(), log_softmax(random(7, 1))
    policy = log_softmax(logits)
    penalty = (policy - reference).detach()
    score_function = (policy.exp().detach() * penalty * policy).sum()
    full = divergence(policy, reference, Divergence(1.0)).sum()
    a, b = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (score_function, full))
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_tail_bucket_is_below_the_whole_and_reaches_it() -> None:
    student, teacher = log_softmax(random(8)), log_softmax(random(9))
    whole = divergence(student, teacher, Divergence(0.5))
    for k in (3, 10, 30):  # merging outcomes never raises a divergence
        part = divergence(student, teacher, Divergence(0.5, k, "student", tail=True))
        assert bool((part <= whole + 1e-12).all())
    all_but_one = divergence(student, teacher, Divergence(0.5, 39, "student", tail=True))
    torch.testing.assert_close(all_but_one, whole, atol=1e-6, rtol=0)


def test_clipping_entries_can_turn_the_sum_negative_and_clipping_tokens_cannot() -> None:
    student = torch.tensor([[0.02, 0.49, 0.49]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.9, 0.05, 0.05]], dtype=torch.float64).log()
    assert divergence(student, teacher, Divergence()).item() > 3
    assert divergence(student, teacher, Divergence(clip=0.05, clip_what="entry")).item() < 0
    assert divergence(student, teacher, Divergence(clip=0.05, clip_what="token")).item() == pytest.approx(0.05)


def test_banned_tokens_are_harmless() -> None:
    student, teacher = random(10).requires_grad_(), random(11)
    banned = torch.tensor([3, 17])
    masked = [logits.index_fill(1, banned, float("-inf")) for logits in (student, teacher)]
    kept = [i for i in range(40) if i not in (3, 17)]
    for beta in (0.0, 0.5, 1.0):
        found = divergence(log_softmax(masked[0]), log_softmax(masked[1]), Divergence(beta))
        wanted = divergence(log_softmax(student[:, kept]), log_softmax(teacher[:, kept]), Divergence(beta))
        torch.testing.assert_close(found, wanted)
        (gradient,) = torch.autograd.grad(found.sum(), student, retain_graph=True)
        assert bool(torch.isfinite(gradient).all())
    assert log_softmax(masked[0]).min() == FLOOR


@pytest.mark.parametrize("knobs", [{"beta": 1.5}, {"top_k": -1}, {"clip": 0.0}])
def test_impossible_divergences_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(UserError, match="divergence needs"):
        Divergence(**knobs)


# --------------------------------------------------------------------------------------------- without logits


@pytest.mark.parametrize("entropies", [True, False])
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (3.0, 1.0), (None, 0.3), (3.0, 0.3)])
@pytest.mark.parametrize("trained", [True, False])
def test_chunks_change_neither_values_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, scale: float, trained: bool, entropies: bool
) -> None:
    """Against the whole logits: scales, soft-capping, temperature, a bias, banned tokens, a head that trains or not,
    beside gradients of an earlier pass."""
    torch.manual_seed(0)
    hidden, other = torch.randn(23, 16), torch.randn(9, 12)
    weight, bias, theirs = torch.randn(50, 16), torch.randn(50), torch.randn(52, 12)
    target, at = torch.randint(0, 40, (23,)), torch.tensor([0, 2, 3, 5, 8, 13, 14, 20, 22])
    form = Divergence(0.3, top_k=11, tail=True)

    def run(room: Room | None) -> list[torch.Tensor]:
        h, w, b = (x.clone().requires_grad_(trained or x is hidden) for x in (hidden, weight, bias))
        if trained:
            w.grad, b.grad = torch.ones_like(w), torch.ones_like(b)
        head, teacher = Head(w, b, (45, 47), softcap, scale), Head(theirs, None, (45, 47), softcap, scale)
        if room is not None:
            asked = Teacher(teacher, other, at)
            found = measure(head, h, target, Ask(1.7, entropies, divergence=form, teacher=asked, room=room))
        else:
            logp = log_softmax(head.logits(h) / 1.7)
            distance = divergence(
                log_softmax(head.logits(h)[at] / 1.7), log_softmax(teacher.logits(other)[:, :50] / 1.7), form
            )
            found = {
                "logp": logp.gather(1, target[:, None])[:, 0],
                **({"entropy": torch.distributions.Categorical(logits=logp).entropy()} if entropies else {}),
                "divergence": torch.zeros(23).index_put((at,), distance),
            }
        sum((value * (i + 1)).sum() for i, value in enumerate(found.values())).backward()
        assert h.grad is not None
        assert (w.grad is not None) == trained
        grads = [x.grad for x in (h, w, b) if x.grad is not None]
        return [*(value.detach() for value in found.values()), *grads]

    monkeypatch.setattr("mmpu.student.head.CHUNK", 50 * 4)
    monkeypatch.setattr("mmpu.student.logprobs.CACHED", 50 * 3)
    # nothing is kept, the first chunks, everything; gradients handed over, and added in place
    for room in (Room(200, 1, 0), Room(200, 1, 500), Room(200, 1), Room(200, 1, 0, True), Room(), SPARE):
        for ours, whole in zip(run(room), run(None), strict=True):
            torch.testing.assert_close(ours, whole, atol=2e-5, rtol=1e-4)


def test_what_is_held_is_bounded() -> None:
    """Bytes kept for the backward pass, beyond a fixed amount of probabilities: less than a tenth of the logits."""
    held: list[int] = []
    hidden = torch.randn(4096, 8, requires_grad=True)
    head = Head(torch.randn(5000, 8, requires_grad=True))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        found = measure(head, hidden, torch.randint(0, 5000, (4096,)), Ask(room=Room(held=2**22)))["logp"]
    assert sum(held) < 4 * (2**22 + 4096 * 5000 / 10)
    found.sum().backward()


def test_a_heads_copy_is_as_it_was() -> None:
    """What a teacher's head holds survives the student's weights being swapped for others."""
    parameter = torch.nn.Parameter(torch.randn(5, 3))
    fixed, wanted = Head(parameter).fixed(), parameter.detach().clone()
    parameter.data = torch.zeros(5, 3)
    assert torch.equal(fixed.weight_VH, wanted)
    assert not fixed.weight_VH.requires_grad
