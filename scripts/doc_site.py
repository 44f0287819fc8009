"""The pages of the documents' site: those at the root and of docs/, and what they link to, laid out as they lie here.

python -m scripts.doc_site build/docs        # what `make docs` has Zensical read
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures within the project, as written, code left out."""
    prose = CODE.sub(lambda found: "`" * (found[0].count("\n") == 0), FENCE.sub("", text))
    return [target for target in LINK.findall(prose) if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def anchors(text: str) -> set[str]:
    """Fragments of a page's headings, as GitHub and the site make them: hyphens for blanks, repeats numbered."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        again = (name for name in (slug, *(f"{slug}-{n}" for n in range(1, len(found) + 2))) if name not in found)
        found.add(next(again))
    return found


def pages() -> list[Path]:
    """The Markdown files that people read: those at the root, of docs/, and what these link to, each once."""
    known: dict[Path, None] = {}
    waiting = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    while waiting:
        page = waiting.pop(0)
        if page not in known:
            known[page] = None
            waiting += [target for target, _ in targets(page) if target.suffix == ".md" and target.is_file()]
    return list(known)


def targets(page: Path) -> Iterator[tuple[Path, str]]:
    """Where a page's links lead, and their fragments."""
    for link in links(page.read_text(encoding="utf-8")):
        path, _, fragment = link.partition("#")
        yield (page.parent / unquote(path)).resolve() if path else page, fragment


def stage(folder: Path) -> None:
    """Lays pages and the files that they link to out in `folder`, made anew; links then hold as they are written."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in pages():
        for path in {page, *(target for target, _ in targets(page) if target.is_file())}:
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
