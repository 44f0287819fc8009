"""AlpacaEval's files, in and out: annotations that were bought elsewhere become a match here, and a match of ours
becomes `model_outputs.json`, `reference_outputs.json` and `annotations.json` that its own package reads.

Its preference runs from 1 (the baseline, `output_1`) to 2 (the model, `output_2`); 1.5, or 0 in old files, is a tie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmpu import files
from mmpu.boards import Provenance, System
from mmpu.core import Sample, UserError, digest
from mmpu.duel import Verdict
from mmpu.judging.equalise import words
from mmpu.judging.match import Asked, Item, Match, counts_of
from mmpu.judging.verdicts import Reading, reading_of
from mmpu.prompts import question
from mmpu.store import write_atomically

TASK = "alpaca_eval"


@dataclass(frozen=True)
class Imported:
    """A match and its readings, ready for the store."""

    match: Match
    readings: list[Reading]


def read_annotations(path: Path, created: str) -> list[Imported]:
    """The matches of an `annotations.json`, one per pair of generators and annotator.

    Items are named by their `index` where the file has one, else by their place in it.

    Raises:
        UserError: unreadable, not a list of annotations, or two different annotations of one item.
    """
    try:
        rows: Any = files.value_in(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the annotations {path}: {error}; expected AlpacaEval's annotations.json, or the .jsonl that "
            "`mmpu judge export` wrote"
        ) from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: not a list of annotations")
    groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(cast(list[Any], rows)):
        values = _checked(row, f"{path}, annotation {number}")
        who = (str(values["generator_2"]), str(values["generator_1"]), str(values.get("annotator", "unknown")))
        items = groups.setdefault(who, {})
        index = str(values.get("index", number))
        if items.setdefault(index, values) != values:
            raise UserError(f"{path}, annotation {number}: a second, different annotation of item {index!r}")
    return [_imported(who, items, path, created) for who, items in groups.items()]


def _checked(row: Any, where: str) -> dict[str, Any]:
    values = cast(dict[str, Any], row) if isinstance(row, dict) else {}
    for key in ("instruction", "output_1", "output_2", "generator_1", "generator_2"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{where}: needs `{key}`, a text")
    preference = values.get("preference")
    if preference != preference:  # NaN is pandas' null
        values["preference"] = preference = None
    if preference is not None and not (
        isinstance(preference, int | float) and (preference == 0 or 1 <= preference <= 2)
    ):
        raise UserError(f"{where}: `preference` is {preference!r}; it runs from 1 to 2, or is null")
    return values


def _imported(who: tuple[str, str, str], rows: Mapping[str, dict[str, Any]], path: Path, created: str) -> Imported:
    model, baseline, annotator = who
    judge = f"{TASK}:{annotator}"
    items: list[Item] = []
    readings: list[Reading] = []
    for index, row in rows.items():
        key = digest([judge, row["instruction"], row["output_1"], row["output_2"]])
        readings.append(reading_of(key, judge, _verdict(index, row.get("preference"))))
        lengths = (len(row["output_2"]), len(row["output_1"]))
        sizes = (words(row["output_2"]), words(row["output_1"]))
        items.append(Item(index, index, lengths, sizes, (None, None), Asked(((key, "none"),))))
    texts = [[row[f"output_{i}"] for row in rows.values()] for i in (2, 1)]
    systems = [
        System(name, name, digest(outputs), None, None, None, digest(outputs))
        for name, outputs in zip((model, baseline), texts, strict=True)
    ]
    provenance = Provenance(
        task_hash=digest(TASK),
        data_hash=digest([[index, row["instruction"]] for index, row in rows.items()]),
        judge_identity=judge,
        sampling={},
        versions={},
        commit=None,
        judge={"name": annotator},
    )
    match = Match(
        task=TASK,
        split=path.stem,
        judge=annotator,
        decided_by=f"annotations of {annotator}, imported",
        weighting="soft",
        system=systems[0],
        baseline=systems[1],
        provenance=provenance,
        items=tuple(items),
        created=created,
        counts=counts_of(*texts),
    )
    return Imported(match, readings)


def _verdict(index: str, preference: float | None) -> Verdict:
    if preference is None:
        return Verdict(index, "none", None, reason="the annotation has no preference")
    soft = 0.5 if preference == 0 else float(preference) - 1
    return Verdict(index, "none", 0.5 if soft == 0.5 else float(soft > 0.5), soft)


def write_annotations(
    match: Match,
    readings: Mapping[str, Reading],
    samples: Mapping[str, Sample],
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    folder: Path,
) -> int:
    """Writes `model_outputs.json`, `reference_outputs.json` and `annotations.json`.

    Args:
        samples: By id; so are the answers `ours` and `theirs`.

    Returns:
        How many duels could not be read; their preference is null.
    """
    rows: list[dict[str, Any]] = []
    for index, item in enumerate(match.items):
        verdicts = item.raw.verdicts(item.sample, readings)
        known = [w for v in verdicts if (w := v.soft if match.weighting == "soft" else v.win) is not None]
        rows.append(
            {
                "index": index,
                "instruction": question(samples[item.sample].prompt),
                "dataset": match.task,
                "generator_1": match.baseline.name,
                "generator_2": match.system.name,
                "output_1": theirs[item.sample],
                "output_2": ours[item.sample],
                "annotator": match.judge,
                "preference": 1 + sum(known) / len(known) if known else None,
            }
        )
    for name, side in (("model_outputs", "2"), ("reference_outputs", "1")):
        keys = {"instruction": "instruction", "dataset": "dataset", f"output_{side}": "output"}
        outputs = [
            {new: row[old] for old, new in keys.items()} | {"generator": row[f"generator_{side}"]} for row in rows
        ]
        _write(folder / f"{name}.json", outputs)
    _write(folder / "annotations.json", rows)
    return sum(row["preference"] is None for row in rows)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n")
