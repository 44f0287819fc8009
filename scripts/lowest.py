"""The oldest versions that pyproject.toml admits, as constraints for pip: `python scripts/lowest.py math >lowest.txt`.

Arguments are extras whose floors count too. torch is left out unless `--torch` is given: its old releases have CUDA
builds of several gigabytes only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
FLOOR = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9][^,; ]*)")


def floors(requirements: list[str]) -> dict[str, str]:
    """Name → lowest version, of the requirements that have one."""
    return {found[1]: found[2] for found in map(FLOOR.match, requirements) if found}


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    lowest = floors(project["dependencies"])
    for extra in [argument for argument in sys.argv[1:] if argument != "--torch"]:
        lowest |= floors(project["optional-dependencies"][extra])
    if "--torch" not in sys.argv:
        del lowest["torch"]
    for name, version in sorted(lowest.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
