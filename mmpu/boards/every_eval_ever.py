"""Boards as records of «Every Eval Ever», the shared schema of evaluation results (version 0.3.0): one per system.

https://github.com/evaleval/every_eval_ever; every value of its free fields is a string.
"""

from __future__ import annotations

import datetime
from typing import Any

from mmpu.boards.board import Board, Entry, System
from mmpu.statistics import Interval

SCHEMA_VERSION = "0.3.0"


def records(board: Board, now: str | None = None) -> list[dict[str, Any]]:
    """One record per system that met a baseline.

    Args:
        now: When the records are made, in ISO 8601; None takes each entry's own time, so that they do not change.
    """
    return [_record(board, entry, now or entry.created) for entry in board.entries if entry.system != entry.baseline]


def _record(board: Board, entry: Entry, made: str) -> dict[str, Any]:
    seconds = str(datetime.datetime.fromisoformat(made).timestamp())
    system = entry.system
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"mmpu.{board.task}.{board.judge}/{system.name}/{seconds}",
        "evaluation_timestamp": entry.created,
        "retrieved_timestamp": seconds,
        "source_metadata": {
            "source_name": f"mmpu: {board.task} under {board.judge}",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "mmpu", "version": entry.provenance.versions.get("mmpu", "unknown")},
        "model_info": {
            "name": system.name,
            "id": system.origin.hub or system.model,
            **({"developer": system.origin.organisation} if system.origin.organisation else {}),
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "weights": system.weights,
                **{k: str(v) for k, v in _told(system).items() if v is not None},
            },
        },
        "evaluation_results": _results(board, entry),
    }


def _told(system: System) -> dict[str, object]:
    return {
        "method": system.method,
        "seed": system.seed,
        "revision": system.origin.revision,
        "license": system.origin.licence,
        "parameters": system.origin.parameters,
    }


def _results(board: Board, entry: Entry) -> list[dict[str, Any]]:
    rates = {"win_rate": entry.win_rate.rate, **entry.length_controlled}
    judged = [
        _result(board, entry, name, f"Win rate against {entry.baseline.name}, ties one half", value, _scoring(entry))
        for name, value in rates.items()
    ]
    graded = {"accuracy": entry.accuracy, **entry.metrics}
    return judged + [
        _result(board, entry, name, "Mean grade of the task's own grader", value, None)
        for name, value in graded.items()
        if value is not None
    ]


def _result(
    board: Board, entry: Entry, metric: str, about: str, value: Interval, scoring: dict[str, Any] | None
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "evaluation_description": about,
        "metric_id": f"mmpu.{metric}",
        "metric_name": metric,
        "metric_unit": "proportion",
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0,
        "max_score": 1.0,
    }
    bounds: dict[str, Any] = {"num_samples": value.n}
    if value.low is not None and value.high is not None:
        bounds["confidence_interval"] = {"lower": value.low, "upper": value.high, "confidence_level": 0.95}
    sampling = entry.provenance.sampling
    known = ("temperature", "top_p", "top_k", "max_tokens")
    return {
        "evaluation_name": f"{board.task} ({entry.split})",
        "source_data": {
            "dataset_name": board.task,
            "source_type": "other",
            "additional_details": {"task_hash": entry.provenance.task_hash, "data_hash": entry.provenance.data_hash},
        },
        "metric_config": config | ({"llm_scoring": scoring} if scoring else {}),
        "score_details": {"score": value.value, "uncertainty": bounds},
        "generation_config": {"generation_args": {key: sampling[key] for key in known if key in sampling}},
    }


def _scoring(entry: Entry) -> dict[str, Any] | None:
    """How a model judged; None where a rule did."""
    judge = entry.provenance.judge
    if "model" not in judge:
        return None
    details = {"deployment_type": "unknown", "model_availability": "unknown", **_strings(judge)}
    info = {"name": judge["model"], "id": judge["model"], "additional_details": details}
    return {
        "judges": [{"model_info": info}],
        "input_prompt": judge.get("text") or f"not kept; its hash is {judge.get('prompt', 'unknown')}",
        "additional_details": {"baseline": entry.baseline.name, "identity": entry.provenance.judge_identity},
    }


def _strings(judge: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in judge.items() if key not in ("name", "model", "text")}
