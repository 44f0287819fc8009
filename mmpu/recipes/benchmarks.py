"""Accuracies as the hub's benchmarks take them: `.eval_results/<task>.yaml` in the repository of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from mmpu.boards import Board, Entry
from mmpu.core import UserError
from mmpu.task import load_local


def results(weights: str, boards: Sequence[Board]) -> dict[str, str]:
    """Files by name: what the boards say of the system of these weights, on tasks that name a benchmark.

    Raises:
        UserError: a task's `benchmark` is none.
    """
    found: dict[str, str] = {}
    for board, benchmark, entry in _graded(weights, boards):
        dataset, _, task = benchmark.partition("#")
        if dataset.count("/") != 1 or not task:
            raise UserError(f"the task {board.task} has the benchmark {benchmark!r}; write org/name#task")
        if entry.accuracy is None:
            continue
        told = {
            "dataset": {"id": dataset, "task_id": task},
            "value": round(100 * entry.accuracy.value, 2),
            "date": entry.created,
            "notes": _how(entry),
        }
        found[f"{board.task}.yaml"] = yaml.safe_dump([told], sort_keys=False, allow_unicode=True)
    return found


def _graded(weights: str, boards: Sequence[Board]) -> Iterator[tuple[Board, str, Entry]]:
    """Entries of these weights on a whole split that a benchmark takes, with its name."""
    for board in boards:
        try:
            config = load_local(board.task).config
        except UserError:  # a task of another machine
            continue
        if config.benchmark is not None:
            mine = [e for e in board.entries if e.system.weights == weights and e.split == config.evaluate]
            yield from ((board, config.benchmark, entry) for entry in mine)


def _how(entry: Entry) -> str:
    sampling = entry.provenance.sampling
    version = entry.provenance.versions.get("mmpu", "")
    return f"mmpu {version}, temperature {sampling.get('temperature')}, n = {entry.n}".strip()
