"""The ROPD rubricator, its verifier and a judge over the wire: the real client, `transformers serve`, a tiny model."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="`transformers serve` needs transformers' extra «serving»")
pytest.importorskip("uvicorn", reason="`transformers serve` needs transformers' extra «serving»")

from mmpu.core import Failed
from mmpu.engines.openai import OpenAI
from served import Exchanges, in_process, serving, verdicts
from tiny import samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with serving("transformers", tmp_path_factory.mktemp("served"), ["--device", "cpu"]) as found:
        yield found


class TestExchanges(Exchanges):
    pass


def test_verdicts_in_one_token_need_log_probabilities(engine: OpenAI) -> None:
    """This server shows none: the judge abstains with the reason. The same weights in process give a verdict."""
    (choice,) = engine.choose(samples("qwen2")[:1], ("Yes", "No"))
    assert isinstance(choice, Failed)
    assert "no log-probabilities" in choice.reason
    assert all(math.isnan(score) for score in verdicts(engine)[0][:2])
    assert verdicts(in_process(engine))[0] == pytest.approx((1.0, 0.0, 0.0), abs=0.05)
