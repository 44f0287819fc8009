"""Ranges stand with the fields: every number of every config class has one, and is held to it where it is read."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Interval

from mmpu import plugins
from mmpu.config import build
from mmpu.core import Engine, Grader, Sampling, Scorer, UserError
from mmpu.duel import Judge
from mmpu.knobs import Count, Share, limits, marks
from mmpu.learning import Method
from mmpu.recipes.run_config import RunConfig, TeacherSampling
from mmpu.student import Lora, StudentConfig
from mmpu.task.yaml_task import TaskConfig, parse_split
from mmpu.train.optim import Optim
from mmpu.train.preflight import Preflight
from mmpu.train.stage_config import StageConfig

KINDS: dict[str, type[Any]] = {"methods": Method, "scorers": Scorer, "engines": Engine, "judges": Judge}
CLASSES: list[type[Any]] = [
    *(RunConfig, TeacherSampling, StudentConfig, Lora, StageConfig, Optim, Preflight, Sampling, TaskConfig),
    *(plugins.find_class("graders", name, Grader) for name in plugins.code("graders")),
    *(plugins.find_class(kind, name, base) for kind, base in KINDS.items() for name in plugins.code(kind)),
]
FREE = {"StageConfig.low_anchor", "SRPO.correct", "Choice.first", "Cached.lease"}
"""Any finite number will do: scores have a scale of their own; the last is wired."""


def numbers() -> list[tuple[type[Any], str, Any]]:
    """Every field of a config class whose values are numbers."""
    found: list[tuple[type[Any], str, Any]] = []
    for cls in CLASSES:
        hints = typing.get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            plain = typing.get_type_hints(cls)[field.name]
            kinds = {plain, *(typing.get_args(plain))}
            if field.init and kinds & {int, float} and typing.get_origin(plain) not in (tuple, dict):
                found.append((cls, field.name, hints[field.name]))
    return found


NUMBERS = numbers()


@pytest.mark.parametrize(("cls", "name", "hint"), NUMBERS, ids=[f"{c.__name__}.{n}" for c, n, _ in NUMBERS])
def test_a_number_has_a_range_and_is_held_to_it(cls: type[Any], name: str, hint: Any) -> None:
    ranges = limits(marks(hint))
    assert ranges or f"{cls.__name__}.{name}" in FREE
    wrong: list[Any] = [True, math.nan, math.inf, -math.inf, "nan", 10**400]
    for each in ranges:
        for bound, step in ((each.gt, 0), (each.ge, -1), (each.lt, 0), (each.le, 1)):
            wrong += [] if bound is None else [typing.cast(Any, bound) + step]
    for value in wrong:
        with pytest.raises(UserError, match=rf"^x\.{name}: "):
            build(cls, {name: value}, "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip": -1}, r"x\.clip: -1 is out of range; it must be at least 0 and at most 1e\+06"),
        ({"lr": True}, r"x\.lr: true will not do: a number is wanted"),
        ({"lr": 0}, r"x\.lr: 0 is out of range; it must be above 0 and at most 1"),
        ({"warmup": 5}, r"x\.warmup: 5 is out of range"),
        ({"betas": [0.9, 1.0]}, r"x\.betas\.1: 1\.0 is out of range; it must be at least 0 and below 1"),
        ({"betas": [0.9]}, r"x\.betas: \[0\.9\] will not do: it takes 2 values"),
        ({"betas": [True, 0.9]}, r"x\.betas\.0: true will not do"),
        ({"tokens_per_pass": 0}, r"x\.tokens_per_pass: 0 is out of range"),
    ],
)
def test_a_setting_that_would_destroy_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        build(Optim, values, "x")


def test_numbers_in_mappings_and_in_strings_are_held_to_the_same() -> None:
    for value in (True, "inf", math.nan):
        with pytest.raises(UserError, match=r"^x\.alarms\.kl_ref: "):
            build(StageConfig, {"alarms": {"kl_ref": value}}, "x")
    assert build(Optim, {"lr": "1e-3"}, "x").lr == 1e-3
    with pytest.raises(UserError, match=r"x\.lr: '-1e-3' is out of range"):
        build(Optim, {"lr": "-1e-3"}, "x")


@pytest.mark.parametrize("split", ["train[5:2]", "train[5:5]", "train[:0]"])
def test_a_slice_that_holds_nothing_is_refused(split: str) -> None:
    with pytest.raises(UserError, match="holds nothing"):
        parse_split(split, "x")


def test_a_plug_in_says_its_ranges_in_the_same_way() -> None:
    @dataclass(frozen=True)
    class Own:
        width: Count = 1
        share: Share | None = None
        slope: Annotated[float, Interval(gt=-1, lt=1)] = 0.0

    globals()["Own"] = Own
    assert build(Own, {"width": 3, "share": 0.5}, "own") == Own(3, 0.5)
    assert build(Own, {"share": None}, "own") == Own()
    for name, value in (("width", 0), ("share", 1.5), ("slope", -1)):
        with pytest.raises(UserError, match=rf"^own\.{name}: {value} is out of range"):
            build(Own, {name: value}, "own")


def test_what_is_made_without_a_config_is_held_to_its_ranges_too() -> None:
    with pytest.raises(UserError, match=r"sampling out of range: top_p=2 \(above 0 and at most 1\)"):
        Sampling(top_p=2)
