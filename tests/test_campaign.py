"""The short form of `make campaign`: a trial or two of each kind of changed file, and a few hostile replies."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_changed_files_and_hostile_replies_end_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from scripts.campaign import fuzz, replies

    monkeypatch.setattr(fuzz, "TARGETS", [t for t in fuzz.TARGETS if t.commands[0][0] not in ("train", "export")])
    outcomes = [*fuzz.run(tmp_path, 1, 2 * len(fuzz.TARGETS) / fuzz.TRIALS), replies.hostile(random.Random(1), 4)]
    assert [failure for outcome in outcomes for failure in outcome.failures] == []
    assert sum(outcome.trials for outcome in outcomes) == 2 * len(fuzz.TARGETS) + 4
    assert "scripts.campaign.kills" not in sys.modules
