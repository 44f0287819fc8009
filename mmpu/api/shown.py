"""Results as tables: HTML for notebooks, frames for pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mmpu.core import UserError

MOST, LONG = 20, 300
"""Rows of a table in a notebook, and characters of a cell."""


def html(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A table for a notebook; what others wrote is escaped, and what is long is cut and said to be."""

    def cell(value: object) -> str:
        text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return escape(text if len(text) <= LONG else f"{text[:LONG]}…")

    head = "".join(f"<th>{cell(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows[:MOST])
    more = f"<p>{len(rows) - MOST:,} more rows</p>" if len(rows) > MOST else ""
    said = f"<p>{escape(note)}</p>" if note else ""
    return (
        f"<p><b>{escape(title)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}{said}"
    )


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `pandas.DataFrame` of rows.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("to_pandas() needs pandas; pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])
