"""A GPU that is not there: tensors live on the CPU and say that they are on `cuda:0`; whoever mixes the two is refused.

Inside `gpu()`, `.to("cuda")`, `device=` and all that follows from a tensor over there are over there, by a mark on the
storage; what is made without a device is on the CPU. An operation on both raises, as CUDA does (indices and scalars in
tensors of no dimension, which CUDA takes after a copy that waits, are refused or counted). What makes the host wait is
counted by the line of the project that asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmpu.student import kernels

PLACE = torch.device("cuda", 0)
CPU = torch.device("cpu")
TESTS = str(Path(__file__).parent)
PROJECT = str(Path(__file__).parent.parent / "mmpu")
TORCH = str(Path(torch.__file__).parent)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim")
"""Operations whose result's value or size the host waits for."""
DEVICE, ON_CUDA, ON_CPU = Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.is_cpu.__get__
MOVES = (Tensor.to, Tensor.cuda, Tensor.cpu)
ITEMS = (Tensor.__getitem__, Tensor.__setitem__)
HANDED_ON = (Tensor.__deepcopy__, Tensor.new_tensor)
"""What makes a storage without an operation on the one that it is like."""


INDEXED = ("index", "index_put", "index_put_")
"""Operations to which CUDA lets indices come from the CPU; transformers does so, and the project is not to."""


class Marks:
    """Which storages lie over there, and what the host has waited for."""

    def __init__(self) -> None:
        self.held: dict[int, StorageWeakRef] = {}
        self.waits = Counter[str]()
        """By the place in the project that waited."""
        self.inherits = False
        """Whether what torch makes of nothing, inside an operation, belongs to operands over there."""

    def on(self, tensor: Tensor) -> bool:
        return next(_storages(tensor))._cdata in self.held

    def put(self, tensor: Tensor) -> Tensor:
        for storage in _storages(tensor):
            self.held[storage._cdata] = StorageWeakRef(storage)
        if len(self.held) > 20_000:  # a freed storage's address may be used again once nobody refers to it
            self.held = {key: each for key, each in self.held.items() if not each.expired()}
        return tensor

    def wait(self, what: str) -> None:
        frame, places = sys._getframe(1), list[str]()
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(PROJECT):
                places.append(f"{file.removeprefix(PROJECT + '/')}:{frame.f_lineno}")
            frame = frame.f_back
        generating = any(place.startswith("student/decoding.py") for place in places)
        where = "generating" if generating else (places or ["elsewhere"])[0]
        self.waits[f"{where} {what}"] += 1


class _Functions(TorchFunctionMode):
    """What Python asks of torch: devices are taken out of the arguments, and the results marked."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        marks, kwargs = self.marks, dict(kwargs or {})
        if func == DEVICE:
            return PLACE if marks.on(args[0]) else func(*args)
        if func in (ON_CUDA, ON_CPU):
            return marks.on(args[0]) == (func == ON_CUDA)
        if func in MOVES:
            return self._moved(func, *args, **kwargs)
        before = [marks.on(t) for t in _tensors([*args, *kwargs.values()])]
        if func in (Tensor.numpy, Tensor.__array__) and before[0]:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func is Tensor.tolist and before[0]:
            marks.wait("tolist")
        if func in ITEMS and before[0]:
            args = (args[0], self._index(args[1]), *args[2:])
        wanted = _place(kwargs["device"]) if kwargs.get("device") is not None else None
        if wanted == PLACE:
            del kwargs["device"]
        outer, marks.inherits = marks.inherits, any(before)
        try:
            found = func(*args, **kwargs)
        finally:
            marks.inherits = outer
        if wanted == PLACE or (func in HANDED_ON and before[0] and wanted is None):
            if func in (torch.tensor, torch.as_tensor) and not before:
                marks.wait("upload")
            marks.put(found)
        elif wanted is not None and any(before):
            marks.held.pop(next(_storages(found))._cdata, None)
        return found

    def _index(self, index: Any) -> Any:
        """Lists of numbers become tensors over there, as torch makes them."""
        if isinstance(index, tuple):
            return tuple(self._index(each) for each in index)
        if not isinstance(index, list):
            return index
        self.marks.wait("upload")
        return self.marks.put(torch.tensor(index))

    def _moved(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        marks = self.marks
        here = there = tensor.device if not marks.on(tensor) else PLACE
        if func is Tensor.cpu:
            there, dtype, copies = CPU, None, False
        elif func is Tensor.cuda:
            there, dtype, copies = PLACE, None, False
        else:
            copies, waits = kwargs.pop("copy", False), not kwargs.get("non_blocking")
            if (args and isinstance(args[0], Tensor)) or isinstance(kwargs.get("other"), Tensor):
                like = args[0] if args else kwargs["other"]
                there, dtype = PLACE if marks.on(like) else like.device, like.dtype
            else:
                device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
                there = here if device is None else _place(device)
            if there != here and waits is False and there == PLACE:
                return marks.put(tensor.to(dtype=dtype or tensor.dtype, copy=True))
        outer, marks.inherits = marks.inherits, here == PLACE
        try:
            found = tensor.to(CPU if here == PLACE or there == PLACE else there, dtype or tensor.dtype, copy=copies)
            if PLACE not in (here, there) or here == there:
                return found
            found = _copied(found)
        finally:
            marks.inherits = outer
        marks.wait("upload" if there == PLACE else "download")
        return marks.put(found) if there == PLACE else found


def _copied(tensor: Tensor) -> Tensor:
    """On the other device, differentiably, in a storage of its own."""
    return _Copied.apply(tensor)  # pyright: ignore


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.over_there = tensor.device
        with torch.utils._python_dispatch._disable_current_modes():
            return tensor.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0].to(ctx.over_there)


class _Operations(TorchDispatchMode):
    """What torch does, forwards and backwards: both devices in one operation are refused, results are marked."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and skipping it means importing it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        marks, kwargs = self.marks, kwargs or {}
        with torch._C.DisableTorchFunction():
            given = [(t, marks.on(t)) for t in _tensors([*args, *kwargs.values()])]
            over_there, name = any(on for _, on in given), func._schema.name.removeprefix("aten::")
            if over_there:
                if name in READS or (name == "index" and any(_masks(args[1]))):
                    marks.wait(name)
                if name == "copy_":
                    if not marks.on(args[1]) or not marks.on(args[0]):
                        marks.wait("upload" if marks.on(args[0]) else "download")
                        return func(*args, **kwargs)
                elif name in INDEXED and marks.on(args[0]) and not _asked_here():
                    marks.wait("upload")
                elif any(not on and (t.ndim or "index" in name or "gather" in name) for t, on in given):
                    shapes = ", ".join(f"{tuple(t.shape)} on {PLACE if on else CPU}" for t, on in given)
                    raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {shapes}")
            found = func(*args, **kwargs)
            if over_there or (not given and marks.inherits):
                for tensor in _tensors(found):
                    marks.put(tensor)
            return found


def _storages(tensor: Tensor) -> Iterator[torch.UntypedStorage]:
    for part in (tensor._values(), tensor._indices()) if tensor.is_sparse else (tensor,):
        yield part.untyped_storage()


def _tensors(value: Any, found: list[Tensor] | None = None) -> list[Tensor]:
    """All tensors in nested arguments; a list that begins with a number holds none."""
    found = [] if found is None else found
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, list | tuple):
        if value and not isinstance(value[0], (int, float)):
            for each in value:
                _tensors(each, found)
        elif isinstance(value, tuple):
            found += [each for each in value if isinstance(each, Tensor)]
    elif isinstance(value, dict):
        for each in value.values():
            _tensors(each, found)
    elif isinstance(value, slice):
        _tensors((value.start, value.stop, value.step), found)
    return found


def _asked_here() -> bool:
    """Whether an operation was asked for by the project, and not by a library."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith((TORCH, __file__)):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith((PROJECT, TESTS))


def _masks(indices: Any) -> Iterator[bool]:
    return (t.dtype in (torch.bool, torch.uint8) for t in _tensors(indices))


def _place(device: Any) -> torch.device:
    return PLACE if torch.device(device).type == "cuda" else torch.device(device)


@contextlib.contextmanager
def gpu(marks: Marks | None = None) -> Generator[Marks]:
    """Inside, this thread has a GPU, which accelerate takes for its own.

    Args:
        marks: Of an earlier time, for tensors that have stayed there.
    """
    marks = marks or Marks()
    functions = _Functions(marks)
    run = torch.autograd.graph._engine_run_backward

    def backwards(*args: Any, **kwargs: Any) -> Any:
        outer, marks.inherits = marks.inherits, True
        try:
            with functions:
                return run(*args, **kwargs)
        finally:
            marks.inherits = outer

    with contextlib.ExitStack() as held:
        for patch in _patches(backwards):
            held.enter_context(patch)
        held.enter_context(functions)
        held.enter_context(_Operations(marks))
        yield marks


def _patches(backwards: Callable[..., Any]) -> Iterator[Any]:
    """What asks for a device by another way than a tensor."""
    autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    grouped = torch.utils._foreach_utils._group_tensors_by_device_and_dtype

    def here(kind: str = "cuda") -> str:
        return "cpu" if kind == "cuda" else kind

    def by_device(tensorlistlist: Any, with_indices: bool = False) -> dict[Any, Any]:
        found = grouped(tensorlistlist, with_indices)
        first = _tensors(tensorlistlist)
        where = first[0].device if first else CPU
        return {(where, kind): value for (_, kind), value in found.items()}

    yield mock.patch("torch.autograd._engine_run_backward", backwards)
    yield mock.patch("torch._tensor.torch.autograd._engine_run_backward", backwards)
    for name in ("torch.autocast", "torch.amp.autocast"):
        yield mock.patch(name, lambda device_type, *a, **k: autocast(here(device_type), *a, **k))
    yield mock.patch("torch.is_autocast_enabled", lambda kind="cuda": enabled(here(kind)))
    yield mock.patch("torch.get_autocast_dtype", lambda kind: dtype(here(kind)))
    yield mock.patch("torch.random.fork_rng", functools.partial(_forked, torch.random.fork_rng))
    yield mock.patch("torch.cuda.get_device_name", return_value="pretended")
    yield mock.patch("torch.cuda.mem_get_info", return_value=(2**30, 2**30))
    about = {"default": lambda t: {"shape": t.shape, "dtype": t.dtype}}  # a hook of autograd, where no mode is
    yield mock.patch.dict("torch.utils.checkpoint._allowed_determinism_checks_to_fns", about)
    for user in ("torch.optim.optimizer", "torch.nn.utils.clip_grad"):
        yield mock.patch(f"{user}._group_tensors_by_device_and_dtype", by_device)
    yield mock.patch("accelerate.utils.memory.gc.collect", return_value=0)  # takes as long as a small stage
    yield mock.patch.object(Accelerator, "device", property(lambda _: PLACE))
    # What only CUDA has: its attention kernels and its products of half types that come out whole.
    yield mock.patch("mmpu.student.kernels.chosen", return_value=kernels.FLASH)
    yield mock.patch("mmpu.student.products.product", _product)


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return a.float() @ b.float()


def _forked(fork: Any, *_: Any, **__: Any) -> Any:
    return fork([])
