"""Processes of their own that start at once: forked from one that has imported what takes seconds, none of it ours."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["accelerate", "peft", "aiohttp", "pydantic", "rich"])


def start(code: str, arguments: Sequence[str], said: Path, **environment: str) -> ForkServerProcess:
    """What `python -c code argument …` starts, in this folder.

    Args:
        said: The file that takes all it prints.
        environment: Variables beside those of this process.
    """
    given = (code, list(arguments), said, str(Path.cwd()), {**os.environ, **environment})
    process = FORK.Process(target=_run, args=given, daemon=True)
    process.start()
    return process


def run(code: str, arguments: Sequence[str], said: Path, **environment: str) -> int:
    """The same, until it ends; returns its exit status."""
    process = start(code, arguments, said, **environment)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


MMPU = "from mmpu.cli.main import main; main()"
"""The command line as code."""


def together(code: str, arguments: Sequence[str], said: Path, **environment: str) -> list[int | None]:
    """The same in two processes that know of each other by the variables that torchrun sets; their exit statuses. Where
    one fails, the other need not wait for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        start(
            code,
            arguments,
            said.with_name(f"{said.name}.{rank}"),
            **environment | place | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    while alive := [process for process in processes if process.exitcode is None]:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in processes):
            for process in alive:
                process.kill()
    return [process.exitcode for process in processes]


def _run(code: str, arguments: list[str], said: Path, folder: str, environment: dict[str, str]) -> None:
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = ["-c", *arguments]
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    exec(compile(code, "<apart>", "exec"), {"__name__": "__main__"})
