"""What a task given by its path may name: what lies in its own folder, what is on the search path (docs/security.md).

Whoever trusts a task, or points it at other files, says so himself: `--trust`, `--data`, the search path.
"""

from __future__ import annotations

from pathlib import Path

from mmpu import plugins
from mmpu.core import UserError

WAY_OUT = "put it into the folder, point the task at its files with --data, or read the task and allow it with --trust"


def check_name(name: str, folder: Path, where: str) -> None:
    """A file that a task names must lie in its data folder, by its name.

    Raises:
        UserError: it does not.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or name.startswith("~"):
        raise UserError(f"{where}: {name!r} leaves the task's folder {folder}; {WAY_OUT}")


def check_file(file: Path, folder: Path, where: str) -> None:
    """A file must lie in the data folder, whatever links it goes through.

    Raises:
        UserError: it does not.
    """
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that cannot be one
        inside = False
    if not inside:
        raise UserError(f"{where}: {file} is a link that leaves the task's folder {folder}; {WAY_OUT}")


def check_judge(name: str, where: str) -> str:
    """A judge must be on the search path: its YAML says where texts and a key are sent.

    Raises:
        UserError: it is not.
    """
    if name not in plugins.data("judges"):
        raise UserError(
            f"{where}: `judge: {name}` is not on the search path; choose one with --judge, or read the task and allow "
            "it with --trust"
        )
    return name


def check_baseline(name: str, folder: Path, where: str) -> str:
    """A baseline must be `reference`, a file of answers in the task's folder, or a model by its name.

    Returns:
        What it stands for, a file by its path.

    Raises:
        UserError: it is something else, such as a folder, which may bring code.
    """
    if name == "reference" or name in plugins.data("models"):
        return name
    if Path(name).suffix in (".jsonl", ".json"):
        check_name(name, folder, where)
        check_file(folder / name, folder, where)
        return str(folder / name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).exists():
        raise UserError(
            f"{where}: `baseline: {name}` is neither `reference`, nor a file of answers in the task's folder, nor a "
            "model's name; choose one with --baseline, or read the task and allow it with --trust"
        )
    return name
