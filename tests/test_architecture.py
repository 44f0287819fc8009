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
    "core": "knobs thinking",
    "doors": "",
    "lent": "core",
    "knobs": "",
    "thinking": "",
    "replies": "core thinking",
    "statistics": "",
    "learning": "core knobs",
    "duel": "core",
    "losses": "learning",
    "score": "",
    "contracts": "core",
    "plugins": "contracts core files",
    "prompts": "chats core files sandbox",
    "files": "core",
    "shown": "",
    "strict_yaml": "",
    "sandbox": "",
    "config": "core files knobs plugins strict_yaml",
    "client": "calls core files thinking",
    "specs": "config core plugins",
    "readings": "core",
    "media": "core files",
    "store": "core files plugins",
    "calls": "",
    "chats": "calls core thinking",
    "formats": "chats core",
    "graders": "calls core files knobs lent",
    "judges": "core duel knobs prompts replies",
    "scorers": "core files graders knobs lent prompts readings replies score thinking",
    "families": "core media",
    "methods": "chats core knobs learning losses prompts student",
    "task": "chats config core files graders knobs media plugins sandbox shown specs thinking",
    "student": "calls core doors families files knobs learning media plugins thinking",
    "engines": "files client core knobs media store student thinking",
    "train": "doors files shown core knobs learning losses prompts readings score specs statistics store student",
    "boards": "files shown core duel media plugins prompts statistics store task",
    "judging": "files boards core duel media prompts statistics store",
    "evaluation": "files boards config core duel judging media statistics store student task thinking",
    "recipes": "files shown boards config core duel engines evaluation judging knobs learning media plugins scorers "
    "specs strict_yaml store student task thinking train",
    "studies": "boards files shown config core duel engines evaluation judging plugins recipes specs statistics store "
    "task thinking train",
    "api": "boards config core duel engines evaluation files judging lent recipes store student studies task train",
    "cli": EVERYTHING,
}
"""What of mmpu each wing (a package, or a file of the ground floor) may import, at its top or inside a function."""

LIGHT = {
    *(
        "core",
        "calls",
        "chats",
        "doors",
        "formats",
        "lent",
        "knobs",
        "thinking",
        "replies",
        "duel",
        "learning",
        "readings",
        "statistics",
        "plugins",
        "prompts",
        "config",
        "specs",
    ),
    *("files", "shown", "strict_yaml", "sandbox"),
    *("client", "media", "store", "graders", "judges", "task", "boards", "judging", "evaluation", "api", "cli"),
    *("studies.comparison", "studies.curves", "student.student_config", "train.stage_config"),
    *(
        "recipes.evaluation",
        "recipes.collecting",
        "recipes.contenders",
        "recipes.wiring",
        "recipes.judges",
        "recipes.pages",
        "recipes.presets",
        "recipes.run_config",
        "recipes.runs",
    ),
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


def imports(node: ast.AST, *, lazy: bool, types: bool = False) -> set[str]:
    """Full names of the modules imported below a node; `lazy` includes imports inside functions, `types` those that
    only type checkers see."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not types:
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            # `from mmpu.media import images` names a module, `from mmpu.media import load_image` its package.
            inner = {f"{child.module}.{alias.name}" for alias in child.names}
            modules = {name for name in inner if name.removeprefix("mmpu.") in MODULES}
            found |= modules | ({str(child.module)} if inner - modules else set())
        found |= imports(child, lazy=lazy, types=types)
    return found - {"mmpu"}


def used(name: str, *, lazy: bool = True, types: bool = False) -> set[str]:
    """The modules of ours that a module imports, without `mmpu.`."""
    found = {i.removeprefix("mmpu.") for i in imports(MODULES[name], lazy=lazy, types=types) if i.startswith("mmpu.")}
    return found & set(MODULES) - {name}


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
def test_a_wing_imports_what_its_row_allows(name: str) -> None:
    assert {row(module) for module in used(name, types=True)} <= {*USES[row(name)].split(), row(name)}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and those for types included."""
    left = {name: used(name, types=True) for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    assert not left, "in a circle, or above one"


DOORS = {name for name in MODULES if any(isinstance(node, ast.Assign) for node in MODULES[name].body) and name in USES}
"""Packages whose `__init__.py` says in `__all__` what others may use."""
DOORS &= {path.parent.name for path in (ROOT / "mmpu").glob("*/__init__.py")}


@pytest.mark.parametrize("name", MODULES)
def test_a_wing_is_entered_by_its_door(name: str) -> None:
    """What stands in a package with an `__all__` is taken from there, or a file of it is taken whole."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mmpu."):
            _, wing, *inside = str(node.module).split(".")
            assert not inside or wing == row(name) or wing not in DOORS, f"line {node.lineno}: {node.module}"


def test_only_engines_that_sample_the_student_know_it() -> None:
    knowing = {n for n in MODULES if row(n) == "engines" and "student" in map(row, used(n))}
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
        own = {i.removeprefix("mmpu.") for i in direct} & set(MODULES)
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
