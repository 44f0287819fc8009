"""Any engine with a store in front of it: the same question is asked once, over epochs, runs, restarts and
processes.

An answer is kept the moment it comes. Who is about to ask claims the questions first, so of two processes with the
same question one asks and the other waits; the claims of a process that died are void at once if it ran on this
machine, else after `lease` seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from mmpu.core import Answer, Choice, Engine, Failed, Response, Sample, Sampling, UserError, digest, in_order
from mmpu.media import named, prompt_key
from mmpu.store import Ledger, Store, new_owner

POLL = 0.1
"""Seconds between two looks for what another process is asking for."""


@dataclass(frozen=True)
class _Question:
    """A distinct prompt of a call."""

    sample: Sample
    keys: tuple[str, ...]
    """One per answer wanted."""
    places: list[int] = field(default_factory=list[int])
    """The samples of the call that ask it."""

    def known(self, store: Mapping[str, object]) -> int:
        """How many answers, from the first on, there are."""
        return next((k for k, key in enumerate(self.keys) if key not in store), len(self.keys))


Ask = Callable[[Sequence[_Question], int], Iterator[Answer[tuple[object, ...]]]]
"""Asks the engine questions of which so many answers are known for the further ones, in the form that is kept."""


@dataclass(frozen=True)
class Cached(Engine):
    engine: Engine
    store: Store
    ledger: Ledger
    role: str
    """Prefix of the ledger's counters: `teacher` counts teacher_calls, teacher_cache_hits, teacher_failures, and what
    the engine counts: teacher_requests, teacher_tokens_in, teacher_tokens_out."""
    version: str = ""
    """What answers depend on besides the engine's identity, such as a hash of weights."""
    lease: float = 30.0
    """Seconds after which the claims of a process that no longer renews them are anybody's."""

    @property
    def identity(self) -> str:
        own = cast(object, self.engine.identity)  # a plug-in may say anything
        if not isinstance(own, str) or not own:
            raise UserError(
                f"engine {type(self.engine).__name__}: identity is {own!r}; it is a text that names the model"
            )
        return f"{own}:{self.version}" if self.version else own

    def lacking(self, samples: Sequence[Sample]) -> list[str]:
        return self.engine.lacking(samples)

    def known(self, samples: Sequence[Sample]) -> list[Response | None]:
        return self.engine.known(samples)

    def close(self) -> None:
        self.engine.close()

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        return in_order(self.answers(samples, n, sampling), len(samples))

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        return in_order(self.choices(samples, options), len(samples))

    def keys(self, samples: Sequence[Sample], sampling: Sampling) -> list[str]:
        """What the answers to each sample are kept under, apart from their index."""
        return self._keys(samples, asdict(sampling))

    def missing(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[Sample]:
        """The distinct prompts that are not answered in full yet."""
        questions = _questions(samples, self.keys(samples, sampling), n)
        known = self.store.get(key for q in questions.values() for key in q.keys)
        return [q.sample for q in questions.values() if q.known(known) < n]

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        questions = _questions(samples, self.keys(samples, sampling), n)

        def ask(chosen: Sequence[_Question], have: int) -> Iterator[Answer[tuple[object, ...]]]:
            # Engines give the k-th of n answers the seed plus k, so the rest is what it would have been.
            rest = replace(sampling, seed=sampling.seed + have)
            for answer in self.engine.answers([q.sample for q in chosen], n - have, rest):
                value = answer.value
                kept = value if isinstance(value, Failed) else tuple(asdict(response) for response in value)
                yield Answer(answer.index, kept, answer.counts, answer.reason)

        for answer in self._serve(questions, ask):
            value = answer.value
            read = value if isinstance(value, Failed) else tuple(map(_response, value))
            yield Answer(answer.index, read, reason=answer.reason)

    def choices(self, samples: Sequence[Sample], options: Sequence[str]) -> Iterator[Answer[Choice]]:
        questions = _questions(samples, self._keys(samples, {"options": list(options)}), 1)

        def ask(chosen: Sequence[_Question], have: int) -> Iterator[Answer[tuple[object, ...]]]:
            for answer in self.engine.choices([q.sample for q in chosen], options):
                value = answer.value
                kept = value if isinstance(value, Failed) else (_plain(value),)
                yield Answer(answer.index, kept, answer.counts)

        for answer in self._serve(questions, ask):
            value = answer.value
            yield Answer(answer.index, value if isinstance(value, Failed) else _choice(value[0]))

    def _serve(self, questions: Mapping[str, _Question], ask: Ask) -> Iterator[Answer[tuple[object, ...]]]:
        """The kept form of every place's answer: from the store, or asked for, or waited for."""
        owner = new_owner()
        pending = dict(questions)
        yield from self._stored(pending)
        if not pending:
            return
        with self._claiming(owner):
            while pending:
                mine = self.store.claim(pending, owner, self.lease)
                yield from self._stored(pending)  # what came while we were not looking
                by_number: defaultdict[int, list[str]] = defaultdict(list)
                for key in [key for key in pending if key in mine]:
                    by_number[pending[key].known(self.store.get(pending[key].keys))].append(key)
                for have, keys in by_number.items():
                    chosen = [pending[key] for key in keys]
                    for answer in ask(chosen, have):
                        key = keys[answer.index]
                        yield from self._heard(pending.pop(key), have, answer)
                        self.store.release(owner, [key])
                    if silent := [pending[key].sample.id for key in keys if key in pending]:
                        raise UserError(
                            f"engine {type(self.engine).__name__} gave no answer to {len(silent)} of {len(keys)} "
                            f"prompts (first: {silent[0]!r}); it gives one, or Failed, for each"
                        )
                if pending and not by_number:
                    time.sleep(POLL)

    def _stored(self, pending: dict[str, _Question]) -> Iterator[Answer[tuple[object, ...]]]:
        """Takes out of `pending` what the store answers in full."""
        known = self.store.get(key for question in pending.values() for key in question.keys)
        full = {key: question for key, question in pending.items() if question.known(known) == len(question.keys)}
        if full:
            self._count(cache_hits=sum(len(question.places) for question in full.values()))
        for key, question in full.items():
            del pending[key]
            for place in question.places:
                yield Answer(place, tuple(known[k] for k in question.keys))

    def _heard(
        self, question: _Question, have: int, answer: Answer[tuple[object, ...]]
    ) -> Iterator[Answer[tuple[object, ...]]]:
        """Keeps an answer, counts what it took, and hands it, with those from before, to every place that asked."""
        value, reason = answer.value, answer.reason
        self._count(calls=1, cache_hits=len(question.places) - 1, **answer.counts)
        if isinstance(value, Failed):
            self._count(failures=1)
            reason = value.reason
        else:  # there may be fewer than were asked for
            self.store.put(dict(zip(question.keys[have:], value, strict=False)), self.identity)
        if have or not isinstance(value, Failed):
            kept = self.store.get(question.keys)  # the first, if there were two
            value = tuple(kept[key] for key in question.keys if key in kept)
        for place in question.places:
            yield Answer(place, value, reason=reason)

    @contextlib.contextmanager
    def _claiming(self, owner: str) -> Generator[None]:
        """Renews the owner's claims for as long as it lasts, whatever the engine is busy with."""
        stop = threading.Event()

        def renew() -> None:
            store = Store(self.store.path)  # a connection belongs to its thread
            while not stop.wait(self.lease / 3):
                with contextlib.suppress(UserError):  # a full disk shows where answers are written
                    store.renew(owner, self.lease)

        thread = threading.Thread(target=renew, name="mmpu-claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.store.release(owner)

    def _keys(self, samples: Sequence[Sample], asked: Mapping[str, object]) -> list[str]:
        # Recorded answers are found by id as well as by prompt; every other engine sees the prompt only.
        by_id = getattr(self.engine, "by_id", False)
        identity = self.identity
        keys: list[str] = []
        for sample in samples:
            with named(sample):
                beyond = [sample.id, sample.reference] if by_id else []
                keys.append(digest([identity, prompt_key(sample.prompt), asked, beyond]))
        return keys

    def _count(self, **counts: int) -> None:
        self.ledger.add(**{f"{self.role}_{name}": n for name, n in counts.items() if n})


def _questions(samples: Sequence[Sample], keys: Sequence[str], n: int) -> dict[str, _Question]:
    questions: dict[str, _Question] = {}
    for place, (sample, key) in enumerate(zip(samples, keys, strict=True)):
        question = questions.setdefault(key, _Question(sample, tuple(f"{key}.{k}" for k in range(n))))
        question.places.append(place)
    return questions


def _response(kept: object) -> Response:
    row = cast(dict[str, Any], kept)
    tokens = None if row["tokens"] is None else tuple(row["tokens"])
    raw = row["raw"] if "raw" in row else row["text"]  # as stores of version 0.1 have it
    return Response(raw, tokens, tuple(row["logp"]), row["finished"], row.get("reasoning", ""))


def _plain(choice: Choice) -> dict[str, object]:
    return {"probs": dict(choice.probs), "outside": choice.outside, "bounded": sorted(choice.bounded)}


def _choice(kept: object) -> Choice:
    row = cast(dict[str, Any], kept)
    return Choice(row["probs"], row["outside"], frozenset(row["bounded"]))
