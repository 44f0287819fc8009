"""What stands in a row, as templates and models can use it: pictures as something that a part can name, wherever in a
cell they are; numbers that are none as null; texts that can be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any, cast

from mmpu.core import UserError
from mmpu.media import named_picture

_MISSING = ("NaTType", "NAType")
"""Classes of pandas for what is missing."""


def cell(value: object, where: str) -> object:
    """A cell of a row; what is inside its lists and mappings is treated like what stands at the top.

    NaN is null: so pandas and Parquet write what is missing.

    Raises:
        UserError: half a surrogate pair, or a picture that cannot be used; names `where`.
    """
    if isinstance(value, str):
        return _text(value, where)
    found = named_picture(value, where)
    if found is not value:
        return found
    if isinstance(value, Mapping):
        inside = cast(Mapping[Any, object], value)
        return {key: cell(item, f"{where}.{key}") for key, item in inside.items()}
    if isinstance(value, list | tuple):
        return [cell(item, f"{where}.{i}") for i, item in enumerate(cast(list[object], value))]
    return None if _is_missing(value) else value


def _is_missing(value: object) -> bool:
    return type(value).__name__ in _MISSING or (isinstance(value, Number) and value != value)


def _text(text: str, where: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.start]
            raise UserError(
                f"{where}: half a surrogate pair ({text[error.start]!r}, after {around!r}) is no character, and no "
                "model can read it; the text was cut within one, so repair or remove it"
            ) from None
    return text
