"""pyproject.toml, the pins that were tried and the floors that `make test-lowest` installs say the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]


def pins(text: str) -> dict[str, str]:
    lines = [line.split("==") for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in lines}


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-vllm.txt"])
def test_pins_are_admitted(file: str) -> None:
    pinned = pins((ROOT / file).read_text())
    for requirement in DEPENDENCIES:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_the_lowest_versions_are_the_floors() -> None:
    command = [sys.executable, str(ROOT / "scripts/lowest.py"), "math", "--torch"]
    lowest = pins(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    wanted = [*DEPENDENCIES, *map(Requirement, PROJECT["optional-dependencies"]["math"])]
    assert sorted(lowest) == sorted(r.name for r in wanted)
    for requirement in wanted:
        assert f">={lowest[requirement.name]}" in str(requirement.specifier)


def test_math_verify_comes_with_an_extra_alone() -> None:
    assert "math-verify" not in {r.name for r in DEPENDENCIES}
    assert any("math" in line for line in PROJECT["optional-dependencies"]["dev"])
