"""Fixtures shared by the tests; every process is told to use one thread, see docs/architecture.md."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint import Endpoint

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

os.environ.setdefault("MMPU_CACHE", tempfile.mkdtemp(prefix="mmpu-tests-"))

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_plugins_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMPU_PATH", "MMPU_JUDGE_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    # The client waits half a second and more before it asks again.
    monkeypatch.setattr("mmpu.client.endpoint.FIRST_WAIT", 0.01)
    monkeypatch.setattr("mmpu.client.endpoint.LONGEST_WAIT", 0.02)
    with Endpoint().serving() as found:
        yield found


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of real tokenizers, data sets and a small pretrained model that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the optional folder ../shared with real data is not there")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests of each, in a random order")


LONG = (
    *(
        "training",
        "doctor",
        "sharding",
        "examples",
        "verdicts",
        "harness",
        "restart",
        "grader_tables",
        "update_methods",
    ),
    *("tokenizing", "plugins_document", "update", "exact_or_refused", "sources", "length", "compare", "benchmarks"),
)
"""The files that take longest, which begin first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests stay together, since what they share is made once per file."""
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    seed = config.getoption("--shuffle")
    if seed is not None:
        draw = random.Random(seed)
        place = {path: draw.random() for path in sorted({item.path for item in items})}
        draw.shuffle(items)
        items.sort(key=lambda item: place[item.path])


def pytest_collection_finish() -> None:
    """What was imported lives as long as the tests, and is no garbage to look through at the end of every stage."""
    with contextlib.suppress(ImportError):  # an environment of vLLM's has none
        import hypothesis  # noqa: F401  its pytest plug-in does so at the latest, and must still find who holds trio's generator

    gc.collect()
    gc.freeze()
