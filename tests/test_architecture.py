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
    "divergence": "core",
    "head": "divergence logprobs",
    "logprobs": "",
    "vision": "",
    "packing": "attention vision",
    "plugins": "core",
    "media": "core",
    "download": "core media",
    "store": "core",
    "cache": "core plugins store",
    "client": "core",
    "generate": "core engines media store",
    "prompts": "core",
    "config": "core plugins",
    "templates": "core config graders",
    "sources": "core config plugins hub",
    "hub": "core config",
    "sample": "core config media templates",
    "lookup": "core config plugins",
    "task": "core config download lookup plugins sample sources hub templates",
    "task_check": "core media task templates",
    "task_show": "core hub media task",
    "metrics": "core statistics",
    "harness": "core config store student task",
    "leaderboard": "core statistics store",
    "judging": "core leaderboard media prompts statistics store",
    "tables": "leaderboard statistics",
    "answers": "core leaderboard metrics statistics store task",
    "provenance": "core leaderboard media prompts task",
    "evaluate": "answers core judging leaderboard media provenance store task",
    "judge": "core prompts",
    "graders": "core",
    "scorers": "core graders prompts",
    "methods": "core divergence losses prompts",
    "students": "core media",
    "attention": "",
    "loading": "core plugins students",
    "tokenizing": "",
    "encoding": "core loading media packing students tokenizing vision",
    "last_layer": "",
    "rms_norm": "",
    "tied": "",
    "student": "attention core doctor encoding head last_layer loading packing rms_norm students tied vision",
    "doctor": "core engines loading media packing student",
    "engines": "attention client core encoding loading media packing store student",
    "train": "core head loading logprobs losses packing statistics store student",
    "wiring": "core config engines plugins store task",
    "fit": "core task wiring",
    "presets": "core config plugins",
    "comparison": "statistics",
    "compare": "assess comparison core config engines plugins presets recipe runs store task",
    "curves": "core config",
    "runs": "answers config core engines loading student",
    "assess": EVERYTHING,
    "recipe": EVERYTHING,
    "cli": EVERYTHING,
    "judge_cli": EVERYTHING,
    "cli_tasks": EVERYTHING,
}
"""What of mmpu each module or package may import, at its top or inside a function; a package also from itself."""

LIGHT = {
    *("core", "plugins", "config", "task", "media", "store", "statistics", "prompts", "leaderboard", "evaluate"),
    *("templates", "sources", "hub", "sample", "lookup", "task_check", "task_show", "metrics", "harness"),
    *("answers", "provenance", "tables", "cache", "client", "download", "generate", "judging", "judge", "graders"),
    *(
        "assess",
        "recipe",
        "runs",
        "cli",
        "cli_tasks",
        "judge_cli",
        "wiring",
        "fit",
        "presets",
        "compare",
        "comparison",
        "curves",
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
    """The row of the table that speaks for a module."""
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
    knowing = {n for n in MODULES if row(n) == "engines" and "mmpu.student" in imports(MODULES[n], lazy=True)}
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
