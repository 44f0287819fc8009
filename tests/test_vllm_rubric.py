"""The ROPD rubricator, its verifier, a judge and a one-token judge over the wire: the real client, `vllm serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from mmpu.engines.openai import OpenAI
from served import Exchanges, in_process, serving, verdicts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    limits = ["--max-model-len", "2048", "--max-num-seqs", "8"]
    light = ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
    unbound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with serving("vllm", tmp_path_factory.mktemp("served"), [*limits, *light], unbound) as found:
        yield found


class TestExchanges(Exchanges):
    pass


def test_verdicts_in_one_token(engine: OpenAI) -> None:
    """P(yes) from the endpoint's log-probabilities is that of the same weights in process."""
    assert verdicts(engine)[0] == pytest.approx(verdicts(in_process(engine))[0], abs=1e-3)
    assert verdicts(engine)[0] == pytest.approx((1.0, 0.0, 0.0), abs=0.05)
