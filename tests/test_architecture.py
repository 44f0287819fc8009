"""Who imports whom: the table that keeps a method a page of formulas and a listing as quick as Python itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVERYTHING = "*"

USES = {
    "core": "",
    "statistics": "",
    "losses": "core",
    "plugins": "core",
    "prompts": "core",
    "config": "core plugins",
    "client": "core",
    "media": "core",
    "store": "core plugins",
    "graders": "core",
    "judges": "core prompts",
    "scorers": "core prompts",
    "families": "core media",
    "methods": "core losses prompts student",
    "task": "config core graders media plugins",
    "student": "core families media plugins recipes",
    "engines": "client core media store student",
    "train": "core losses statistics store student",
    "boards": "core media prompts statistics store task",
    "judging": "boards core media prompts statistics store",
    "evaluation": "boards config core judging media statistics store task",
    "recipes": "config core engines evaluation judging media plugins store student task train",
    "studies": "config core engines plugins recipes statistics store task",
    "cli": EVERYTHING,
}
"""What of mmpu each wing (a package, or a file of the ground floor) may import, at its top or inside a function."""

LIGHT = {
    *("core", "statistics", "plugins", "prompts", "config", "client", "media", "store", "graders", "judges", "task"),
    *("boards", "judging", "evaluation", "studies", "cli"),
    *("recipes.training", "recipes.evaluation", "recipes.collecting", "recipes.wiring", "recipes.fit"),
    *("recipes.presets", "recipes.runs"),
    *("engines.cached", "engines.counted", "engines.openai", "engines.reference", "engines.replay"),
}
"""What can be imported where there is no torch."""

HEAVY = {"torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "vllm"}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name without `mmpu.`, parsed."""
    parsed: dict[str, ast.Module] = {}
    for path in sorted((ROOT / "mmpu").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "mmpu").with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            parsed[name] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


MODULES = modules()


def imports(node: ast.AST, *, lazy: bool) -> set[str]:
    """Full names of what is imported below a node; `lazy` includes imports inside functions. Types only: excluded."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            # `from mmpu import media` names a module, `from mmpu import __version__` does not.
            inner = {f"mmpu.{alias.name}" for alias in child.names if not alias.name.startswith("_")}
            found |= inner if child.module == "mmpu" else {str(child.module)}
        found |= imports(child, lazy=lazy)
    return found


def row(name: str) -> str:
    """The wing that a module stands in."""
    return name.split(".")[0]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_table_names_what_there_is() -> None:
    assert {row(name) for name in MODULES} == set(USES)
    assert not [name for name in LIGHT if name not in MODULES]


@pytest.mark.parametrize("name", [name for name in MODULES if USES.get(row(name)) != EVERYTHING])
def test_a_module_imports_what_its_row_allows(name: str) -> None:
    used = {row(i.removeprefix("mmpu.")) for i in imports(MODULES[name], lazy=True) if i.startswith("mmpu.")}
    assert used <= {*USES[row(name)].split(), row(name)}


def test_only_engines_that_sample_the_student_know_it() -> None:
    knowing = {n for n in MODULES if row(n) == "engines" and "mmpu.student.student" in imports(MODULES[n], lazy=True)}
    assert knowing == {"engines.hf", "engines._vllm", "engines.vllm", "engines.vllm_server"}


def test_a_method_has_at_most_one_parent() -> None:
    for name in (n for n in MODULES if row(n) == "methods"):
        parents = {i for i in imports(MODULES[name], lazy=True) if i.startswith("mmpu.methods")}
        assert len(parents) <= 1, f"{name} builds on {parents}"


@pytest.mark.parametrize("name", [name for name in MODULES if name in LIGHT or row(name) in LIGHT])
def test_a_light_module_leaves_heavy_imports_to_its_functions(name: str) -> None:
    loaded, pending = {name}, [name]
    while pending:
        direct = imports(MODULES[pending.pop()], lazy=False)
        assert not {i.split(".")[0] for i in direct} & HEAVY
        own = {i.removeprefix("mmpu.") for i in direct if i.startswith("mmpu.")} & set(MODULES)
        pending += own - loaded
        loaded |= own


def test_light_modules_import_without_torch() -> None:
    names = [f"mmpu.{name}" for name in MODULES if name in LIGHT or row(name) in LIGHT]
    code = "import importlib, sys; [importlib.import_module(n) for n in sys.argv[1:]]; print(*sys.modules, sep='\\n')"
    loaded = set(run("-c", code, *names).stdout.split())
    assert set(names) <= loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["tasks"], ["judges"], ["methods"]])
def test_help_and_listings_load_next_to_nothing(command: list[str]) -> None:
    done = run("-X", "importtime", "-m", "mmpu.cli", *command)
    assert done.stdout.strip()
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded, "importtime was not read"
    assert not {*HEAVY, "pydantic", "numpy", "PIL", "aiohttp", "jinja2", "rich"} & loaded
