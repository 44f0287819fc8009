"""The same tensors through TRL's own loss code and through ours: DPO, GRPO's aggregations with KL and asymmetric clips,
and the generalised JSD agree to 1e-6 in float64."""

from __future__ import annotations

import copy
import json
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

pytest.importorskip("trl", reason="parity is measured against TRL, which is not installed")

from trl.import_utils import TRLExperimentalWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TRLExperimentalWarning)  # raised by the import alone
    from trl.experimental.gkd import GKDTrainer
from accelerate import Accelerator
from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import nanstd

from mmpu.core import Group
from mmpu.learning import Batch, Divergence, Quantities
from mmpu.losses import group_advantages
from mmpu.methods.dpo import DPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.pbsd import PBSD
from mmpu.student.divergence import divergence, log_softmax
from mmpu.task import load_task
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from tiny import student

pytestmark = pytest.mark.numerical

LENGTHS = torch.tensor([5, 2, 7, 3])
MASK = torch.arange(7)[None] < LENGTHS[:, None]
D = torch.float64


def drawn(seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -scale * torch.rand(4, 7, generator=generator, dtype=D) * MASK


def batch(**more: Any) -> Batch:
    values = {
        "weight_B": torch.zeros(4, dtype=D),
        "group_B": torch.zeros(4, dtype=torch.long),
        "groups": 1,
        "old_logp_BT": None,
    }
    values |= {"total_groups": 1.0, "total_rows": 4.0, "total_tokens": float(LENGTHS.sum())} | more
    return Batch(MASK, **values)


def trainer(**attributes: Any) -> Any:
    """What TRL's loss reads of its trainer besides tensors; bookkeeping of metrics goes nowhere."""
    accelerator = MagicMock()
    accelerator.device, accelerator.num_processes = torch.device("cpu"), 1
    for name in ("gather", "gather_for_metrics", "reduce"):
        setattr(accelerator, name, lambda value, *_, **__: value)
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return MagicMock(accelerator=accelerator, _metrics=metrics, aux_loss_enabled=False, **attributes)


def trl_grpo(
    logp: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantage: torch.Tensor, kind: str, beta: float
) -> torch.Tensor:
    this = trainer(
        loss_type=kind,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.28,
        max_completion_length=9,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )
    this._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros_like(logp), None)
    inputs = {
        "prompt_ids": torch.ones(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.ones(4, 7, dtype=torch.long),
        "completion_mask": MASK.long(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": LENGTHS.sum(),
    }
    return GRPOTrainer._compute_loss(this, SimpleNamespace(training=True), inputs)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("kind", "how"),
    [("grpo", "seq_mean_token_mean"), ("dapo", "token_mean"), ("bnpo", "token_mean_micro"), ("dr_grpo", "fixed_len")],
)
def test_grpo(kind: str, how: str, beta: float) -> None:
    advantage = torch.tensor([1.2, -0.4, 0.3, -1.1], dtype=D)
    old, reference = drawn(1, 0.8), drawn(2, 0.8)
    method = GRPO(how, 9, clip_low=0.2, clip_high=0.28, kl="k3", beta=beta)
    ours, theirs = (drawn(3).requires_grad_() for _ in range(2))
    loss, metrics = method.loss(Quantities(ours, reference), batch(weight_B=advantage, old_logp_BT=old))
    expected = trl_grpo(theirs, old, reference, advantage, kind, beta)
    assert metrics["clip_fraction"] > 0, "the case must reach the clips"
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    loss.backward()
    expected.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


def test_group_advantages() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.25, 0.0, 0.7], dtype=D)
    expected = (rewards - rewards.mean()) / (nanstd(rewards) + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, "sample", 1e-4), expected, atol=1e-6, rtol=0)


def trl_dpo(logp: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Rows: chosen, chosen, rejected, rejected."""
    unread = torch.zeros(4, 7)  # for TRL's metrics
    # TRL's models give 0 where a label is -100, so its sums need no mask.
    outputs = SimpleNamespace(log_probs=logp * MASK, entropy=unread, mean_logits=unread, is_top1=unread.bool())
    this = trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
    )
    sums = reference.sum(1)
    inputs = {
        "input_ids": torch.ones(4, 8, dtype=torch.long),
        "attention_mask": torch.ones(4, 8, dtype=torch.long),
        "completion_mask": torch.cat([torch.zeros(4, 1, dtype=torch.long), MASK.long()], 1),
        "ref_chosen_logps": sums[:2],
        "ref_rejected_logps": sums[2:],
    }
    model = MagicMock(return_value=outputs, training=True)
    return DPOTrainer._compute_loss(this, model, inputs, return_outputs=False)


def test_dpo_and_pbsd_with_one_prompt() -> None:
    reference = drawn(4)
    pairs = torch.tensor([[0, 2], [1, 3]])
    shape = batch(group_B=torch.tensor([0, 1, 0, 1]), groups=2, total_groups=2.0, pairs_P2=pairs)
    theirs = drawn(5).requires_grad_()
    expected = trl_dpo(theirs, reference, 0.3)
    expected.backward()
    for method in (DPO(beta=0.3), PBSD(beta=0.3)):
        ours = drawn(5).requires_grad_()
        loss, _ = method.loss(Quantities(ours, reference, teacher_logp_BT=reference), shape)
        torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=0)
        loss.backward()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


PLAIN = (
    "{% for m in messages %}{{ '' if loop.first else '\\n' }}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without a line break behind a turn: TRL trains on what stands behind the end of a turn, and we do not."""


def test_dpo_on_given_pairs_from_rows_to_loss(tmp_path: Path) -> None:
    """TRL's trainer and our task, method and update, from the same file. TRL's head is float32 whatever the weights."""
    rows = [
        {"prompt": [{"role": "user", "content": q}]}
        | {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", yes), ("rejected", no))}
        for q, yes, no in (("2 + 2?", "It is 4.", "5"), ("What colour is it?", "red", "It is blue, I think."))
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = student("qwen2").double()
    model.tokenizer.chat_template = PLAIN
    model.start_stage(reference=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.02)
    samples = load_task(str(tmp_path / "train.jsonl"), splits={"train": {}}).samples("train")
    method, optim = DPO("data", beta=0.3), Optim(lr=1e-9)
    groups = [method.supervise(Group(sample)) for sample in samples]
    update = Updater(model, model, optim.build(model), method, optim, Accelerator(cpu=True))
    args = DPOConfig(
        str(tmp_path / "trl"), per_device_train_batch_size=2, beta=0.3, report_to=[], use_cpu=True,
        gradient_checkpointing=False, bf16=False, max_length=None, disable_tqdm=True,
    )  # fmt: skip
    theirs = DPOTrainer(
        copy.deepcopy(model.base), model._frozen[0], args, train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )  # fmt: skip
    loss = theirs.compute_loss(theirs.model, next(iter(theirs.get_train_dataloader())))
    assert update(groups, 0, 10)["loss"] == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_generalised_jsd(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, teacher = (torch.randn(3, 50, generator=generator, dtype=D) for _ in range(2))
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    labels = torch.zeros(1, 3, dtype=torch.long)
    expected = GKDTrainer.generalized_jsd_loss(theirs[None], teacher[None], labels, beta=beta, temperature=1.7)
    loss = divergence(log_softmax(ours / 1.7), log_softmax(teacher / 1.7), Divergence(beta)).mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
