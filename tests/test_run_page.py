"""The page of runs: what is pooled, what is left out, and what a browser shows of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmpu
from mmpu.core import UserError
from mmpu.recipes.resolved import defaults
from mmpu.studies import run_page
from mmpu.studies.run_page import write_run_page
from mmpu.train.pictures import Pictures, read
from mmpu.train.rows import lines_of, rows_of
from test_page import Tab, browser  # noqa: F401  (a fixture)

HOSTILE = "</script><script>document.title = 'taken'</script>"


def run(folder: Path, tau: float = 1.2, seed: int = 0, steps: int = 6) -> Path:
    folder.mkdir(parents=True)
    stages = [{"name": "align", "method": {"name": "ldl_grpo", "label_tau": tau}}]
    config = {"run": str(folder), "store": "s", "seed": seed, "stages": stages}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"stage": "align", "step": s, "loss": 1 / (s + 1) + seed / 10, "kl": float("nan")} for s in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = [
        {
            "stage": "align",
            "step": step,
            "id": f"q{n}",
            "prompt": f"What is {n}?",
            "anchor": "It is so.",
            "anchor_score": 8.5,
            "responses": [
                {
                    "text": f"{HOSTILE} {step}",
                    "tokens": 3,
                    "finished": True,
                    "score": 0.5 + k,
                    "weight": -0.1,
                    "grade": k,
                }
                for k in range(2)
            ],
        }
        for step in range(steps)
        for n in range(2)
    ]
    (folder / "groups.jsonl").write_text("".join(json.dumps(g) + "\n" for g in groups) + '{"stage": "al')
    (folder / "ledger.json").write_text(json.dumps({"teacher_calls": 12}))
    return folder


def with_more(folder: Path) -> None:
    """A run whose scores have parts, whose sampler recorded likelihoods, and whose prompts show a picture and one more
    that the run did not keep."""
    rows = [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()[:-1]]
    for row in rows:
        row["images"] = ["cat.png", "gone.png"]
        for k, response in enumerate(row["responses"]):
            response |= {"parts": {"says why": float(k)}, "logp": -3.0 - 3 * k, "weight": 0.5}
    (folder / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = Pictures(folder / "pictures.jsonl", lambda data: f"data:image/webp;base64,{data}")
    kept.keep([("cat.png", "UklGRg=="), ("cat.png", "again")])
    warned = [json.dumps({"text": f"{HOSTILE} grew"})] * 2 + ['{"text": "cut']
    (folder / "warnings.jsonl").write_text("\n".join(warned))


def numbers(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="numbers">')[2].partition("</script>")[0])


def test_seeds_are_pooled_and_settings_that_differ_are_named(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{tau}-{seed}", tau, seed) for tau in (0.6, 1.2) for seed in (0, 1, 2)]
    found = numbers(write_run_page(runs, tmp_path / "page.html"))
    assert found["differ"] == ["run", "seed", "stages.0.method.label_tau"]
    (loss,) = [c for c in found["curves"] if c["metric"] == "loss"]
    assert [line["label"] for line in loss["lines"]] == ["label_tau=0.6", "label_tau=1.2"]
    step, mean, reach, n = loss["lines"][0]["points"][0]
    assert (step, n) == (0, 3)
    assert mean == pytest.approx(1.1)
    assert reach == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    alone = numbers(write_run_page(runs[:1], tmp_path / "one.html"))
    assert [line["label"] for line in alone["curves"][0]["lines"]] == ["all runs"]
    assert alone["curves"][0]["lines"][0]["points"][0][2] is None


def test_a_long_run_leaves_out_steps_and_says_how_many_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "GROUPS", 5)
    found = numbers(write_run_page([run(tmp_path / "a")], tmp_path / "page.html"))
    assert found["runs"][0]["groups"] == 4
    assert found["runs"][0]["left_out"] == 8


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        write_run_page([tmp_path], tmp_path / "page.html")
    one, two = run(tmp_path / "a/x"), run(tmp_path / "b/x")
    with pytest.raises(UserError, match="two runs are called 'x'"):
        write_run_page([one, two], tmp_path / "page.html")
    shutil.rmtree(one / "config.yaml", ignore_errors=True)


@pytest.mark.parametrize("damage", ["nonsense", "[1]", '{"stage": 3, "step": 1}', '{"stage": "align", "step": true}'])
def test_a_damaged_row_is_named(damage: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    for name in ("metrics.jsonl", "groups.jsonl"):
        whole = (folder / name).read_text()
        (folder / name).write_text(f"{damage}\n{whole}")
        with pytest.raises(UserError, match=rf"{name}, line 1 is no row of a run"):
            write_run_page([folder], tmp_path / "page.html")
        (folder / name).write_text(whole)
    (folder / "metrics.jsonl").write_text(
        '{"stage": "align", "step": 0, "loss": "-", "kl": 1e400, "n": 1' + "0" * 400 + "}\n"
    )
    assert numbers(write_run_page([folder], tmp_path / "page.html"))["curves"] == []


def test_a_run_that_has_just_begun_is_a_page(tmp_path: Path) -> None:
    folder = run(tmp_path / "new")
    for name in ("metrics.jsonl", "groups.jsonl", "ledger.json"):
        (folder / name).unlink()
    assert numbers(write_run_page([folder], tmp_path / "page.html"))["curves"] == []


def test_rollouts_are_walked_through_in_a_browser(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    page = write_run_page([run(tmp_path / "a"), run(tmp_path / "b", 0.6)], tmp_path / "page.html")
    tab = Tab(browser, page)
    tab.open(ready="article td.name")
    assert [e for e in tab.browser.get_log("browser") if e["level"] == "SEVERE"] == []
    assert tab.js("return document.title") == "a, b"
    assert tab.texts("article td.name .text")[0] == f"{HOSTILE} 0"
    tab.click("button", "step after")
    tab.wait("return document.querySelector('article td.name .text').textContent.endsWith(' 1')")
    assert "step=1" in tab.js("return location.hash")
    assert len(tab.texts("figure")) == 1
    assert "label_tau" in "".join(tab.texts("main table tbody th"))


def test_a_candidate_is_shown_with_all_that_it_was_worth(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    folder = run(tmp_path / "a")
    with_more(folder)
    tab = Tab(browser, write_run_page([folder], tmp_path / "page.html"))
    tab.open(ready="article td.name")
    assert tab.texts("article thead th") == ["said", "score", "D", "q before", "grade", "tokens"]
    # form `mean`: logp / tokens is −1 and −2
    assert tab.texts("article tbody td:nth-of-type(4)") == ["0.7311", "0.2689"]
    assert tab.texts("article td details dt") == ["says why", "says why"]
    assert tab.js("return document.querySelector('article img').src") == "data:image/webp;base64,UklGRg=="
    assert tab.texts("article .turn .tag") == ["gone.png"]
    assert tab.texts("ul.audit li") == [f"{HOSTILE} grew (2 times)"]
    assert tab.texts("dl.listed dt.default") == ["seed", "stages.0.method.label_tau"]


def test_whoever_reads_a_run_that_goes_on_leaves_out_half_a_row(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", steps=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "align", "st')
    assert [row["step"] for row in mmpu.Run(folder).metrics] == [0, 1, 2]
    assert [row["step"] for row in rows_of(folder / "metrics.jsonl")] == [0, 1, 2]
    assert [row["step"] for _, row in lines_of(folder / "groups.jsonl")] == [0, 0, 1, 1, 2, 2]


def test_a_step_without_new_pictures_writes_nothing(tmp_path: Path) -> None:
    Pictures(tmp_path / "pictures.jsonl", str).keep([])
    assert not (tmp_path / "pictures.jsonl").exists()


def test_settings_at_their_defaults_are_known(tmp_path: Path) -> None:
    values = yaml.safe_load((run(tmp_path / "a", tau=0.6) / "config.yaml").read_text())
    values["stages"][0] |= {"k": 8, "prompts_per_step": 4, "optim": {"lr": 0.5, "clip": 1.0}}
    values["stages"][0]["method"] |= {"gamma": 5.0}
    found = defaults(values)
    assert set(found) == {"seed", "stages.0.k", "stages.0.method.gamma", "stages.0.optim.clip"}
    assert defaults({"stages": [{"name": "a", "method": {"name": "of another machine", "k": 8}}]}) == []


def test_a_run_keeps_each_picture_once_and_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "pictures.jsonl"
    path.write_text('{"name": "a", "image": "data:image/webp;base64,AA=="}\n{"name": "b", "ima')

    def small(data: str) -> str:
        if data == "broken":
            raise UserError("cannot be read")
        return f"data:image/webp;base64,{data}"

    for _ in range(2):
        Pictures(path, small).keep([("a", "BB=="), ("b", "CC=="), ("c", "broken")])
    assert read(path) == [("a", "data:image/webp;base64,AA=="), ("b", "data:image/webp;base64,CC==")]
