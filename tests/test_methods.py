"""One contract over every method: finite, deterministic, a gradient only where it belongs, and no dependence on
padding, order or micro-batches."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from mmpu import plugins
from mmpu.learning import Method, Quantities
from mmpu.methods.grpo import GRPO
from mmpu.methods.opsd import OPSD
from tables import GROUPS, METHODS, Table, table

LIVE = ("logp_BT", "divergence_BT", "value_BT")


def loss_of(method: Method, made: Table) -> torch.Tensor:
    return method.loss(made.quantities, made.batch)[0]


def test_every_method_is_under_the_contract() -> None:
    names = {type(method).__module__.rsplit(".", 1)[-1] for method in METHODS.values()}
    assert names == {name for name, root in plugins.code("methods").items() if root.name == "mmpu"}


@pytest.mark.parametrize("name", METHODS)
def test_finite_and_deterministic(name: str) -> None:
    method = METHODS[name]
    loss, metrics = method.loss(table(method).quantities, table(method).batch)
    again, metrics_again = method.loss(table(method).quantities, table(method).batch)
    assert torch.isfinite(loss)
    assert loss == again
    assert all(torch.isfinite(value) and value == metrics_again[key] for key, value in metrics.items())
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_gradient_goes_where_it_belongs(name: str) -> None:
    """Into the student's quantities on real tokens, not into teacher, reference, sampler, scores or padding."""
    method, made = METHODS[name], table(METHODS[name])
    tensors = {k: v.clone().requires_grad_() for k, v in vars(made.quantities).items() if v is not None}
    fixed = {k: v.clone().requires_grad_() for k, v in vars(made.batch).items() if k in ("weight_B", "old_logp_BT")}
    loss, _ = method.loss(Quantities(**tensors), replace(made.batch, **fixed))
    leaves = {**tensors, **fixed}
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))
    moving = {k for k in LIVE if k in found and found[k] is not None and found[k].abs().sum() > 0}
    wanted = {k for k in LIVE if k in tensors}
    assert moving == (wanted - {"logp_BT"} if isinstance(method, OPSD) else wanted)
    for key in moving:
        assert not found[key][~made.batch.mask_BT].any()


@pytest.mark.parametrize("name", METHODS)
def test_padding_changes_nothing(name: str) -> None:
    method, made = METHODS[name], table(METHODS[name])
    torch.testing.assert_close(loss_of(method, made.padded(5)), loss_of(method, made), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_order_changes_nothing(name: str) -> None:
    """Groups in another order, and responses of a group in another order."""
    method = METHODS[name]
    order = (2, 0, 3, 1)
    shuffled = [
        replace(
            g,
            responses=tuple(g.responses[i] for i in order),
            scores=tuple(g.scores[i] for i in order),
            teacher_responses=tuple(g.teacher_responses[i] for i in order),
        )
        for g in (GROUPS[1], GROUPS[2], GROUPS[0])
    ]
    there = loss_of(method, table(method, shuffled))
    torch.testing.assert_close(there, loss_of(method, table(method)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_add_up(name: str) -> None:
    """Loss and diagnostics of uneven parts add up to those of the whole."""
    method, made = METHODS[name], table(METHODS[name])
    whole, metrics = method.loss(made.quantities, made.batch)
    parts = [made.part([0, 2]), made.part([1])]
    found = [method.loss(part.quantities, part.batch) for part in parts]
    torch.testing.assert_close(sum(loss for loss, _ in found), whole, rtol=1e-12, atol=1e-14)
    for key, value in metrics.items():
        torch.testing.assert_close(sum(m[key] for _, m in found), value, rtol=1e-12, atol=1e-14, msg=key)


def test_the_micro_mode_is_another_objective() -> None:
    method = GRPO("token_mean_micro", kl="none")
    made = table(method)
    parts = sum(loss_of(method, part) for part in (made.part([0, 2]), made.part([1])))
    assert abs(float(parts - loss_of(method, made))) > 1e-4


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "scores" in method.needs])
def test_a_masked_candidate_is_as_if_it_were_not_there(name: str) -> None:
    method = METHODS[name]
    masked = [replace(g, scores=(g.scores[0], float("nan"), *g.scores[2:])) for g in GROUPS]
    without = [
        replace(g, scores=(g.scores[0], *g.scores[2:]), responses=(g.responses[0], *g.responses[2:])) for g in GROUPS
    ]
    torch.testing.assert_close(loss_of(method, table(method, masked)), loss_of(method, table(method, without)))


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_values(name: str) -> None:
    method = METHODS[name]
    assert method == dataclasses.replace(method)
    assert hash(method) == hash(dataclasses.replace(method))
