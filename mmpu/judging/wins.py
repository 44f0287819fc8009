"""Pairs of answers and a judge, without a board: what each pair came to."""

from __future__ import annotations

from collections.abc import Sequence

from mmpu.duel import Duel, Judge
from mmpu.judging.match import asked_of
from mmpu.judging.measure import wins_of
from mmpu.judging.run import ask, questions
from mmpu.judging.verdicts import Verdicts


def wins_over(judge: Judge, duels: Sequence[Duel], store: Verdicts) -> list[float | None]:
    """The win of each duel, None where it could not be read; what the store lacks is asked for."""
    asked = {duel.sample.id: asked_of(judge, duel) for duel in duels}
    ask(judge, questions(judge, duels), store)
    readings = store.get(key for each in asked.values() for key, _ in each.readings)
    wins = wins_of({name: each.verdicts(name, readings) for name, each in asked.items()}, judge.weighting)
    return [wins.get(duel.sample.id) for duel in duels]
