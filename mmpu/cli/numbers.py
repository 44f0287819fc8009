"""Numbers of the command line, each in a range: more is a slip of the keyboard, and NaN is in none."""

from __future__ import annotations

import math
from typing import Any

import click

from mmpu.knobs import FEW, MANY


class Number(click.FloatRange):
    """A finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number", param, ctx)
        return found


COUNT = click.IntRange(1, MANY)
COUNT_OR_ZERO = click.IntRange(0, MANY)
PARALLEL = click.IntRange(1, FEW)
"""Calls in flight, candidates, or attempts."""
SHARE = Number(0, 1)
COST = Number(0)
