"""Links within the documents lead to files and headings that are there; the API's page names all that is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mmpu
from conftest import ROOT
from scripts import doc_site

PAGES = doc_site.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    lost: list[str] = []
    for target, fragment in doc_site.targets(page):
        if not target.exists() or not target.is_relative_to(ROOT):
            lost.append(str(target))
        elif fragment and fragment not in doc_site.anchors(target.read_text(encoding="utf-8")):
            lost.append(f"{target}#{fragment}")
        elif target.is_dir() and not (target / "README.md").exists():
            lost.append(f"{target}: a folder without README.md is no page")
    assert not lost


def test_code_is_no_link_and_headings_that_repeat_are_numbered() -> None:
    text = "# A `b`, [c](d.md)\n`[x](no.md)` [y](yes.md#at) ![z](z.png)\n```\n# E\n[f](no.md)\n```\n## Two\n## Two\n"
    assert doc_site.links(text) == ["d.md", "yes.md#at", "z.png"]
    assert doc_site.anchors(text) == {"a-b-c", "two", "two-1"}


def test_the_api_page_names_what_is_public() -> None:
    shown = re.findall(
        r"^::: mmpu\.(?:api\.training\.)?(\w+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(shown) == sorted(set(mmpu.__all__) - {"__version__"})


def test_the_site_s_navigation_has_every_document() -> None:
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert all((ROOT / name).exists() for name in listed)
    assert set(listed) >= {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
