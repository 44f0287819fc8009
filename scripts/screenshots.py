"""Pictures of pages for the documents, by a headless Chromium.

python scripts/screenshots.py PAGE[#FRAGMENT]=PNG …        # --size 1300x1500 before the pages that it holds for
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE = "1300x1500"


def shoot(browser: str, page: str, target: Path, size: str) -> None:
    path, _, fragment = page.partition("#")
    address = Path(path).resolve().as_uri() + (f"#{fragment}" if fragment else "")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
            ),
            *(
                f"--window-size={size.replace('x', ',')}",
                "--virtual-time-budget=5000",
                f"--screenshot={target}",
                address,
            ),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(given: list[str]) -> int:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium here; install it (Debian: chromium)", file=sys.stderr)
        return 2
    size, words = SIZE, iter(given)
    for word in words:
        if word == "--size":
            size = next(words)
            continue
        page, _, target = word.rpartition("=")
        shoot(browser, page, Path(target), size)
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
