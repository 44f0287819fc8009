"""A plug-in's component that breaks its contract is named, with what it should return; so is the file of one that
raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpu import plugins
from mmpu.core import Engine, Grader, Group, Response, Sample, Sampling, Scorer, UserError, user
from mmpu.duel import Duel, Judge, Verdict
from mmpu.engines.cached import Cached
from mmpu.learning import Method, Row
from mmpu.store import Ledger, Store

HEAD = (
    "from dataclasses import dataclass\nfrom mmpu.core import *\nfrom mmpu.duel import Judge, Verdict\n"
    "from mmpu.learning import Method, Row\nRETURNED = [None]\n\n\n@dataclass(frozen=True)\n"
)
BODIES = {
    "scorer": "class Mine(Scorer):\n    def score(self, groups):\n        return RETURNED[0]\n",
    "grader": "class Mine(Grader):\n    def grade(self, sample, text):\n        return RETURNED[0]\n",
    "method": "class Mine(Method):\n    def supervise(self, group):\n        return RETURNED[0]\n"
    "    def loss(self, quantities, batch):\n        return RETURNED[0]\n",
    "engine": "class Mine(Engine):\n    identity = 'mine'\n    def generate(self, samples, n, sampling):\n"
    "        return RETURNED[0]\n    def choose(self, samples, options):\n        return RETURNED[0]\n",
    "judge": "class Mine(Judge):\n    name = 'mine'\n    describe = 'mine decides'\n    identity = 'mine'\n"
    "    def read(self, asked):\n        return RETURNED[0]\n",
}
BASES: dict[str, type[Any]] = {"scorer": Scorer, "grader": Grader, "method": Method, "engine": Engine, "judge": Judge}
SAMPLE = Sample("s", user("Q?"))
GROUP = Group(SAMPLE, responses=(Response("a"), Response("b")))
ASKED = [(Duel(SAMPLE, "a", "b"), "none")]


def mine(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str | None = None) -> type[Any]:
    file = folder / f"{kind}s/mine.py"
    file.parent.mkdir(parents=True)
    file.write_text(HEAD + (body or BODIES[kind]))
    monkeypatch.setenv("MMPU_PATH", str(folder))
    return plugins.find_class(f"{kind}s", "mine", BASES[kind])


@pytest.mark.parametrize(
    ("kind", "call", "arguments", "returned", "good"),
    [
        ("scorer", "score", ([GROUP],), (None, [], [0.5], "ab", ["ab"]), [(0.5, 1.0)]),
        ("grader", "grade", (SAMPLE, "a"), ("right", float("nan"), 5, -1.0, [1]), 0.5),
        ("method", "supervise", (GROUP,), (None, "rows", [1]), [Row(SAMPLE, Response("a"), 1.0)]),
        (
            "method",
            "loss",
            (None, None),
            (None, 0.5, torch.zeros(()), (torch.zeros(3), {}), (0.5, {})),
            (torch.zeros(()), {}),
        ),
        (
            "engine",
            "generate",
            ([SAMPLE], 1, Sampling()),
            (None, [], ["a"], [()], [None], [(Response("a"),) * 2], [(Response(5),)]),  # type: ignore[arg-type]
            [(Response("a"),)],
        ),
        ("engine", "choose", ([SAMPLE], ["A"]), (None, [], [0.5]), []),
        (
            "judge",
            "read",
            (ASKED,),
            (None, [], [None], ["A"], [Verdict("t", "none", 1.0)]),
            [Verdict("s", "none", 1.0)],
        ),
    ],
)
def test_what_breaks_its_contract_is_named(
    kind: str,
    call: str,
    arguments: tuple[Any, ...],
    returned: tuple[Any, ...],
    good: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls = mine(kind, tmp_path, monkeypatch)
    place = plugins.load_module(tmp_path / f"{kind}s/mine.py").RETURNED
    for bad in returned:
        place[0] = bad
        with pytest.raises(UserError, match=f"^{kind} Mine: {call} returned .*; it returns "):
            getattr(cls(), call)(*arguments)
    if good:
        place[0] = good
        assert getattr(cls(), call)(*arguments) is good


def test_what_a_plug_in_s_class_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="judge Mine lacks describe"):
        mine("judge", tmp_path / "a", monkeypatch, BODIES["judge"].replace("    describe = 'mine decides'\n", ""))
    with pytest.raises(UserError, match=r"b/scorers/mine\.py: Mine is no dataclass; write @dataclass"):
        mine("scorer", tmp_path / "b", monkeypatch, f"class Other: ...\n\n\n{BODIES['scorer']}")
    with pytest.raises(UserError, match=r"c/scorers/mine\.py ends the program"):
        mine("scorer", tmp_path / "c", monkeypatch, "class Mine(Scorer):\n    raise SystemExit(0)\n")


def test_the_plug_in_in_which_an_error_was_raised_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scorers/mine.py"
    cls = mine("scorer", tmp_path, monkeypatch, BODIES["scorer"].replace("RETURNED[0]", "groups['a']"))
    with pytest.raises(TypeError) as raised:
        cls().score([GROUP])
    line = file.read_text().splitlines().index("        return groups['a']") + 1
    assert plugins.culprit(raised.value) == f"{file}, line {line}"
    with pytest.raises(SyntaxError) as broken:
        mine("grader", tmp_path, monkeypatch, "class (")
    assert plugins.culprit(broken.value) == f"{tmp_path}/graders/mine.py, line 9"
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert plugins.culprit(ours.value) is None


class Silent(Engine):
    identity = "silent"  # type: ignore[assignment]

    def generate(self, samples: Any, n: Any, sampling: Any) -> Any:
        return []

    choose = generate


def test_an_engine_that_gives_no_answer_does_not_hold_up_the_store(tmp_path: Path) -> None:
    kept = Cached(Silent(), Store(tmp_path / "store.sqlite"), Ledger(tmp_path / "ledger.json"), "teacher")
    with pytest.raises(UserError, match=r"engine Silent gave no answer to 1 of 1 prompts \(first: 's'\)"):
        kept.generate([SAMPLE], 1, Sampling())
    monkey = type("Nameless", (Silent,), {"identity": None})()
    with pytest.raises(UserError, match="engine Nameless: identity is None"):
        _ = Cached(monkey, kept.store, kept.ledger, "teacher").identity
