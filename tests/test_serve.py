"""The ROPD rubricator, its verifier and a judge over the wire: the real client, `transformers serve`, a tiny model."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="`transformers serve` needs transformers' extra «serving»")
pytest.importorskip("uvicorn", reason="`transformers serve` needs transformers' extra «serving»")

from mmpu.core import Failed
from mmpu.engines.hf import HF
from mmpu.engines.openai import OpenAI
from mmpu.loading import StudentConfig
from mmpu.student import Student
from served import expected, judge, marks, memorised, rubrics, serving, verdicts
from tiny import samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("served")
    model = memorised(folder / "model")
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    with serving(command, folder / "log") as url:
        yield judge(model, url)


def test_rubrics_and_verdicts(engine: OpenAI) -> None:
    """A rubric written, checked and read as in the script; a group whose rubric cannot be read abstains."""
    read, refused = rubrics(engine)
    assert read == pytest.approx(expected(rubrics)[0])
    assert read == pytest.approx((17 / 22, 5 / 22, 0.0))
    assert all(math.isnan(score) for score in refused)


def test_marks(engine: OpenAI) -> None:
    assert marks(engine) == expected(marks)


def test_verdicts_in_one_token_need_log_probabilities(engine: OpenAI) -> None:
    """This server shows none: the judge abstains with the reason. The same weights in process give a verdict."""
    (choice,) = engine.choose(samples("qwen2")[:1], ("Yes", "No"))
    assert isinstance(choice, Failed)
    assert "no log-probabilities" in choice.reason
    assert all(math.isnan(score) for score in verdicts(engine)[0][:2])
    here = HF(Student.load(StudentConfig(engine.model, device="cpu")))
    assert verdicts(here)[0] == pytest.approx((1.0, 0.0, 0.0), abs=0.05)
