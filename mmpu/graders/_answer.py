r"""A mathematical answer as what it says: a number or formula, a list, set or interval, digits to a base, or words.

One canonical form serves the grader `math`, its votes (`maj@k`) and the scorer `majority`: equal answers have equal
keys, `3`, `3.0` and `\frac62`, but also `\sqrt8` and `2\sqrt2`, `x+1` and `1+x`, `3,5,7` and `7, 5 and 3`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from mmpu.graders._forms import PLAIN_WORDS, Based, Form, Number, Several, Words
from mmpu.graders._value import values, written

_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:,?\\[,!;: ]|\{,\}|[\u00a0\u2009\u202f'’])\d{3})+)(?!\d)")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_SPACED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_WRAPPED = re.compile(
    r"\\(?:f?box(?:ed)?|textbf|mathbf|textit|emph|bm|underline)\s*\{([^{}]*)\}|\*\*([^*]+)\*\*|__([^_]+)__"
)
_WORDS = re.compile(r"\\(?:text|textrm|textnormal|mbox|hbox|mathrm|textsf|texttt|textup)\s*\{([^{}]*)\}")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|\\text\{\\\$\}|\b(?:USD|US|EUR|Rs\.?)(?=\s*[\d$])")
_PERCENT = re.compile(r"\s*(?:\\?%|\b(?:percent|per cent|pct\b\.?))\s*$", re.IGNORECASE)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|\bdegrees?)\s*[CF]?\s*$")
_UNIT = re.compile(r"(?<=[\d})!])\s*(?:[A-Za-z]{3,}\.?(?:\s*/\s*[A-Za-z]+)?(?:\^\{?[23]\}?)?\s*)+$")
_SHORT_UNIT = re.compile(r"(?<=[\d})])\s+(?:[cmk]m|k?g|mg|m[lL]|oz|lbs?|ft|hr|ms|mph|in\.)(?:\^\{?[23]\}?|/\w+)?\.?$")
_TEXT_UNIT = re.compile(
    r"(?<=[\w})!])\s*\\(?:(?:text|textrm|textnormal|mbox|hbox)\{\s*[^{}\d]*\}|mathrm\{\s*[A-Za-z/ ]{2,}\})"
    r"(?:\s*\^\s*\{?[23]\}?)?$"
)
_THOUSANDS_OF = re.compile(r"([+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)(\s*(?:\\|[A-Za-z%])[^,]*)", re.DOTALL)
_NOTHING = re.compile(
    r"(?:\\[lcv]?dots|\\q?quad|\\text\{\s*\}|[\s.…_?~$*-])*|[+-]?\d+\s*/\s*0+|\\[dtc]?frac\s*\{[^{}]*\}\s*\{0+\}"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALE = re.compile(r"(.*[\d}])\s*(hundred|thousand|million|billion|trillion|dozen)s?\b(.*)", re.DOTALL)
_NAME = re.compile(
    r"\s*((?:m\s*)?(?:\\angle\s*)?\\?[A-Za-z]+'?(?:_(?:\{\w+\}|\w))?(?:\(\w(?:,\w)*\))?)\s*(?:=|\\approx|≈|\\in(?![A-Za-z])|\\equiv)(?![=])"
)
_BASED = re.compile(r"\(?([0-9A-Za-z]*\d[0-9A-Za-z]*)\)?\s*_\s*(?:\{\s*(\w+)\s*\}|(\d))")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_DECIMAL = re.compile(r"[+-]?\s*(\d*)\.(\d+)(?:\s*\\times\s*10\s*\^\s*(?:\{?\s*-?\d+\s*\}?)|[eE][+-]?\d+)?")
_BETWEEN = re.compile(r"\s*;\s*|\s*,?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*|,(?=\s)")
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|∅")
_SYNONYMS = {
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "<=": r"\le ",
    ">=": r"\ge ",
    "!=": r"\ne ",
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\neq": r"\ne",
    r"\lt": "<",
    r"\gt": ">",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\leqslant": r"\le",
    r"\geqslant": r"\ge",
    "∈": r"\in ",
    "≈": r"\approx ",
}
_SYNONYM = re.compile(
    "|".join(re.escape(s) + (r"(?![A-Za-z])" if s[-1].isalpha() else "") for s in sorted(_SYNONYMS, key=len)[::-1])
)


def key(text: str) -> str | None:
    """An answer's canonical form; None if it says nothing."""
    form = read(text)
    return None if form is None else form.key


def read(text: str) -> Form | None:
    """What an answer says; None if it says nothing."""
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    for _ in range(3):
        text = _WRAPPED.sub(lambda m: next((part for part in m.groups() if part is not None), ""), text)
    text = re.sub(r"\\[()\[\]](?![A-Za-z])", " ", written(text))
    text = _CURRENCY.sub(" ", _SYNONYM.sub(lambda m: _SYNONYMS[m[0]], text))
    if (whole := _WORDS.fullmatch(text.strip())) is not None:
        text = whole[1]
    try:
        return _form(_outer(text))
    except RecursionError:  # brackets in brackets without end
        return Words(text)


def readings(text: str) -> list[Form]:
    """What an answer may say: `100,200` is a number, or two."""
    form = read(text)
    plain = _outer(text)
    if form is None:
        return []
    if not _THOUSANDS.fullmatch(plain):
        return [form]
    parts = plain.split(",")
    if any(len(part) > 1 and part[0] == "0" for part in parts):
        return [form]
    return [form, Several("{}", tuple(part for p in parts if (part := _form(p)) is not None))]


def _outer(text: str) -> str:
    """A text without the spaces, full stop and dollar signs around it."""
    text = text.strip().strip("$").strip()
    return re.sub(r"(?<!\\)[.;,:]+$", "", text).strip() if not text.endswith("...") else text


def _form(text: str) -> Form | None:
    """What a text in plain writing says."""
    text = _outer(text)
    if _NOTHING.fullmatch(text):
        return None
    if counted := _THOUSANDS_OF.fullmatch(text):
        text = counted[1].replace(",", "") + counted[2]
    if _THOUSANDS.fullmatch(text) or _SPACED.fullmatch(text):
        text = re.sub(r"[, ]", "", text)
    if _EMPTY.fullmatch(text) or re.fullmatch(r"\\\{\s*\\\}", text):
        return Several("{}", ())
    return replace(_united(text) or _bracketed(text) or _listed(text) or _single(text), source=text)


def _united(text: str) -> Form | None:
    text = re.sub(r"^\s*\w\s*\\in(?![A-Za-z])", "", text)
    parts = re.split(r"\\cup(?![A-Za-z])", text)
    if len(parts) < 2:
        return None
    items = [_form(part) for part in parts]
    return None if None in items else Several("∪", tuple(item for item in items if item is not None))


def _bracketed(text: str) -> Form | None:
    """A set, a tuple or an interval: what one pair of brackets holds, if a comma divides it."""
    text = re.sub(r"^\s*\w\s*\\in(?![A-Za-z])\s*", "", text)
    braces = text.startswith("\\{") and text.endswith("\\}")
    inner = text[2:-2] if braces else text[1:-1]
    if not braces and not (len(text) > 2 and text[0] in "([" and text[-1] in ")]"):
        return None
    if not _closed(inner):
        return None
    parts = _split(inner, ",")
    if not braces and len(parts) < 2:
        return None
    if braces and (":" in inner or "\\mid" in inner or "|" in inner):
        return None
    items = [_form(part) for part in parts]
    kept = tuple(item for item in items if item is not None)
    if len(kept) != len(parts):
        return None
    return Several("{}" if braces else text[0] + text[-1], _signs(kept, parts) if braces else kept)


def _signs(items: tuple[Form, ...], parts: list[str]) -> tuple[Form, ...]:
    """The items of a set, where one with `\\pm` is two."""
    found: list[Form] = []
    for item, part in zip(items, parts, strict=True):
        both = _plus_minus(part)
        found += both.items if isinstance(both, Several) else [item]
    return tuple(found)


def _plus_minus(text: str) -> Several | None:
    if len(re.findall(r"\\pm(?![A-Za-z])", text)) != 1 or "\\mp" in text:
        return None
    both = [_single(re.sub(r"\\pm(?![A-Za-z])", sign, text)) for sign in ("+", "-")]
    return Several("{}", tuple(both)) if all(isinstance(one, Number) for one in both) else None


def _listed(text: str) -> Form | None:
    """Several answers with commas, semicolons, «and» or «or» between them."""
    plain = _WORDS.sub(lambda m: f" {m[1]} " if m[1].strip() in ("and", "or") else m[0], text)
    parts = [part for piece in _split_by(plain, _BETWEEN) for part in _split_list(piece)]
    parts = [part for part in parts if part.strip()]
    if len(parts) < 2:
        return _plus_minus(text)
    named = [_NAME.match(part) for part in parts]
    names = [match[1] for match in named if match]
    if len(names) == len(parts) and len(set(names)) == len(names):
        pairs = sorted((match[1], part[match.end() :]) for match, part in zip(named, parts, strict=True) if match)
        items = [_form(value) for _, value in pairs]
        if all(item is not None for item in items):
            return Several("=", tuple(i for i in items if i is not None), tuple(name for name, _ in pairs))
    found: list[Form] = []
    for part in parts:
        item = _plus_minus(part) or _form(part)
        if item is not None:
            found += item.items if isinstance(item, Several) and item.brackets == "{}" else [item]
    return Several("{}", tuple(found))


def _split_list(piece: str) -> list[str]:
    """The parts between commas, where these do not group thousands."""
    return [piece] if _THOUSANDS.fullmatch(piece.strip()) else _split(piece, ",")


def _split_by(text: str, pattern: re.Pattern[str]) -> list[str]:
    cuts = [m for m in pattern.finditer(text) if _closed(text[: m.start()])]
    edges = [0, *(edge for m in cuts for edge in (m.start(), m.end())), len(text)]
    return [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _split(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand outside all brackets."""
    parts, start, depth = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == mark and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _closed(text: str) -> bool:
    """Whether every bracket of a text is closed in it, whatever its kind."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _single(text: str) -> Form:
    """One answer: a number, with its name and unit left out, or words."""
    based = _BASED.fullmatch(_WORDS.sub(r"\1", text).strip())
    if based:
        base = based[2] or based[3]
        return Based(based[1].lstrip("0") or "0", _BASES.get(base, base))
    plain = _value_of(_TEXT_UNIT.sub("", text))
    percent = bool(_PERCENT.search(plain))
    plain = _DEGREES.sub("", _PERCENT.sub("", plain))
    factor = 1
    if scale := _SCALE.fullmatch(plain):
        factor, plain = _SCALES[scale[2]], scale[1] + scale[3]
    for candidate in (_SHORT_UNIT.sub("", plain), _UNIT.sub("", plain)):
        found = values(candidate)
        if found is not None:
            decimal = _DECIMAL.fullmatch(candidate.strip())
            digits = len((decimal[1] + decimal[2]).lstrip("0")) if decimal else 0
            return Number(tuple(value * factor for value in found), digits, percent)
    return _in_words(text)


def _value_of(text: str) -> str:
    """What stands for the value: `x = 5` is 5, `\\frac{10}{2} = 5` is 5, and words in a box of their own are plain."""
    text = re.sub(r"^\s*(?:\\approx(?![A-Za-z])|\\sim(?![A-Za-z])|=|≈)\s*", "", _WORDS.sub(r" \1 ", text))
    while name := _NAME.match(text):
        text = text[name.end() :]
    parts = text.split("=")
    if len(parts) > 1 and (last := values(parts[-1])) is not None and all(values(part) == last for part in parts):
        text = parts[-1]
    return text.strip()


def _in_words(text: str) -> Words:
    plain = _WORDS.sub(r" \1 ", text)
    if PLAIN_WORDS.fullmatch(plain):  # words, in which capitals and spaces say nothing
        plain = " ".join(plain.casefold().strip(" .,;:").split())
        return Words(re.sub(r"^\((\w)\)$", r"\1", plain))
    return Words(re.sub(r"\s+", "", re.sub(r"\\[dtc]frac", r"\\frac", plain)))
