"""Any engine with a store in front of it: the same question is asked once, over epochs, runs, restarts and
processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from mmpu.core import Choice, Engine, Failed, Response, Sample, Sampling, digest
from mmpu.media import prompt_key
from mmpu.store import Ledger, Store


@dataclass(frozen=True)
class Cached(Engine):
    engine: Engine
    store: Store
    ledger: Ledger
    role: str
    """Prefix of the ledger's counters: `teacher` counts teacher_calls, teacher_cache_hits, teacher_failures."""
    chunk: int = 64
    """Questions between two writes to the store: at most these are lost to a crash."""

    @property
    def identity(self) -> str:
        return self.engine.identity

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        keys = [
            digest([self.identity, prompt_key(s.prompt), asdict(sampling), n, self._beyond_prompt(s)]) for s in samples
        ]
        known = self.store.get(keys)
        missing = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in known}
        self._count(cache_hits=len(samples) - len(missing))
        failures: dict[str, Failed] = {}
        pending = list(missing.items())
        for start in range(0, len(pending), self.chunk):
            part = pending[start : start + self.chunk]
            fresh: dict[str, object] = {}
            answers = self.engine.generate([sample for _, sample in part], n, sampling)
            for (key, _), answer in zip(part, answers, strict=True):
                if isinstance(answer, Failed):
                    failures[key] = answer
                else:
                    fresh[key] = [asdict(response) for response in answer]
            self.store.put(fresh)
            known.update(fresh)
            self._count(calls=len(part), failures=len(part) - len(fresh))
        return [failures[key] if key in failures else _responses(known[key]) for key in keys]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        return self.engine.choose(samples, options)

    def _beyond_prompt(self, sample: Sample) -> list[str | None]:
        # Recorded answers are found by id as well as by prompt; every other engine sees the prompt only.
        return [sample.id, sample.reference] if getattr(self.engine, "by_id", False) else []

    def _count(self, **counts: int) -> None:
        self.ledger.add(**{f"{self.role}_{name}": n for name, n in counts.items() if n})


def _responses(value: object) -> tuple[Response, ...]:
    rows = cast(list[dict[str, Any]], value)
    return tuple(
        Response(
            row["text"],
            None if row["tokens"] is None else tuple(row["tokens"]),
            tuple(row["logp"]),
            row["finished"],
        )
        for row in rows
    )
