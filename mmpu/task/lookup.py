"""Finding tasks by name, by an alias such as a paper's, or by path; and the local files that are meant for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mmpu import plugins
from mmpu.config import Values, load_yaml
from mmpu.core import UserError
from mmpu.task import given


def find_task(name: str) -> Path:
    """The YAML of a task by its name, an alias, or a path; or a file of rows in its place."""
    if given.is_rows(name):
        return Path(name).expanduser().resolve()
    if given.is_named(name):
        folder = Path(name).expanduser().parent
        there = [path.name for path in folder.iterdir() if given.is_named(path.name)] if folder.is_dir() else []
        raise UserError(f"{name}: no such file; in {folder} {plugins.suggest(Path(name).name, there)}")
    try:
        return plugins.find_data("tasks", name)
    except UserError:
        known = plugins.data("tasks")
        aliases = {alias: path for path in known.values() for alias in readable(path)[0]}
        found = {alias.casefold(): path for alias, path in aliases.items()}.get(name.casefold())
        if found is not None:
            return found
        if Path(name).suffix in plugins.SPELLINGS[".yaml"]:
            raise
        raise UserError(
            f"no task {name!r:.200} on the search path and no such file; {plugins.suggest(name, [*known, *aliases])}"
        ) from None


def place_of(data: Sequence[str], task: str, others: Sequence[str] = ()) -> str | None:
    """What `--data` gives a task: of `NAME=PATH` the path that names it or its data set, or a bare `PATH`.

    Args:
        others: Further names that may stand there, of tasks of lm-eval.

    Raises:
        UserError: a name that no task goes by.
    """
    path = find_task(task)
    own = {path.stem, task, *_names(path)}
    chosen: str | None = None
    for item in data:
        name, equals, folder = item.partition("=")
        if not item.rpartition("=")[2].lstrip("@"):
            raise UserError(f"--data {item!r} names no files and no revision; write --data [NAME=]PATH or @REVISION")
        if not equals:
            chosen = chosen or item
        elif name in own:
            chosen = folder
        else:
            tasks = plugins.data("tasks")
            known = {n for stem, p in tasks.items() for n in (stem, *_names(p))} | set(others)
            if name not in known:
                raise UserError(f"--data {item}: no task or data set is named {name!r}; {plugins.suggest(name, known)}")
    return chosen


def _names(path: Path) -> list[str]:
    aliases, values = readable(path)
    return [*aliases, *([dataset] if isinstance(dataset := values.get("dataset"), str) else [])]


def readable(path: Path) -> tuple[list[str], Values]:
    """A task's aliases and keys; none where its YAML cannot be read, which only who wants that task must know."""
    try:
        return described(path)
    except UserError:
        return [], {}


def described(path: Path) -> tuple[list[str], Values]:
    """A task's aliases and keys.

    Raises:
        UserError: its YAML cannot be read, or its aliases are no list of names.
    """
    values = load_yaml(path) if path.suffix == plugins.DATA_KINDS["tasks"] else given.stands_for(path)
    aliases: object = values.get("aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(a, str) for a in cast(list[object], aliases)):
        raise UserError(f"{path}: `aliases` must be a list of names, got {aliases!r:.80}")
    return cast(list[str], aliases), values


def on_the_path(path: Path) -> bool:
    """Whether a task's YAML lies in a folder or package that the user has put on the search path, and so trusts."""
    return any(path.is_relative_to((root.data / "tasks").resolve()) for root in plugins.roots())
