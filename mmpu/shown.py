"""Texts of others on a terminal and on a page: what they hold is seen, and does nothing there."""

from __future__ import annotations

import re

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Control characters, those that change the order of what is seen, those that are not seen, halves of surrogate pairs;
not those that join emoji and Arabic letters."""
_BREAKS = re.compile(r"\s*[\n\t]\s*")


def visible(text: str) -> str:
    """A text for a terminal: what would move the cursor, change colours or reorder is spelled out, as `\\x1b`. Lines
    stay lines."""
    return _ACTING.sub(lambda found: _spelled(found[0]), text)


def one_line(text: str) -> str:
    """A name for a terminal: as `visible`, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """A text inside a Markdown table or list: no tag, no link, no cell and no line of its own."""
    line = _BREAKS.sub(" ", visible(text))
    for mark, inert in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "&#92;"), ("`", "&#96;")):
        line = line.replace(mark, inert)
    return line.replace("|", "\\|").replace("](", "]&#40;")


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
