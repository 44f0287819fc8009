"""The ROPD rubricator, its verifier, a judge and a one-token judge over the wire: the real client, `vllm serve`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from mmpu.engines.hf import HF
from mmpu.engines.openai import OpenAI
from mmpu.loading import StudentConfig
from mmpu.student import Student
from served import expected, judge, marks, memorised, rubrics, serving, verdicts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("served")
    model = memorised(folder / "model")
    limits = ["--max-model-len", "2048", "--max-num-seqs", "8"]
    light = ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), *limits, *light]
    with serving(command, folder / "log", {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}) as url:
        yield judge(model, url)


def test_rubrics_and_verdicts(engine: OpenAI) -> None:
    """A rubric written, checked and read as in the script; a group whose rubric cannot be read abstains."""
    read, refused = rubrics(engine)
    assert read == pytest.approx(expected(rubrics)[0])
    assert read == pytest.approx((17 / 22, 5 / 22, 0.0))
    assert all(math.isnan(score) for score in refused)


def test_marks(engine: OpenAI) -> None:
    assert marks(engine) == expected(marks)


def test_verdicts_in_one_token(engine: OpenAI) -> None:
    """P(yes) from the endpoint's log-probabilities is that of the same weights in process."""
    here = HF(Student.load(StudentConfig(engine.model, device="cpu")))
    assert verdicts(engine)[0] == pytest.approx(verdicts(here)[0], abs=1e-3)
    assert verdicts(engine)[0] == pytest.approx((1.0, 0.0, 0.0), abs=0.05)
