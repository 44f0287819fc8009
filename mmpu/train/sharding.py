"""Weights and optimiser over processes: copies (DDP), or the optimiser in shards (FSDP2), both through accelerate.

Every process samples, scores and trains in as many passes as its own prompts need, so no pass may wait for another
process. Gradients add up in each process, and travel once, in a pass over nothing that all processes make. Under FSDP2
weights are whole wherever the model runs, and a step is

    reduce the gradients into shards → clip → step on shards → gather the weights

so that AdamW's moments are never whole. Everything outside this file finds weights as they are in one process.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from mmpu.core import UserError
from mmpu.student import Ask, Measured, Pack, Student, StudentConfig


def admit(accelerator: Accelerator, student: StudentConfig, rollout: str) -> None:
    """Refuses sharding that does not work here, and settles how FSDP2's processes load.

    Args:
        rollout: The name of the engine of rollouts.

    Raises:
        UserError: says which setting, and the way out.
    """
    kind = accelerator.distributed_type
    plain = "choose plain multi-process training (`distributed_type: MULTI_GPU`) or FSDP2"
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise UserError(
            f"accelerate is set to {kind.value}, whose processes must make equal numbers of passes, and mmpu's make as "
            f"many as their own prompts need; {plain} (`distributed_type: FSDP`, `fsdp_version: 2`)"
        )
    if accelerator.mixed_precision != "no":
        raise UserError(
            f"accelerate is set to mixed_precision={accelerator.mixed_precision}, which would reach some passes, not "
            "all; set mixed_precision to `no`, and in the run's config `student.autocast: bfloat16`"
        )
    if kind != DistributedType.FSDP:
        return
    state: Any = accelerator.state
    plugin = state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError(
            f"accelerate is set to FSDP's first version, which flattens weights that mmpu reads; {plain} "
            "(`fsdp_version: 2`)"
        )
    halved = plugin.mixed_precision_policy is not None
    offloaded = isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    refused = (
        (halved, "mixed_precision", "set it to `no`, and in the run's config `student.autocast: bfloat16`"),
        (offloaded, "fsdp_offload_params", "set it to false"),
        (
            plugin.activation_checkpointing,
            "fsdp_activation_checkpointing",
            "set it to false, and in the run's config `student.gradient_checkpointing: true`",
        ),
        (plugin.ignored_modules, "fsdp_ignored_modules", "leave it out"),
        (accelerator.parallelism_config, "parallelism_config", "leave it out; shards go over all processes"),
        (state.dynamo_plugin.backend.value != "NO", "dynamo_config", "leave it out"),
        (student.quantize, "student.quantize", "choose plain multi-process training"),
        (student.device_map, "student.device_map", "leave it out"),
        (rollout != "hf", f"rollout: {rollout}", "sample in process, `rollout: hf`"),
    )
    for given, name, way_out in refused:
        if given:
            raise UserError(f"{name} has not been made to work with FSDP2; {way_out}")
    from accelerate.utils import disable_fsdp_ram_efficient_loading

    # Frozen weights are a copy of what the process loaded, so each must load them all.
    disable_fsdp_ram_efficient_loading()
    plugin.cpu_ram_efficient_loading = False


def prepare(accelerator: Accelerator, student: Student, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """The student, for passes with gradient, and its optimiser as accelerate holds them over processes."""
    sharded = accelerator.distributed_type == DistributedType.FSDP
    wrapped, held = cast(Any, accelerator.prepare(Shards(student) if sharded else student, optimizer))
    if isinstance(wrapped, Shards):
        wrapped.settle()
    if isinstance(wrapped, DistributedDataParallel):
        # What DDP exchanges in a forward pass happens here, not in passes that only some processes make.
        wrapped.broadcast_buffers = False  # they never change
        wrapped(None).backward()
        held.zero_grad(set_to_none=True)
        with wrapped.no_sync():
            wrapped(None)  # its buckets are laid out anew in the second pass
    return wrapped, held


def release(accelerator: Accelerator, wrapped: Any, optimizer: Any) -> None:
    """Leaves the student as it was before `prepare`, but for what it has learned."""
    if isinstance(wrapped, Shards):
        wrapped.release()
    accelerator.free_memory(wrapped, optimizer)


@contextlib.contextmanager
def stepping(wrapped: Any, accelerator: Accelerator) -> Generator[None]:
    """Around clipping and the step: gradients are those of all processes, parameters are what the optimiser holds.

    The gradients travel in a pass over nothing, since real passes differ: a process may have no rows, or no images.
    """
    nowhere: list[bool] = []
    if accelerator.num_processes > 1 or isinstance(wrapped, Shards):
        seen = [parameter.grad is not None for parameter in _trained(wrapped)]
        total: Any = accelerator.reduce(torch.tensor(seen, dtype=torch.int32, device=accelerator.device), "sum")
        nowhere = (total == 0).tolist()
        accelerator.backward(wrapped(None))
    with apart(wrapped):
        for parameter, unseen in zip(_trained(wrapped), nowhere, strict=False):
            if unseen:  # as in one process, where weight decay would not touch it either
                parameter.grad = None
        yield


@contextlib.contextmanager
def apart(wrapped: Any) -> Generator[None]:
    """Inside, parameters are what the optimiser holds, under FSDP2 shards; the model cannot run."""
    if isinstance(wrapped, Shards):
        wrapped.split()
    yield
    if isinstance(wrapped, Shards):  # not after an error, since the other processes would not take part
        wrapped.gather()


def whole(value: Any) -> Any:
    """A tensor that may be in shards; every process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def share(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is held, in shards perhaps; every process has to ask."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def whole_state(optimizer: Any, keep: bool) -> dict[str, Any]:
    """The optimiser's state as one process would have it; every process has to ask.

    Args:
        keep: False drops gathered tensors at once, in processes that only take part.
    """
    state = optimizer.state_dict()

    def gathered(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        full = whole(value)
        return full.cpu() if keep else None

    return {**state, "state": {n: {k: gathered(v) for k, v in of.items()} for n, of in state["state"].items()}}


def load_state(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Takes up what `whole_state` gave, with any number of processes; every process has to."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shared = {n: {k: share(v, parameters[n]) for k, v in of.items()} for n, of in state["state"].items()}
    optimizer.load_state_dict({**state, "state": shared})


class Shards(nn.Module):
    """What accelerate shards: the model and the value head of a student, for one stage."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.model, self.value = student.model, student.value
        self._student = [student]  # lists hide what they hold from modules()
        self._empty = [_emptied(student.model), None if student.value is None else _emptied(student.value)]

    @property
    def _no_split_modules(self) -> list[str]:
        """For accelerate's TRANSFORMER_BASED_WRAP: the layers to gather one by one. Some architectures name absent
        ones, at which accelerate fails."""
        here = {type(module).__name__ for module in self.modules()}
        return sorted(here & set(getattr(self._student[0].base, "_no_split_modules", None) or ()))

    def forward(self, pack: Pack | None, ask: Ask | None = None) -> Tensor | Measured:
        """The student's own pass."""
        student = self._student[0]
        if pack is None or ask is None:
            return student(pack)
        found = student(pack, ask)
        return {name: value.clone() for name, value in found.items()}  # FSDP's hooks do not hold on views

    def settle(self) -> None:
        """Takes the weights out of FSDP's hands: they are gathered here, and stay until a step."""
        for part in self._parts():
            part.set_reshard_after_forward(False, recurse=False)
            part.set_reshard_after_backward(False, recurse=False)
            if self._student[0].device.type == "cpu":
                part.set_force_sum_reduction_for_comms(True)  # gloo cannot average
        self.gather()
        with torch.no_grad():
            self(None)  # FSDP takes what runs first for the root, and rollouts run layers alone

    def gather(self) -> None:
        for part in self._parts():
            part.unshard()

    def split(self) -> None:
        for part in self._parts():
            part.reshard()

    def release(self) -> None:
        """Gives the student a plain model again, with the weights of now."""
        student = self._student[0]
        model, value = self._empty
        student.model = _filled(model, self.model)
        student.value = None if value is None else _filled(value, self.value)
        student.encoder.model = student.base
        self.split()  # frees the gathered weights, whoever still holds this

    def _parts(self) -> list[FSDPModule]:
        return [module for module in self.modules() if isinstance(module, FSDPModule)]


def _trained(module: Any) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _emptied(module: Any) -> Any:
    """A copy whose weights take no room."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


def _filled(empty: Any, live: Any) -> Any:
    """The emptied copy, with the weights of the module that it was made of."""
    pairs = zip(empty.parameters(), live.parameters(), strict=True)
    full = {id(e): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for e, p in pairs}
    for module in empty.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, full[id(parameter)])
    return empty.train(live.training)
