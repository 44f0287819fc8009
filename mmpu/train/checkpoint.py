"""Checkpoints that a crash cannot spoil: written beside the old one, flushed, then renamed into place.

A checkpoint holds the trainable weights, the optimiser's state and a few counters. Everything else (data order,
sampling seeds, learning rate) is a pure function of the step, so a resumed stage continues exactly where the
uninterrupted one would be.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmpu.core import UserError
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
        (temporary / "state.json").write_text(json.dumps({**state, "step": step}))
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
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def restore(
    folder: Path, student: Student, optimizer: Any, shadow: Shadow | None = None, wrapped: Any = None
) -> State | None:
    """Loads the newest checkpoint into student and optimiser; None if there is none. Sweeps up unfinished ones.

    Args:
        wrapped: The student as `sharding.prepare` gave it.
    """
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = steps(folder)
    if not found:
        return None
    newest = folder / f"step-{found[-1]:08d}"
    weights = load_file(newest / "weights.safetensors")
    if weights.keys() != {n for n, p in student.named_parameters() if p.requires_grad}:
        raise UserError(f"{newest} belongs to a student with other trainable weights; give the run another name")
    with torch.no_grad(), sharding.apart(wrapped):
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(sharding.share(weights[name], parameter))
    student.version += 1
    if shadow and shadow.state():
        shadow.load(load_file(newest / "shadow.safetensors"))
    sharding.load_state(optimizer, torch.load(newest / "optimizer.pt", map_location="cpu", weights_only=True))
    return json.loads((newest / "state.json").read_text())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
