"""Collecting answers: a teacher's anchors before a run, or a baseline's outputs before an evaluation.

Answers are kept in the store as they come, so a run that is killed goes on where it was. At the end they are written
in the order of the samples as the JSONL that `replay` reads; a row's `key` says which prompt, engine and sampling it
answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpu.config import load_yaml, override, replaced
from mmpu.core import Answer, Failed, Response, Sample, Sampling, UserError
from mmpu.engines.cached import Cached
from mmpu.engines.replay import read_answers
from mmpu.media import images as media
from mmpu.recipes import wiring
from mmpu.store import Ledger, Store, write_atomically
from mmpu.task import load_local

CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28
"""Of Qwen's image processors; others are of the same order."""


@dataclass(frozen=True)
class Collection:
    """What is to be collected."""

    samples: Sequence[Sample]
    n: int
    sampling: Sampling
    engine: Cached
    out: Path

    def preview(self) -> str:
        """Calls, tokens and cost in words; nothing is asked."""
        missing = self.engine.missing(self.samples, self.n, self.sampling)
        tokens_in = sum(map(estimated_tokens, missing))
        tokens_out = len(missing) * self.n * self.sampling.max_tokens
        lines = [
            f"engine            {self.engine.identity}",
            f"prompts           {len(self.samples):,}",
            f"answered already  {len(self.samples) - len(missing):,} (or asked once for several)",
            f"to ask            {len(missing):,} prompts, {self.n} answers each",
            f"tokens in         {tokens_in:,}, estimated",
            f"tokens out        {tokens_out:,} at most",
        ]
        price = getattr(self.engine.engine, "price", None)
        if price is not None:
            cost = (tokens_in * price.input + tokens_out * price.output) / 1e6
            lines.append(f"cost              {cost:.2f} at most")
        return "\n".join(lines)


@dataclass(frozen=True)
class GenerateOptions:
    """What `mmpu generate` was asked for."""

    task: str
    engine: str
    """An engine's name, or a YAML file with its keys."""
    settings: tuple[str, ...]
    """Keys of the engine, such as `model=Qwen/Qwen3-32B`."""
    out: Path
    split: str = "train"
    limit: int | None = None
    n: int = 1
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    store: Path | None = None
    data: str | Sequence[str] = ()
    """As for `EvalOptions`, and `trust` too."""
    trust: bool = False
    allow_urls: bool = False
    dry_run: bool = False


def collection(options: GenerateOptions) -> Collection:
    """What `mmpu generate` is to collect; a dry run leaves no file behind."""
    task = load_local(options.task, options.data, trust=options.trust, allow_urls=options.allow_urls)
    samples = task.samples(options.split)[: options.limit]
    sampling = replaced(task.config.sampling, options.sampling, "sampling")
    file = Path(options.engine)
    spec = load_yaml(file) if file.suffix in (".yaml", ".yml") else {"name": options.engine}
    engine, weights = wiring.opened(wiring.Source.read(override(spec, options.settings), "engine"), task)
    store = options.store or options.out.parent / "store.sqlite"
    if options.dry_run and not store.exists():
        store = Path(":memory:")
    ledger = Ledger(options.out.with_suffix(".ledger.json"), at_once=not options.dry_run)
    kept = Cached(engine, Store(store), ledger, "engine", weights)
    return Collection(samples, options.n, sampling, kept, options.out)


@dataclass(frozen=True)
class Report:
    text: str
    failed: int


def run(collection: Collection) -> Report:
    """Asks for what is missing and writes the file.

    Raises:
        UserError: the file that is there holds answers to something else.
    """
    keys = collection.engine.keys(collection.samples, collection.sampling)
    _check_mine(collection.out, set(keys))
    found = _collect(collection)
    rows: list[dict[str, object]] = []
    reasons: Counter[str] = Counter()
    fewer: Counter[str] = Counter()
    for sample, key, answer in zip(collection.samples, keys, found, strict=True):
        if isinstance(answer.value, Failed):
            reasons[answer.value.reason] += 1
            continue
        rows.append({"id": sample.id, **recorded(answer.value), "key": key})
        if len(answer.value) < collection.n:
            fewer[answer.reason] += 1
    write_atomically(collection.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    ledger = collection.engine.ledger
    ledger.save()
    counts = ledger.counts
    text = [
        f"{collection.out}: {len(rows):,} of {len(found):,} prompts answered. Over all starts: asked "
        f"{counts['engine_calls']:,}, failed {counts['engine_failures']:,}, tokens in {counts['engine_tokens_in']:,}, "
        f"out {counts['engine_tokens_out']:,}; all counts: {ledger.path}"
    ]
    if reasons:
        text.append(f"{reasons.total():,} prompts have no answer; the same command asks for them again. Why:")
        text += [f"  {count:,}  {reason}" for reason, count in reasons.most_common(5)]
    if fewer:
        text.append(f"{fewer.total():,} prompts have fewer than {collection.n} answers; the same. Why:")
        text += [f"  {count:,}  {reason}" for reason, count in fewer.most_common(5)]
    return Report("\n".join(text), reasons.total() + fewer.total())


def _collect(collection: Collection) -> list[Answer[tuple[Response, ...]]]:
    """All answers, with a bar while they come."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    engine = collection.engine
    found: dict[int, Answer[tuple[Response, ...]]] = {}
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("answers", total=len(collection.samples))
        try:
            for answer in engine.answers(collection.samples, collection.n, collection.sampling):
                found[answer.index] = answer
                failed += isinstance(answer.value, Failed)
                progress.update(bar, advance=1, description=f"answers, {failed} failed" if failed else "answers")
        finally:
            engine.ledger.save()
    return [found[index] for index in range(len(collection.samples))]


def recorded(responses: tuple[Response, ...]) -> dict[str, object]:
    """The fields of a row that hold answers."""
    texts = [response.raw for response in responses]
    reasoning = [response.reasoning for response in responses]
    finished = [response.finished for response in responses]
    row: dict[str, object] = {"output": texts[0]} if len(texts) == 1 else {"outputs": texts}
    if not all(finished):
        row["finished"] = finished[0] if len(finished) == 1 else finished
    if any(reasoning):
        row["reasoning"] = reasoning[0] if len(reasoning) == 1 else reasoning
    return row


def estimated_tokens(sample: Sample) -> int:
    text = sum(len(message.text) for message in sample.prompt) / CHARACTERS_PER_TOKEN
    with media.named(sample):
        return round(text + sum(media.pixels(image) / PIXELS_PER_TOKEN for image in sample.images))


def _check_mine(out: Path, keys: set[str]) -> None:
    if not out.exists():
        return
    for where, row in read_answers(out):
        if row.get("key") not in keys:
            raise UserError(
                f"{where}: answers something else than was asked for here (another engine, sampling, "
                "split or limit); choose another --out, or remove the file"
            )
