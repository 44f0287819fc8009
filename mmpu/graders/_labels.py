"""Labels of options in a text: `(C)`, `Option C`, `C. word`, `C`, and the same in numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmpu.graders._text import UNSAID, composed, unwrapped

_NOUN = (
    "option|choice|letter|alternative|answer choice|antwort|opción|opção|opzione|optie|вариант|pilihan|seçenek|"
    "lựa chọn|विकल्प|الخيار"
)
_FILLER = (
    r"(?:(?:the|it|is|it's|its|would|must|be|should|clearly|definitely|probably|most|likely|therefore|so|thus|hence|"
    r"i|choose|pick|select|think|believe|correct|right|best|final|answer|indeed|simply|just|only|maybe|to|:|,|“|„|«|"
    rf"(?:{_NOUN}))\s*)*"
)
_BRACKETED = re.compile(r"(?<![\w)\]}])[(\[{<「【〔]\s*(\w{1,2})\s*[.:]?\s*[)\]}>」】〕]")
_NAMED = re.compile(
    rf"\b(?:{_NOUN})s?\s*[:#]?\s*[(\[\"'“]?\s*(\w{{1,2}})\b(?!')|(?:选项|選項|選択肢|선택지|보기)\s*[(\[]?(\w)",
    re.IGNORECASE,
)
_ENUMERATED = re.compile(
    r"(?:^|\n)[\s>*-]*[(\[]?([A-Za-z]|\d{1,2})(?:[)\].:、](?:\s|(?=[A-Z\u0080-\uffff]))|\s*[–—-]\s)(?=\s*\S)"
)
_INLINE = re.compile(r"(?<=[\s,;])([A-Z])(?:\)|[.:])\s+(?=\S)")
_CAPITAL = re.compile(r"(?<![\w'’.&+-])([A-Z])(?![\w'’&+#-]|\.\w)")
_ARTICLE_NEXT = re.compile(
    r"\s*(?:$|[,.;:!?)\]}\n–—-]|\(|(?:because|since|as|is|was|for|due|and|or|und|oder|y|o|et|ou|given|by)\b)"
)
_START = re.compile(
    rf"\W*{_FILLER}(?:"
    r"[(\[{<「【〔]\s*(?P<bracketed>\w{1,2})\s*[.:]?\s*[)\]}>」】〕]"
    rf"|(?:(?:{_NOUN})\s*[:#]?\s*|选项|選項)[(\[\"'“]?(?P<named>\w{{1,2}})(?!\w|['’]\w)[)\]\"'”]?"
    r"|(?P<marked>[A-Za-z]|\d{1,2})(?:[)\]]|[.:、](?=\s|[A-Z\u0080-\uffff]))"
    r"|(?P<capital>[A-Z])(?![\w'’&+#]|-\w))",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
_FORMULA = re.compile(r"\$([^$\n]{1,80})\$")
_SENTENCE = re.compile(r"(?<=[^\s.])(?:[.!?](?=\s|$)|[。！？])|\n")
_REASON = re.compile(
    r"[,;(]?\s*\b(?:because|since|as|which|due|given|where|whereas|while|unlike|rather than|instead of|weil|da|denn|"
    r"porque|ya que|parce que|car|потому|так как)\b|因为|因為|因此|なぜなら|—|–",
    re.IGNORECASE,
)
_DISMISSED = re.compile(
    r"\s*(?:is|are|was|would be|looks|seems|ist|es|est)?\s*(?:clearly|also|definitely)?\s*"
    r"(?:not\b|n't|in(?:correct|valid|accurate)|wrong|false|ruled out|eliminated|un(?:likely|true)|excluded|falsch|"
    r"faux|incorrect|неверн)",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\W*(?:or|oder|ou|maybe|perhaps|possibly|alternatively|could also)\b", re.IGNORECASE)
_RIGHT = re.compile(
    rf"(?:(?:{_NOUN})\s*)?[(\[\"'*_]*(?<!\w)([A-Z])[)\]\"'*_]*(?:[.:][^.\n]{{0,80}}?)?\s+(?:is|would be)\s+"
    r"(?:therefore\s+|clearly\s+|indeed\s+)?(?:the\s+|my\s+)?(?:most\s+)?(?:only\s+)?"
    r"(?:correct|right|best|true|accurate|appropriate|suitable|answer)\b(?!\s+(?:that|if|to say))",
)
_ALONE = re.compile(r"\W*(?:(?:option|choice)\s+)?([A-Za-z]|\d{1,2})\W*", re.IGNORECASE)

_LINE = 400


@dataclass(frozen=True)
class Start:
    """The label that a text begins with."""

    label: str
    rest: str
    """What follows it."""
    alone: bool
    """Whether its line ends there."""
    bare: bool
    """Whether it is a capital letter without any mark of a label."""


def plain(text: str) -> str:
    """A text without decoration, letters and digits in their ordinary width."""
    said = unicodedata.normalize("NFKC", composed(unwrapped(text))).replace("’", "'")
    said = _FORMULA.sub(r" \1 ", _INVISIBLE.sub("", said))
    return (said if said.count("}") <= said.count("{") else said.replace("}", " ")).strip()


def at_start(text: str) -> Start | None:
    """The label that a text begins with, words such as «the» and «option» aside."""
    match = _START.match(text)
    if match is None:
        return None
    label = next(group for group in match.groups() if group is not None)
    rest = text[match.end() :]
    if match["capital"] and (label.islower() or not _follows(label, rest)):
        return None
    if match["named"] and label == "a" and not _ARTICLE_NEXT.match(rest):
        return None
    return Start(
        label,
        rest,
        bare=match["capital"] is not None,
        alone=not rest.strip() or rest.lstrip(" \t.:,;!").startswith("\n"),
    )


def _follows(label: str, rest: str) -> bool:
    """Whether what follows a capital letter leaves it a label: `A because`, but not `A bus` nor `I think`."""
    return bool(_ARTICLE_NEXT.match(rest)) if label in "AI" else not re.match(r"\s*[=+/*^<>]|\s*-\s*\d", rest)


def within(text: str, capitals: bool) -> Iterator[str]:
    """The labels that stand in a text and are not taken back; with `capitals`, bare letters too."""
    for pattern in (_BRACKETED, _NAMED, *((_INLINE, _CAPITAL) if capitals else ())):
        for match in pattern.finditer(text):
            label = next(group for group in match.groups() if group is not None)
            if pattern is _CAPITAL and label in "AI" and not _ARTICLE_NEXT.match(text, match.end()):
                continue
            if pattern is _NAMED and label.islower() and not _ARTICLE_NEXT.match(text, match.end()):
                continue
            if not _unsaid(text[max(0, match.start() - 40) : match.start()]) and not _DISMISSED.match(
                text, match.end()
            ):
                yield label


def stranger(text: str) -> bool:
    """Whether a text is a single capital letter, in brackets or not; asked where no option has it as label or text."""
    return re.fullmatch(r"[^\w\s]*[A-Z][^\w\s]*", text) is not None


def bracketed(text: str) -> str | None:
    """The label that a text is, in brackets: `(C)`."""
    match = _BRACKETED.fullmatch(text.strip(" .,;:!?\"'"))
    return match[1] if match else None


def without(text: str) -> str:
    """A text without its labels in brackets."""
    return _BRACKETED.sub(" ", text)


def enumerated(text: str) -> list[str]:
    """The labels that begin a line, or stand within it as in a list of options."""
    return [match[1] for pattern in (_ENUMERATED, _BRACKETED, _INLINE) for match in pattern.finditer(text)]


def listed(text: str, known: Callable[[str], bool]) -> bool:
    """Whether a text is several labels: `C, D`, `C and D`, `CD`."""
    said = sentence(text).strip(" .,;:()[]")
    letters = re.split(r"\s*(?:[,/&;+、]|\s|\band\b|\bor\b|\bund\b|\by\b|\bet\b|和|或)\s*", said)
    letters = list(said) if re.fullmatch(r"[A-Z]{2,}", said) else [letter.strip("() .") for letter in letters if letter]
    return len(set(letters)) > 1 and all(len(letter) == 1 and letter.isupper() and known(letter) for letter in letters)


def called_right(text: str) -> list[str]:
    """The labels of which a text says that they are right."""
    said = plain(text)
    return [
        match[1] for match in _RIGHT.finditer(said) if not _unsaid(said[max(0, match.start() - 20) : match.start()])
    ]


def alone(text: str, own: Callable[[str, str], bool]) -> list[str]:
    """The labels that are a line of their own, alone or with their own text, if the last line is one.

    Args:
        own: Whether a line's rest is the text of the option with this label.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        return []
    found = [_line(plain(line), own) if len(line) <= _LINE else None for line in lines]
    return [label for label in found if label is not None] if found[-1] else []


def _line(line: str, own: Callable[[str, str], bool]) -> str | None:
    if match := _ALONE.fullmatch(line):
        return match[1]
    start = at_start(line)
    return start.label if start is not None and not start.bare and own(start.label, start.rest) else None


def sentence(text: str) -> str:
    """The first sentence or line of a text."""
    return _SENTENCE.split(text.lstrip(), maxsplit=1)[0]


def before_reason(text: str) -> str:
    """What stands before «because» and its like."""
    return _REASON.split(text, maxsplit=1)[0]


def dismissed(text: str) -> bool:
    """Whether what follows a label says that it is wrong."""
    return bool(_DISMISSED.match(text))


def offers_another(text: str) -> bool:
    """Whether what follows a label offers another one: `. Or (3)?`."""
    return bool(_ANOTHER.match(text))


def _unsaid(before: str) -> bool:
    said = re.findall(r"[^\W\d_]+", before.casefold())
    last = next((word for word in reversed(said) if word not in {"a", "an", "the", "option", "choice", "answer"}), "")
    return last in UNSAID - {"or", "either"}
