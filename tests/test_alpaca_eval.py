"""AlpacaEval's own package over our files, and its annotations through ours: the same numbers both ways."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mmpu.core import Sample, user
from mmpu.duel import Duel
from mmpu.judging.archive import import_verdicts, recompute
from mmpu.judging.glm import Outcome, length_controlled, read_calibration
from mmpu.judging.match import match_of
from mmpu.judging.verdicts import Verdicts
from test_judging import PROMPT, Model, N, Pairwise, Settings, entry_of, judged, longer, system

pytestmark = pytest.mark.filterwarnings("ignore")  # the package's own, and its libraries'
if find_spec("alpaca_eval") is None:  # installed but broken is a failure, no reason to skip
    pytest.skip("the extra alpaca-eval is not installed: pip install 'mmpu[alpaca-eval]'", allow_module_level=True)

ORACLES = Path(__file__).parent.parent.parent / "shared/oracles/length_controlled"


def annotations(values: dict[str, Any]) -> list[dict[str, Any]]:
    """A real model's annotations, the texts replaced by others of the same length."""
    columns = (values["index"], values["preference"], values["len_model"], values["len_baseline"])
    return [
        {
            "index": index,
            "instruction": f"Instruction {index}",
            "output_1": "b" * theirs,
            "output_2": "m" * ours,
            "generator_1": "gpt4_1106_preview",
            "generator_2": values["model"],
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
            "preference": preference,
        }
        for index, preference, ours, theirs in zip(*columns, strict=True)
    ]


@pytest.fixture
def oracles() -> Path:
    if not ORACLES.is_dir():
        pytest.skip("the optional folder ../shared/oracles is not there")
    return ORACLES


@pytest.fixture
def rows(oracles: Path) -> list[dict[str, Any]]:
    return annotations(json.loads((oracles / "FuseChat-Llama-3.2-1B-Instruct.json").read_text()))


@pytest.fixture
def glm_winrate(oracles: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's own regression; only the table that it would fetch lies on the disk."""
    from alpaca_eval.metrics import glm_winrate

    table = oracles / "df_gamed_reconstructed.csv"
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(table))
    return glm_winrate


def test_its_annotations_give_its_win_rate(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    from alpaca_eval.metrics import get_winrate

    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    import_verdicts(tmp_path / "annotations.json", tmp_path / "v.sqlite")
    ((board, _),) = recompute(tmp_path / "v.sqlite", None, None, None, 0.02)
    (entry,) = board.entries
    theirs = get_winrate(rows)
    assert 100 * entry.win_rate.rate.value == pytest.approx(theirs["win_rate"], abs=1e-9)
    record = entry.win_rate
    assert (record.wins, record.losses, record.ties) == (theirs["n_wins"], theirs["n_wins_base"], theirs["n_draws"])


@pytest.mark.parametrize(("variant", "apart"), [("minimal", 0.1), ("noreg", 0.1), ("v1", 1e-3)])
def test_its_regression_gives_our_numbers(
    rows: list[dict[str, Any]], glm_winrate: Any, variant: Any, apart: float
) -> None:
    """`v1` is the package's; in `minimal` and `noreg` it penalises the intercept, which here costs less than 0.1
    points."""
    import pandas as pd

    theirs = glm_winrate.get_length_controlled_winrate(
        pd.DataFrame(rows), glm_name=f"length_controlled_{variant}", save_weights_dir=None
    )
    outcomes = [
        Outcome(str(r["index"]), r["preference"] - 1, len(r["output_2"]), len(r["output_1"]), str(r["index"]))
        for r in rows
    ]
    calibration = read_calibration(ORACLES / "calibration.json")
    ours = length_controlled(outcomes, variant, calibration, resamples=2)
    assert 100 * ours.rate.value == pytest.approx(theirs["length_controlled_winrate"], abs=apart)


def test_our_verdicts_give_our_win_rates_in_its_package(tmp_path: Path) -> None:
    from alpaca_eval.metrics import get_winrate

    from mmpu.judging.alpaca import write_annotations
    from mmpu.task.yaml_task import load_task

    (tmp_path / "rows.json").write_text(json.dumps([{"q": f"Question {i}?"} for i in range(N)]))
    (tmp_path / "talk.yaml").write_text('prompt: [{user: "{{ q }}"}]\nsource: rows.json\n')
    task = load_task(str(tmp_path / "talk.yaml"))
    ours, theirs = (["w " * (1 + i * step % 7) for i in range(N)] for step in (3, 5))
    contenders = [system(tmp_path, "ours", ours), system(tmp_path, "base", theirs)]
    entry = entry_of(judged(task, contenders, Pairwise(Model(longer), PROMPT), Settings(probes=0)), "ours")
    store = Verdicts(tmp_path / "boards/verdicts.sqlite")
    match = next(m for m in map(match_of, store.matches()) if m.system != m.baseline)
    samples = {s.id: s for s in task.samples("test")}
    texts = [dict(zip(samples, answers, strict=True)) for answers in (ours, theirs)]
    write_annotations(match, store.get(match.keys), samples, *texts, tmp_path / "ae")
    rows = json.loads((tmp_path / "ae/annotations.json").read_text())
    found = get_winrate(rows)
    assert found["win_rate"] == pytest.approx(100 * entry.win_rate.rate.value, abs=1e-9)
    assert (found["n_wins"], found["n_draws"]) == (entry.win_rate.wins, entry.win_rate.ties)
    import_verdicts(tmp_path / "ae/annotations.json", tmp_path / "back.sqlite")
    ((board, _),) = recompute(tmp_path / "back.sqlite", None, None, None, 0.02)
    assert board.entries[0].win_rate.rate.value == entry.win_rate.rate.value
    assert board.entries[0].length_controlled == entry.length_controlled, "verdicts and lengths came back"


def test_the_judge_asks_what_the_package_asks() -> None:
    from alpaca_eval import utils

    from mmpu import plugins
    from mmpu.config import load_yaml
    from mmpu.judges.alpaca_eval import AlpacaEval

    path = plugins.find_data("judges", "alpaca-eval")
    prompt = plugins.beside(path, load_yaml(path)["prompt"])
    values = {"instruction": "Why is the sky blue?", "output_1": "Because {of} it.", "output_2": "Rayleigh."}
    filled = prompt.read_text()
    for name, value in values.items():
        filled = filled.replace(f"{{{name}}}", value)
    duel = Duel(Sample("s", user(values["instruction"])), values["output_1"], values["output_2"])
    asked = AlpacaEval(Model(longer), str(prompt)).question(duel, "ours_first")
    expected = utils.prompt_to_chatml(filled.strip())
    assert [(m.role, m.text) for m in asked.prompt] == [(m["role"], m["content"]) for m in expected]
