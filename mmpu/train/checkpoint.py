"""Checkpoints that a crash cannot spoil: written beside the old one, flushed, then renamed into place.

A checkpoint holds the trainable weights, the optimiser's state and a few counters. Everything else (data order,
sampling seeds, learning rate) is a pure function of the step, so a resumed stage continues exactly where the
uninterrupted one would be.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmpu import files
from mmpu.core import UserError
from mmpu.knobs import MANY
from mmpu.student import Student
from mmpu.train import sharding
from mmpu.train.shadow import Shadow

State = dict[str, Any]
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""How Python, torch and safetensors report a disk that is full."""


def save(
    folder: Path,
    step: int,
    student: Student,
    optimizer: Mapping[str, Any],
    state: State,
    shadow: Shadow | None = None,
    keep: int = 2,
) -> Path:
    """Writes `folder/step-00000040` and removes all but the newest `keep`.

    Args:
        optimizer: The optimiser's whole state.

    Raises:
        UserError: the disk refused; earlier checkpoints are intact.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {n: p.detach().contiguous().cpu() for n, p in student.named_parameters() if p.requires_grad}
        save_file(weights, temporary / "weights.safetensors")
        if shadow and shadow.state():
            save_file(shadow.state(), temporary / "shadow.safetensors")
        torch.save(dict(optimizer), temporary / "optimizer.pt")
        sums = {file.name: _sum(file) for file in sorted(temporary.iterdir())}
        content = {**state, "step": step, "sums": sums}
        (temporary / "state.json").write_text(json.dumps({**content, "sum": _sum_of(content)}))
        for file in temporary.iterdir():
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        _flush(folder)
    except WRITE_ERRORS as error:
        shutil.rmtree(temporary, ignore_errors=True)
        before = steps(folder)
        raise UserError(
            f"cannot write the checkpoint {final}: {error}. "
            + (f"Step {before[-1]} is intact; " if before else "")
            + "make room and run the same command again"
        ) from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return final


def steps(folder: Path) -> list[int]:
    """The steps of complete checkpoints, ascending."""
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def newest(folder: Path, last: int) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with newer ones.

    Args:
        last: Steps of the stage; a checkpoint beyond them is of another one.
    """
    wrong: list[str] = []
    for step in reversed(steps(folder)):
        place = folder / f"step-{step:08d}"
        reason = _fault(place, step, last)
        if reason is None:
            return place, wrong
        wrong.append(f"the checkpoint {place} is damaged: {reason}")
    return None, wrong


def _fault(place: Path, step: int, last: int) -> str | None:
    """What is wrong with a checkpoint; None if its files are those that were written."""
    try:
        state = files.value_in(place / "state.json")
        if state.pop("sum", None) not in (None, _sum_of(state)):
            return "state.json is not what was written"
        sums = state.get("sums", {})
        for name in ("weights.safetensors", "optimizer.pt", *sums):
            if not (place / name).is_file():
                return f"{name} is missing"
        changed = [name for name, known in sums.items() if _sum(place / name) != known]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    if changed:
        return f"{changed[0]} is not what was written"
    if state.get("step") != step or step >= last:
        return f"it says step {state.get('step')} of {last}"
    return None


def _sum_of(state: State) -> int:
    return zlib.crc32(json.dumps({k: v for k, v in state.items() if k != "sum"}, sort_keys=True).encode())


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            total = zlib.crc32(piece, total)
    return total


def restore(
    folder: Path,
    student: Student,
    optimizer: Any,
    shadow: Shadow | None = None,
    wrapped: Any = None,
    last: int = MANY,
    warn: Callable[[str], None] = print,
) -> State | None:
    """Loads the newest checkpoint that is whole into student and optimiser; None if there is none. Sweeps up unfinished
    ones.

    Args:
        wrapped: The student as `sharding.prepare` gave it.
        last: Steps of the stage.
        warn: Is told of each damaged one.
    """
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    found, wrong = newest(folder, last)
    for text in wrong:
        warn(f"{text}; {f'going on from {found.name}' if found else 'starting the stage anew'}")
    if found is None:
        return None
    weights = load_file(found / "weights.safetensors")
    if weights.keys() != {n for n, p in student.named_parameters() if p.requires_grad}:
        raise UserError(f"{found} belongs to a student with other trainable weights; give the run another name")
    with torch.no_grad(), sharding.apart(wrapped):
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(sharding.share(weights[name], parameter))
    student.version += 1
    if shadow and shadow.state():
        shadow.load(load_file(found / "shadow.safetensors"))
    sharding.load_state(optimizer, torch.load(found / "optimizer.pt", map_location="cpu", weights_only=True))
    return files.value_in(found / "state.json")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
