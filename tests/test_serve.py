"""The ROPD rubricator, its verifier and judges over the wire: the real client, a tiny model behind real servers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest

from mmpu.core import Failed
from mmpu.engines.openai import OpenAI
from served import expected, in_process, marks, rubrics, serving, verdicts
from tiny import samples

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Server:
    """`<name> serve`, an executable."""

    name: str
    needs: Sequence[str]
    install: str
    options: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


SERVERS = [
    Server("transformers", ["fastapi", "uvicorn"], "transformers' extra «serving»", ["--device", "cpu"]),
    Server(
        "vllm",
        ["vllm"],
        "vLLM; `make test-vllm` runs this",
        [
            *("--max-model-len", "2048", "--max-num-seqs", "8", "--dtype", "float32", "--enforce-eager"),
            *("--distributed-executor-backend", "uni"),
        ],
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    ),
]


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.param
    if not all(map(find_spec, found.needs)):
        pytest.skip(f"`{found.name} serve` needs {found.install}")
    return found


@pytest.fixture(scope="module")
def engine(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with serving(server.name, tmp_path_factory.mktemp("served"), server.options, server.environment) as found:
        yield found


def test_rubrics_and_verdicts(engine: OpenAI) -> None:
    """A rubric written, checked and read as in the script; a group whose rubric cannot be read abstains."""
    read, refused = rubrics(engine)
    assert read == pytest.approx(expected(rubrics)[0])
    assert read == pytest.approx((17 / 22, 5 / 22, 0.0))
    assert all(math.isnan(score) for score in refused)


def test_marks(engine: OpenAI) -> None:
    assert marks(engine) == expected(marks)


def test_verdicts_in_one_token(server: Server, engine: OpenAI) -> None:
    """P(yes) from the endpoint's log-probabilities is that of the same weights in process. A server that shows none
    gets no verdict: the judge abstains with the reason."""
    own = verdicts(in_process(engine))[0]
    assert own == pytest.approx((1.0, 0.0, 0.0), abs=0.05)
    if server.name == "vllm":
        assert verdicts(engine)[0] == pytest.approx(own, abs=1e-3)
        return
    (choice,) = engine.choose(samples("qwen2")[:1], ("Yes", "No"))
    assert isinstance(choice, Failed)
    assert "no log-probabilities" in choice.reason
    assert all(math.isnan(score) for score in verdicts(engine)[0][:2])
