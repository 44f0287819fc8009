"""The page of a leaderboard: what stands in the file, and what a browser makes of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exhibition import HOSTILE, exhibition
from mmpu.boards import html as pages
from mmpu.boards import read
from mmpu.boards.every_eval_ever import records
from mmpu.boards.exhibits import FILE, kept
from mmpu.boards.html import Shown, Texts, page, view_of
from mmpu.core import UserError
from mmpu.judging.ranks import places, strengths
from mmpu.recipes.pages import write_page, write_site

AXE = Path(os.environ.get("MMPU_AXE", Path(__file__).parent.parent / "node_modules/axe-core/axe.min.js"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield exhibition(tmp_path_factory.mktemp("shown"), patch)


@pytest.fixture(scope="module")
def written(board: Path) -> Path:
    return write_page([board], board.with_name("page.html"))[0]


# ---------------------------------------------------------------------------------------------------- the file


def test_a_page_names_nothing_to_fetch_and_runs_only_its_own_script(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r"(src|href)=\"?(https?:)?//|url\(|@import", text.split("<body>")[0])
    assert text.count("<script") == 3 == text.count("</script")


def test_samples_are_kept_once_and_not_where_the_licence_forbids(board: Path, tmp_path: Path) -> None:
    folder = next(board.parent.glob("shown.test*"))
    rows = kept(folder)
    assert len(rows) == 40
    assert rows["test-1"]["prompt"][0]["parts"][0]["image"].startswith("data:image/webp;base64,")
    with pytest.MonkeyPatch.context() as patch:
        task = tmp_path / "secret"
        task.mkdir()
        other = exhibition(task, patch, prompts=4, systems=1, more="redistribute: false\n")
        assert not list(other.parent.glob(f"*/{FILE}"))
        assert "run `mmpu eval` again" in write_page([other], tmp_path / "p.html")[0].read_text(encoding="utf-8")


def test_a_board_without_its_store_is_a_page_of_numbers(board: Path, tmp_path: Path) -> None:
    alone = tmp_path / board.name
    shutil.copy(board, alone)
    text = write_page([alone], tmp_path / "alone.html")[0].read_text(encoding="utf-8")
    assert "There is no verdicts.sqlite beside the board" in text
    assert not list(tmp_path.glob("verdicts.sqlite*"))


def test_pictures_without_room_stand_in_files_beside_the_page(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PICTURES", 0)
    monkeypatch.setattr(pages, "PIECE", 1)
    files = write_page([board], board.with_name("apart.html"))
    assert [f.name for f in files] == ["apart.html", *(f"apart.pictures-{n}.js" for n in range(3))]
    assert "data:image" not in files[0].read_text(encoding="utf-8")


def test_what_cannot_be_a_page_is_refused(board: Path, tmp_path: Path) -> None:
    shown = Shown(read(board))
    with pytest.raises(UserError, match="two boards are of shown under leaning"):
        page([shown, shown], Texts())
    with pytest.raises(UserError, match="needs a board"):
        page([], Texts())
    with pytest.raises(UserError, match=r"an \.html file"):
        write_page([board], tmp_path / "page.txt")


def test_a_plug_in_adds_a_script_by_a_file(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page").mkdir()
    column = "mmpu.column({ key: 'letters', value: (entry) => entry.system.name.length });"
    (tmp_path / "page" / "letters.js").write_text(column, encoding="utf-8")
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    text = write_page([board], tmp_path / "plugged.html")[0].read_text(encoding="utf-8")
    assert text.index(column) < text.index("The page, top to bottom")


def test_places_know_what_is_sure() -> None:
    prompts = {str(i): str(i) for i in range(60)}
    wins = {
        "best": dict.fromkeys(prompts, 1.0),
        "same": dict.fromkeys(prompts, 0.5),
        "worst": dict.fromkeys(prompts, 0.0),
    }
    assert places(wins, "baseline", prompts) == {"best": (1, 1), "same": (2, 2), "worst": (4, 4), "baseline": (2, 2)}
    close = {"a": {s: float(int(s) % 2) for s in prompts}, "b": {s: float(int(s) % 3 == 0) for s in prompts}}
    found = places(close, "baseline", prompts)
    assert found["a"][0] == 1
    assert found["b"][1] == 3
    assert places({"a": {}}, "baseline", prompts) == {}
    assert strengths({"a": close["a"]}, "baseline", prompts) == {}
    assert set(strengths(close, "baseline", prompts)) == {"a", "b", "baseline"}


def test_records_of_every_eval_ever_hold_scores_with_their_intervals(board: Path) -> None:
    found = records(read(board))
    assert len(found) == 3
    entry = next(e for e in read(board).entries if e.system.name == found[0]["model_info"]["name"])
    results = {r["metric_config"]["metric_name"]: r for r in found[0]["evaluation_results"]}
    rate = results["win_rate"]["score_details"]
    assert rate["score"] == entry.win_rate.rate.value
    assert rate["uncertainty"]["confidence_interval"]["lower"] == entry.win_rate.rate.low
    assert {"win_rate", "accuracy"} <= set(results)
    judged = replace(
        entry, provenance=replace(entry.provenance, judge={"name": "j", "model": "m", "text": "Which is better?"})
    )
    asked = records(replace(read(board), entries=(judged,)))
    scoring = asked[0]["evaluation_results"][0]["metric_config"]["llm_scoring"]
    assert scoring["input_prompt"] == "Which is better?"
    assert scoring["judges"][0]["model_info"]["name"] == "m"


def test_a_site_lists_every_board_with_its_best_system(board: Path, tmp_path: Path) -> None:
    boards = Path(__file__).parent.parent / "leaderboards"
    written = write_site([boards, board], tmp_path / "site")
    assert {"index.html", "board.schema.json", "market.rule.html", "shown.leaning.json"} <= {f.name for f in written}
    text = written[0].read_text(encoding="utf-8")
    lines = json.loads(text.partition('id="numbers">')[2].partition("</script>")[0])["lines"]
    shown = next(line for line in lines if line["task"] == "shown")
    best = max(read(board).entries, key=lambda e: e.win_rate.rate.value if e.system != e.baseline else -1)
    assert (shown["best"], shown["rate"]["value"]) == (best.system.name, best.win_rate.rate.value)
    assert shown["trend"] == [[best.created[:10], best.win_rate.rate.value]]
    assert read(tmp_path / "site/shown.leaning.json") == read(board)
    with pytest.raises(UserError, match="are both of shown under leaning"):
        write_site([board, board], tmp_path / "twice")
    with pytest.raises(UserError, match="needs boards"):
        write_site([tmp_path], tmp_path / "none")
    assert not (tmp_path / "twice").exists()


# ---------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with chromedriver here; install them (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


class Tab:
    """A page in the browser, asked by CSS selectors."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        self.url = path.resolve().as_uri()

    def open(self, fragment: str = "", ready: str = "[role=option]") -> Tab:
        self.browser.get("about:blank")
        for kind in ("browser", "performance"):
            self.browser.get_log(kind)
        self.browser.get(f"{self.url}#{fragment}")
        self.wait(f"return document.querySelector('{ready}') !== null")
        return self

    def js(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(script, *values)

    def wait(self, condition: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 120).until(lambda _: self.js(condition))

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def click(self, selector: str, text: str) -> None:
        self.js(
            "[...document.querySelectorAll(arguments[0])].find((e) => e.textContent.startsWith(arguments[1])).click()",
            selector,
            text,
        )

    def press(self, keys: str) -> None:
        from selenium.webdriver.common.by import By

        self.browser.find_element(By.TAG_NAME, "body").send_keys(keys)


@pytest.fixture
def tab(browser: Any, written: Path) -> Tab:
    return Tab(browser, written)


def names(tab: Tab) -> list[str]:
    return tab.texts("main table tbody th[scope=row]")[:4]


def test_a_page_asks_for_nothing_and_has_no_error(tab: Tab) -> None:
    tab.open()
    said = [entry for entry in tab.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert said == []
    events = [json.loads(entry["message"])["message"] for entry in tab.browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:image/"))] == []
    assert len({url for url in asked if url.startswith("file:")}) == 1


def test_rows_are_sorted_best_first_and_by_every_column(tab: Tab) -> None:
    tab.open()
    assert tab.texts("th[aria-sort=descending]") == ["win rate"]
    rates = [r.win_rate.rate.value for r in read_board(tab).entries if r.system != r.baseline]
    first = tab.texts("tbody tr:first-child td:nth-child(3)")[0]
    assert first.startswith(f"{100 * max(rates):.1f}")
    tab.click("thead button", "system")
    assert names(tab) == ["system c", "system b", "system a", "baseline"]
    tab.click("thead button", "system")
    assert tab.texts("th[aria-sort=ascending]") == ["system"]
    assert names(tab) == ["baseline", "system a", "system b", "system c"]
    for column in tab.texts("thead button")[:10]:
        tab.click("thead button", column)
        assert len(names(tab)) == 4


def read_board(tab: Tab) -> Any:
    return read(Path(tab.url.removeprefix("file://")).with_name("shown.leaning.json"))


def test_a_view_is_in_the_address(tab: Tab) -> None:
    tab.open("find=system+b&system=system+c&only=lost")
    assert tab.texts("main table tbody th[scope=row]")[0] == "system b"
    assert tab.texts("[aria-pressed=true]")[0].startswith("lost")
    tab.js("location.hash = 'find=system+a'")
    tab.wait("return document.querySelector('tbody th[scope=row]').textContent === 'system a'")
    tab.click("tbody button", "system a")
    assert "system=system+a" in tab.js("return location.hash")


def test_keys_walk_through_samples_and_a_link_leads_back(tab: Tab) -> None:
    tab.open("system=system+b")
    assert tab.texts("article strong") == ["test-1"]
    tab.press("jj")
    assert tab.texts("article strong") == ["test-3"]
    tab.press("k")
    assert tab.texts("article strong") == ["test-2"]
    link = tab.js("return document.querySelector('article a').href")
    assert link.endswith("sample=test-2")
    tab.open(link.partition("#")[2])
    assert tab.texts("article strong") == ["test-2"]
    assert tab.texts("[aria-selected=true]")[0].startswith("▣ Which colour is this, number 1?")


def test_quick_filters_show_what_they_say(tab: Tab) -> None:
    tab.open("system=system+b&only=orders+disagree")
    assert all("orders disagree" in text for text in tab.texts("[role=option]"))
    assert tab.texts("article .flag")[0] == "orders disagree"
    assert len(tab.texts("article tbody tr")) == 2
    counted = {text.rsplit(" ", 1)[0]: int(text.rsplit(" ", 1)[1]) for text in tab.texts("[aria-pressed]")}
    entry = next(e for e in read_board(tab).entries if e.system.name == "system b")
    assert (counted["won"], counted["lost"], counted["tied"]) == (
        entry.win_rate.wins,
        entry.win_rate.losses,
        entry.win_rate.ties,
    )
    tab.open("system=system+b&search=number+17")
    assert len(tab.texts("[role=option]")) == 1
    assert "thinking" in tab.texts("article summary")


def test_hostile_answers_are_shown_as_text(tab: Tab) -> None:
    for i, text in enumerate(HOSTILE):
        tab.open(f"system=system+a&sample=test-{i + 1}")
        shown = tab.texts("section.answer .text")[0]
        assert shown == text.replace("\ud83d", "\ufffd")
        assert tab.js("return document.title") == "shown · leaning"
        assert tab.js("return document.querySelectorAll('section.answer img, section.answer h1').length") == 0


def test_differences_are_marked_and_pictures_grow(tab: Tab) -> None:
    tab.open("system=system+b&only=won")
    left = tab.js(
        "return [...document.querySelectorAll('section.answer')].map((e) => e.querySelector('.text').textContent)"
    )
    both = tab.js("return mmpu.diff.runs(arguments[0], arguments[1])", left[1], left[0])
    assert ["".join(text for _, text in side) for side in both] == [left[1], left[0]]
    assert len(tab.texts("del")) + len(tab.texts("ins")) > 0
    tab.click(".pictures button", "")
    assert tab.js("return document.getElementById('picture').open")
    assert tab.js("return document.querySelector('dialog img').naturalWidth") == 96


def test_colours_and_widths(tab: Tab) -> None:
    tab.open("theme=dark")
    dark = tab.js("return getComputedStyle(document.body).backgroundColor")
    tab.open("theme=light")
    assert dark != tab.js("return getComputedStyle(document.body).backgroundColor")
    size = tab.browser.get_window_size()
    try:
        tab.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True}
        )
        tab.open()
        assert tab.js("return document.documentElement.scrollWidth") <= 375
    finally:
        tab.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert tab.browser.get_window_size() == size


def test_what_is_taken_away_holds_the_numbers(tab: Tab) -> None:
    tab.open()
    lines = tab.js("return mmpu.takeaway.text('CSV')").split("\r\n")
    assert lines[0].startswith('"system","place","win rate %","win rate low","win rate high"')
    assert len(lines) == 6
    assert json.loads(tab.js("return mmpu.takeaway.text('JSON')"))["task"] == "shown"
    assert tab.js("return mmpu.takeaway.text('LaTeX')").count("\\\\") == 5
    assert tab.js("return mmpu.takeaway.text('Markdown')").startswith("**shown**")
    assert "@misc{mmpu-shown-leaning," in tab.js("return mmpu.takeaway.text('BibTeX')")
    assert len(json.loads(tab.js("return mmpu.takeaway.text('Every Eval Ever')"))) == 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_reader(tab: Tab, theme: str) -> None:
    if not AXE.exists():
        pytest.skip(f"axe-core is not here; `npm install --no-save axe-core`, or name it in MMPU_AXE ({AXE})")
    tab.open(f"theme={theme}&system=system+b&only=orders+disagree")
    tab.js(AXE.read_text(encoding="utf-8"))
    found = tab.browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found["violations"]] == []


def test_pictures_beside_the_page_are_shown(browser: Any, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PICTURES", 0)
    apart = write_page([board], board.with_name("beside.html"))[0]
    tab = Tab(browser, apart).open("system=system+b")
    tab.wait("return document.querySelector('.pictures img')?.naturalWidth === 96")


def test_a_view_is_spelled_alike_in_python_and_in_the_page(tab: Tab) -> None:
    tab.open()
    entry = read_board(tab).entries[0]
    spelled = view_of(entry.split, entry.baseline.name, entry.provenance.judge_identity)
    assert tab.js("return mmpu.state.view().key") == spelled
    odd = ['a"b\\', "ü–\u2028 \x07", "<i>"]
    assert tab.js("return JSON.stringify(arguments[0])", odd) == view_of(odd[0], odd[1], odd[2])


def test_an_index_leads_to_its_boards(browser: Any, board: Path) -> None:
    site = write_site([board], board.with_name("site"))[0]
    tab = Tab(browser, site).open(ready="tbody tr")
    assert [e for e in tab.browser.get_log("browser") if e["level"] == "SEVERE"] == []
    tab.js("document.querySelector('tbody a').click()")
    tab.wait("return document.querySelector('[role=option]') !== null")
    assert tab.texts("h1") == ["shown"]
