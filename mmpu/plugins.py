"""One search path for data and code. First hit wins:

1. folders named in `MMPU_PATH` (separated as in `PATH`);
2. packages that advertise themselves in the entry point group `mmpu.plugins`;
3. mmpu itself, which has no privilege beyond being last.

Each is laid out like mmpu: `tasks/*.yaml`, `judges/*.yaml`, `configs/*.yaml`, `models/<name>/`, and code as one class
per file in `methods/ scorers/ engines/ graders/ judges/ families/ formats/`, the file named as the thing. No
decorators, no registry.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from mmpu import contracts, files
from mmpu.core import UserError, digest

T = TypeVar("T")

PACKAGE = Path(__file__).parent
OWN = "mmpu_plugin_"
"""What the names of modules begin with that are files of a folder on the search path, and of no package."""
DATA_KINDS = {"tasks": ".yaml", "judges": ".yaml", "configs": ".yaml", "models": ""}
"""File suffix of each kind of data; a model is a folder."""
SPELLINGS = {".yaml": (".yaml", ".yml")}
"""Suffixes of a file that is given by its path."""


@dataclass(frozen=True)
class Root:
    """A place on the search path."""

    name: str
    data: Path
    code: Path
    package: str | None
    """Import name, for packages; None for a bare folder."""


@cache
def _roots(path: str) -> tuple[Root, ...]:
    roots: list[Root] = []
    for entry in filter(None, path.split(os.pathsep)):
        folder = files.place(entry).resolve()
        if not folder.is_dir():
            raise UserError(f"MMPU_PATH names {entry!r}, which is not a folder; correct or unset MMPU_PATH")
        roots.append(Root(entry, folder, folder, None))
    for point in entry_points(group="mmpu.plugins"):
        try:
            spec = importlib.util.find_spec(point.value)
        except ModuleNotFoundError:  # of a parent package
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"plug-in {point.name!r} names {point.value!r}, which is not an importable package; reinstall it"
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
        roots.append(Root(point.name, folder, folder, point.value))
    checkout = PACKAGE.parent
    own = checkout if (checkout / "pyproject.toml").exists() else PACKAGE / "_assets"
    return (*roots, Root("mmpu", own, PACKAGE, "mmpu"))


def roots() -> tuple[Root, ...]:
    return _roots(os.environ.get("MMPU_PATH", ""))


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: what was meant, or what there is."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    close = close or [k for k in known if len(name) > 2 and (name in k or k in name)]
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"there is: {', '.join(known)}" if known else "there is none"


# ------------------------------------------------------------------------------------------------------------------
# data


def _data_files(kind: str) -> Iterator[tuple[str, Path]]:
    suffix = DATA_KINDS[kind]
    for root in roots():
        # Models are shipped next to the code that trained them; everything else is plain data beside the package.
        folder = (root.code if kind == "models" else root.data) / kind
        if not suffix:
            yield from ((p.parent.name, p.parent) for p in sorted(folder.glob("*/config.json")))
            continue
        for path in sorted(folder.rglob(f"*{suffix}")):
            yield path.relative_to(folder).with_suffix("").as_posix(), path


def data(kind: str) -> dict[str, Path]:
    """Every name of a kind of data with the file or folder that serves it."""
    found: dict[str, Path] = {}
    for name, path in _data_files(kind):
        found.setdefault(name, path)
    return found


def find_data(kind: str, name: str) -> Path:
    """The file (folder, for models) of `name`, which may also be a path."""
    path, suffixes = files.place(name), SPELLINGS.get(DATA_KINDS[kind])
    if files.is_file(path) and path.suffix in suffixes if suffixes else files.is_folder(path):
        return path.resolve()
    found = data(kind)
    if name in found:
        return found[name]
    what = kind.removesuffix("s")
    start = f"no {what} {name!r:.200} on the search path and no such file"
    if suffixes and (path.suffix in suffixes or (path.parent != Path() and files.is_folder(path.parent))):
        there = {str(each): each.stem for each in sorted(path.parent.glob("*")) if each.suffix in suffixes}
        close = difflib.get_close_matches(path.stem, there.values(), n=3, cutoff=0.6)
        meant = " or ".join(repr(each) for each, stem in there.items() if stem in close)
        here = path.parent if path.parent != Path() else "this folder"
        raise UserError(
            f"{start}; " + (f"did you mean {meant}?" if meant else f"{here} holds {', '.join(there) or 'no YAML'}")
        )
    raise UserError(f"{start}; {suggest(name, found)}")


def beside(path: Path, name: str) -> Path:
    """A file named in the YAML at `path`: beside it, or `package:name/inside/it` of an installed package."""
    if not name.startswith("package:"):
        return path.parent / name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{path} takes a file from the package {package!r}, which is not installed; install it")
    return Path(next(iter(spec.submodule_search_locations))) / inside


# ------------------------------------------------------------------------------------------------------------------
# code


def code(kind: str) -> dict[str, Root]:
    """Every name of a kind of code with the root that serves it."""
    found: dict[str, Root] = {}
    for root in roots():
        for path in sorted((root.code / kind).glob("*.py")):
            if not path.stem.startswith("_"):
                found.setdefault(path.stem, root)
    return found


def load_module(path: Path) -> ModuleType:
    """Imports a file under a name of its own; the same file is imported once."""
    name = f"{OWN}{path.stem}_{digest(str(path.resolve()))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} is not a Python file that can be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except SystemExit:
            del sys.modules[name]
            raise UserError(f"{path} ends the program when it is imported; take that out") from None
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def find_class(kind: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that `<kind>/<name>.py` defines."""
    found = code(kind)
    if name not in found:
        raise UserError(f"no {kind.removesuffix('s')} {name!r} on the search path; {suggest(name, found)}")
    root = found[name]
    path = root.code / kind / f"{name}.py"
    module = importlib.import_module(f"{root.package}.{kind}.{name}") if root.package else load_module(path)
    classes = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(classes) != 1:
        raise UserError(f"{path} must define exactly one public subclass of {base.__name__}, it defines {len(classes)}")
    missing = sorted(getattr(classes[0], "__abstractmethods__", ()))
    if missing:
        raise UserError(
            f"{path}: {classes[0].__name__} lacks {', '.join(missing)}, which every {base.__name__} defines"
        )
    if kind in contracts.CONTRACTS and not dataclasses.is_dataclass(classes[0]):
        raise UserError(f"{path}: {classes[0].__name__} is no dataclass; write @dataclass(frozen=True) above it")
    if root.package != "mmpu":
        contracts.keep(classes[0], kind)
    return classes[0]


def culprit(error: BaseException) -> str | None:
    """The file of a plug-in, with the line, in which an error was raised; None if it was raised in none."""
    packages = tuple(f"{root.package}." for root in roots() if root.package not in (None, "mmpu"))
    found: str | None = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith((OWN, *packages)):
            found = f"{frame.f_code.co_filename}, line {line}"
    if isinstance(error, SyntaxError) and any(Path(error.filename or "").is_relative_to(r.code) for r in roots()):
        return f"{error.filename}, line {error.lineno}"
    return found
