"""The competitors of an optimiser step, all on the same weights, prompts and candidates.

    trl        TRL's GRPO as its defaults have it: gradient checkpointing, 8 rows at a time, `dapo`. Another loss than
               the others', so another gradient; it is checked against its own.
    trl-ldl    TRL computing LDL-GRPO: `dr_grpo` with the advantage D − q (dL/dℓ_k of the LDL loss is q_k − D_k)
    plain      a careful loop over transformers: right-padded without a mask, `logits_to_keep`, fused cross-entropy,
               rows of similar length together
    unshared   mmpu with every response in a sequence of its own
    dense      mmpu with one attention call under a dense mask in place of attention over trunk and branches
    ours       mmpu

`trl-ldl` and `plain` are told q by log-probabilities recorded beforehand, as the sampler records them; so they are
spared a pass that mmpu does not need, and TRL would. Both try all their micro-batch sizes and keep the fastest. A step
is what a trainer does on a prepared batch: log-probabilities, loss, backward, clipping, AdamW.
"""

from __future__ import annotations

import importlib.util
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from benchmarks import models
from benchmarks.problem import Problem, Setting, problem
from mmpu.student.packing import Tree
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.train.update import Optim, Updater

LR, CLIP = 1e-6, 1.0
NAMES = ("trl", "trl-ldl", "plain", "unshared", "dense", "ours")


def missing(name: str) -> str | None:
    """What keeps an arm from running here."""
    absent = [m for m in ("trl", "datasets") if name.startswith("trl") and importlib.util.find_spec(m) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


def make(name: str, setting: Setting, recorded: Sequence[Sequence[float]] = ()) -> Arm:
    """An arm with a model of its own.

    Args:
        recorded: See `Problem`.
    """
    model = models.build(setting.shape, setting.device, setting.torch_dtype, setting.seed)
    work = problem(setting, model, recorded)
    if name in ("ours", "unshared", "dense"):
        return Ours(model, work, sharing=name != "unshared", tree=name == "ours")
    if name == "plain":
        return Plain(model, work)
    return Trl(model, work, stock=name == "trl")


class Arm(ABC):
    """One way to compute an optimiser step."""

    model: Any
    work: Problem
    objective: str = "ldl"
    tunable = False
    """Whether there is a micro-batch size to choose."""

    def choose(self, micro: int) -> None:
        """Uses a micro-batch size from now on."""
        raise TypeError(f"{type(self).__name__} has no micro-batch size")

    @abstractmethod
    def step(self) -> None:
        """One optimiser step."""

    @abstractmethod
    def gradient(self) -> None:
        """Leaves the gradient of a step in the parameters and the weights as they are."""

    @abstractmethod
    def log_probs(self) -> Tensor:
        """The log-likelihood of every candidate, (B,)."""


# ------------------------------------------------------------------------------------------------------------- padded


@dataclass(frozen=True, eq=False)
class Padded:
    """Rows with their prompt before them, as models without sharing read them."""

    rows: list[int]
    prompt_BP: Tensor
    completion_BT: Tensor
    mask_BT: Tensor
    media: dict[str, Any]
    """Inputs of the vision tower, every row with images of its own."""


def padded(work: Problem, micro: int) -> Iterator[Padded]:
    """All rows in micro-batches, the longest first, each padded to its own longest."""
    setting = work.setting
    order = sorted(range(len(work.completions)), key=lambda b: -len(work.completions[b]))
    for start in range(0, len(order), micro):
        rows = order[start : start + micro]
        prompts = [work.encoded[b // setting.k] for b in rows]
        completion = [torch.tensor(work.completions[b]) for b in rows]
        completion_BT = pad_sequence(completion, batch_first=True, padding_value=models.SPECIAL.index(models.PAD))
        lengths = torch.tensor([len(c) for c in completion])
        media: dict[str, Any] = {
            key: torch.cat([p.media[key] for p in prompts]).to(setting.device) for key in prompts[0].media
        }
        media = {key: v.to(setting.torch_dtype) if v.is_floating_point() else v for key, v in media.items()}
        prompt_BP = torch.tensor([p.ids for p in prompts])
        if "image_grid_thw" in media:
            ids = torch.cat([prompt_BP, completion_BT], 1)
            media["mm_token_type_ids"] = (ids == models.SPECIAL.index("<|image_pad|>")).int().to(setting.device)
        yield Padded(
            rows,
            prompt_BP.to(setting.device),
            completion_BT.to(setting.device),
            (torch.arange(completion_BT.shape[1]) < lengths[:, None]).to(setting.device),
            media,
        )


class Plain(Arm):
    """A careful loop over transformers, without sharing."""

    tunable = True

    def __init__(self, model: Any, work: Problem) -> None:
        self.model, self.work = model.train(), work
        self.coefficient_B = work.ldl_coefficients().float().to(work.setting.device)
        self.batches: list[Padded] = []
        self.optimizer = adamw(model)
        self.choose(min(8, len(work.completions)))

    def choose(self, micro: int) -> None:
        self.batches = list(padded(self.work, micro))

    def step(self) -> None:
        self.gradient()
        torch.nn.utils.clip_grad_norm_([p for _, p in models.trainable(self.model)], CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradient(self) -> None:
        for batch in self.batches:
            (self._logp(batch).sum(1) * self.coefficient_B[batch.rows]).sum().backward()

    def log_probs(self) -> Tensor:
        with torch.no_grad():
            return in_order([(batch.rows, self._logp(batch).sum(1)) for batch in self.batches])

    def _logp(self, batch: Padded) -> Tensor:
        ids = torch.cat([batch.prompt_BP, batch.completion_BT], 1)
        kept = batch.completion_BT.shape[1] + 1
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=kept, **batch.media).logits[:, :-1]
        target = torch.where(batch.mask_BT, batch.completion_BT, -100)
        return -cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target)


class Trl(Arm):
    """TRL's own trainer, handed a batch that its sampler would have prepared."""

    def __init__(self, model: Any, work: Problem, stock: bool) -> None:
        self.work, self.tunable = work, not stock
        self.objective = "grpo" if stock else "ldl"
        self.trainer = trl_trainer(model, work, stock)
        self.model = self.trainer.model
        if self.trainer.args.gradient_checkpointing:  # as `Trainer.train` does before its first step
            self.model.gradient_checkpointing_enable(self.trainer.args.gradient_checkpointing_kwargs)
        rows = len(work.completions)
        longest, device = max(map(len, work.completions)), work.setting.device
        if stock:
            self.advantage_B = work.grpo_advantages().to(device)
        else:  # dr_grpo divides by rows × the longest completion allowed
            self.advantage_B = -work.ldl_coefficients().float().to(device) * rows * longest
        self.optimizer = self.trainer.create_optimizer()
        self.batches: list[dict[str, Any]] = []
        self.rows: list[list[int]] = []
        self.choose(min(8, rows))

    def choose(self, micro: int) -> None:
        batches = list(padded(self.work, micro))
        self.rows = [batch.rows for batch in batches]
        self.batches = [self._inputs(batch) for batch in batches]
        self.trainer.current_gradient_accumulation_steps = len(batches)
        self.trainer.args.steps_per_generation = len(batches)

    def _inputs(self, batch: Padded) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "prompt_ids": batch.prompt_BP,
            "prompt_mask": torch.ones_like(batch.prompt_BP),
            "completion_ids": batch.completion_BT,
            "completion_mask": batch.mask_BT.int(),
            "advantages": self.advantage_B[batch.rows],
            "num_items_in_batch": torch.tensor(sum(map(len, self.work.completions)), device=self.advantage_B.device),
        }
        if batch.media:
            inputs["num_images"] = [1] * len(batch.rows)
        return inputs | batch.media

    def step(self) -> None:
        self.gradient()
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradient(self) -> None:
        for inputs in self.batches:
            self.trainer.training_step(self.model, dict(inputs), None)

    def log_probs(self) -> Tensor:
        found: list[tuple[list[int], Tensor]] = []
        extra = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        with torch.no_grad():
            for rows, inputs in zip(self.rows, self.batches, strict=True):
                logp_BT, _, _ = self.trainer._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                    torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                    inputs["completion_ids"].shape[1],
                    **{key: inputs[key] for key in extra if key in inputs},
                )
                found.append((rows, (logp_BT * inputs["completion_mask"]).sum(1)))
        return in_order(found)


def trl_trainer(model: Any, work: Problem, stock: bool, **options: Any) -> Any:
    """A GRPOTrainer around the model, without reference and dropout; batches come prepared.

    Args:
        stock: TRL's defaults for the loss and for gradient checkpointing, else those that suit LDL best.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Prepared(GRPOTrainer):
        def _prepare_inputs(self, inputs: Any) -> Any:
            return inputs

    def no_reward(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    setting = work.setting
    suited: dict[str, Any] = {} if stock else {"loss_type": "dr_grpo", "gradient_checkpointing": False}
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="benchmark-trl-"),
        per_device_train_batch_size=setting.k,
        num_generations=setting.k,
        max_completion_length=max(map(len, work.completions)),
        learning_rate=LR,
        max_grad_norm=CLIP,
        beta=0.0,
        bf16=False,
        use_cpu=setting.device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **suited,
        **options,
    )
    prompts = Dataset.from_dict({"prompt": ["w64"] * setting.k})
    return Prepared(model, no_reward, config, prompts, processing_class=work.encoder.tokenizer)


# --------------------------------------------------------------------------------------------------------------- mmpu


class Ours(Arm):
    """mmpu's update."""

    def __init__(self, model: Any, work: Problem, sharing: bool, tree: bool) -> None:
        self.student = student(model, work)
        self.student.sharing = sharing
        if not tree:
            model.config.get_text_config()._attn_implementation = "sdpa"
        self.student.start_stage(reference=False)
        self.model, self.work = self.student.base, work
        self.update = updater(self.student, work, lambda: adamw(self.model))

    def step(self) -> None:
        self.update(self.work.rows, 0, 10)

    def gradient(self) -> None:
        keep = updater(self.student, self.work, lambda: _Keep([p for _, p in models.trainable(self.model)], {}))
        replace(keep, optim=replace(keep.optim, clip=float("inf")))(self.work.rows, 0, 10)
        keep.optimizer.restore()

    def log_probs(self) -> Tensor:
        trees = [
            Tree(encoded, tuple(row.response.tokens or () for row in rows))
            for encoded, rows in zip(self.work.encoded, self.work.rows, strict=True)
        ]
        with torch.no_grad():
            packed = self.student.pack(trees)
            logp_N = self.student(packed)
            zero_B = logp_N.new_zeros(len(self.work.completions))
            return zero_B.index_add(0, packed.branch_N.to(logp_N.device), logp_N)


class _Keep(torch.optim.Optimizer):
    """Keeps the gradients that a step would have applied."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.kept = [(p, p.grad) for group in self.param_groups for p in group["params"]]

    def restore(self) -> None:
        for parameter, gradient in self.kept:
            parameter.grad = gradient


def student(model: Any, work: Problem, kind: type[Student] = Student) -> Student:
    """The model as mmpu holds it."""
    setting = work.setting
    config = StudentConfig(setting.model, dtype=setting.dtype, device=setting.device)  # pyright: ignore
    encoder = work.encoder
    return kind(model, encoder.tokenizer, config, encoder.image_processor, encoder.family).eval()


def updater(held: Student, work: Problem, optimizer: Callable[[], Any]) -> Updater:
    """mmpu's update with the benchmark's learning rate and clipping."""
    optim = Optim(lr=LR, schedule="constant", clip=CLIP, tokens_per_pass=work.setting.tokens_per_pass)
    accelerator = Accelerator(cpu=work.setting.device == "cpu")
    return Updater(held, held, optimizer(), work.setting.method, optim, accelerator)


def adamw(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for _, p in models.trainable(model)], lr=LR, weight_decay=0.0, fused=True)


def in_order(found: list[tuple[list[int], Tensor]]) -> Tensor:
    """Values of rows that came in another order, (B,)."""
    rows = torch.tensor([row for each, _ in found for row in each])
    values = torch.cat([value for _, value in found])
    return values[rows.argsort().to(values.device)]
