"""Where in a text the answer stands, and what it is made of: words, numbers and signs."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from mmpu.graders._boxes import boxes

_ANSWER = (
    "answer|réponse|respuesta|resposta|risposta|antwort|lösung|antwoord|svaret|svar|vastaus|odpowiedź|odpověď|odpoveď|"
    "răspunsul|răspuns|válasz|yanıt|cevap|jawabannya|jawaban|câu trả lời|đáp án|ответ|відповідь|отговор|одговор|"
    "απάντηση|תשובה|התשובה|الإجابة|الجواب|پاسخ|جواب|उत्तर|जवाब|উত্তর|คำตอบ"
)
_IS = "is|would be|should be|must be|ist|lautet|est|es|è|é|jest|är|er|on|adalah|là|هي|هو|है|คือ"
_ABOUT = (
    r"(?:\s+(?:correcta|correcte|correct|correta|corretta|right|here|choice|option|letter|"
    r"to (?:the|this|that|your) (?:question|problem|exercise)|الصحيحة|الصحيح|đúng|yang benar|yang tepat))*"
)
_CJK = (
    r"(?:答案|答え|回答|解答|正解|정답|답)\s*(?:应该|應該)?(?:是|为|為|选|選|は|が|은|는)?\s*[:：]?|"
    r"(?:故|应|應|所以|因此|应该|^|[，。；])选择?(?!项)"
)
_MARKS = r"[*_`\"'\])}]*"
_ANSWER_IS = re.compile(
    rf"\b(?:{_ANSWER}){_ABOUT}{_MARKS}(?:\s*[:：=]|\s*is(?!\w)|\s+(?:{_IS})(?!\w)|\s+[–—-]\s|"
    rf"\s+(?=[(\[]?(?-i:[A-Z])[)\].]?(?:\s|$))){_MARKS}\s*[:：]?"
    r"|\b(?:correct|right|best|final|chosen|selected|my)\s+(?:option|choice|letter)"
    rf"{_MARKS}(?:\s*[:：=]|\s+(?:is|would be)(?!\w)){_MARKS}\s*[:：]?"
    rf"|^[#*_ \t]*(?:the[ \t]+)?(?:final[ \t]+|correct[ \t]+)?(?:{_ANSWER})[*_]*[ \t]*$|{_CJK}",
    re.IGNORECASE | re.MULTILINE,
)
_TAGGED = re.compile(r"<((?:final_?)?answer)>((?:(?!<(?:final_?)?answer>).)*?)</\1>", re.IGNORECASE | re.DOTALL)
_FIELD = re.compile(
    r"[\"'](?:final[ _]?answer|correct[ _]?(?:answer|option)|answer|choice|option|letter|prediction)[\"']\s*:\s*"
    r"\[?\s*(?:\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|(-?\d[\d.]*))",
    re.IGNORECASE,
)
UNSAID = {"not", "t", "or", "nor", "neither", "either"}
"""Before an answer, words that take it back: «not 12», «isn't 12», «11 or 12»."""
_MINUS = re.compile(r"[−﹣－]|[–‒](?=[\d.$€£√\\(])")
"""What is written for a minus; U+2013 is one before a number."""
_WRAPPER = re.compile(
    r"\\(?:f?box(?:ed)?|text[a-z]{0,6}|math(?:rm|bf|it|sf|tt|bb)|mbox|emph|underline|operatorname|bf|rm)\s*"
    r"\{([^{}]*)\}"
)
_DECORATION = re.compile(
    r"\\[()\[\]](?!\w)|\\[,;:! ]|\\q?quad(?![a-z])|\*\*|__|`|~~|^[ \t]*(?:#{1,6}|>|[-*•])[ \t]+|"
    r"</?(?:b|i|em|strong|u|p|br|span|div|code|mark|sub|sup|h[1-6]|li|ul|ol|pre|option|choice|output|result|response|"
    r"(?:final_?)?answer)\s*/?>",
    re.IGNORECASE | re.MULTILINE,
)
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))")
_ESCAPED = re.compile(r"\\([%$#&_{}])")
_EMPHASIS = re.compile(r"(?<![\w*)])([*_])(?=\S)([^*_\n]{1,200}?)(?<=\S)\1(?![\w*])")


def announced(text: str) -> str | None:
    """What stands after the last «answer is» or «answer:», in a box, a tag or a field; None if nothing is announced."""
    found = announcements(text)
    return found[-1] if found else None


def announcements(text: str) -> list[str]:
    """What stands after each «answer is», up to the next, and in each box, tag or field meant for the answer."""
    closed = sorted(closed_marks(text) + boxes(text))
    found: list[tuple[int, str]] = [(start, content) for start, _, content in closed if content.strip()]
    begins = list(_ANSWER_IS.finditer(text))
    places = iter(closed)
    place = next(places, None)
    for match, following in zip(begins, [*(m.start() for m in begins[1:]), len(text)], strict=False):
        while place is not None and place[1] <= match.start():
            place = next(places, None)
        if place is None or match.start() < place[0]:
            found.append((match.start(), text[match.end() : max(match.end(), following)]))
    return [content for _, content in sorted(found)]


def closed_marks(text: str) -> list[tuple[int, int, str]]:
    """Where a tag `<answer>` or a field `"answer"` begins and ends, and what it holds."""
    tags = [(m.start(), m.end(), m[2]) for m in _TAGGED.finditer(text)]
    return tags + [(m.start(), m.end(), m[1] or m[2] or m[3] or "") for m in _FIELD.finditer(text)]


def composed(text: str) -> str:
    """A text in one Unicode form, composed, with one minus sign."""
    return _MINUS.sub("-", unicodedata.normalize("NFC", text))


def unwrapped(text: str) -> str:
    """A text without what LaTeX, Markdown and HTML put around words."""
    for _ in range(4):
        text, count = _WRAPPER.subn(r" \1 ", text)
        if not count:
            break
    text = _ESCAPED.sub(r"\1", _DEGREES.sub("°", text))
    return _EMPHASIS.sub(r"\2", _DECORATION.sub(" ", text))


def words(text: str) -> list[str]:
    """Numbers, words and signs, in lower case, without punctuation, currency and decoration.

    Letters keep their marks, and signs count: `x < 3` is not `x > 3`, `Na+` not `Na-`, `C#` not `C`, `5` not `-5`.
    """
    plain = composed(unwrapped(text)).casefold()
    return [_THOUSANDS.sub(_together, token.replace(" ", "")) for token in _tokens().findall(composed(plain))]


def alike(these: list[str], those: list[str]) -> bool:
    """Whether two lists of words say the same; `12` may be said for `12%`, `90` for `90°`, `5` for `+5`."""
    return len(these) == len(those) and all(
        one == other
        or (_UNITS.sub("", one) == _UNITS.sub("", other) and bool(_UNITS.search(one)) != bool(_UNITS.search(other)))
        for one, other in zip(these, those, strict=True)
    )


_THOUSANDS = re.compile(r"(?<![\d.])([1-9]\d{0,2}(?:,\d{3})+)(?!\d)")
_UNITS = re.compile(r"(?<=\d)[%°]|^\+(?=\d)")


def _together(match: re.Match[str]) -> str:
    return match[1].replace(",", "")


@cache
def _tokens() -> re.Pattern[str]:
    """The pattern of a word, a number or a sign; made from Unicode's table, since `\\w` leaves out the vowel marks."""
    marks, mathematical = _class_of("M"), _class_of("Sm")
    word = rf"[^\W\d_]+(?:[{marks}]+[^\W\d_]*)*"
    number = r"(?:(?<![\w)])[+-])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?: ?[%°])?|(?<![\w.])[+-]?\.\d+(?: ?[%°])?"
    attached = r"(?:(?:\+\+|[+#′″⁺⁻*])(?![^\s,.;:!?)\]}'\"+])|-(?=$|[\s,.;:!?)\]}]))?"
    between = r"(?<=[\s\d)])-(?=[\s\w(])|(?<=[\d\s)])[/*](?=[\s\d(])|(?<=\b\w)[*/-](?=\w\b)"
    return re.compile(rf"{word}{attached}|(?:{number})(?:[+*](?=$|[\s,.;:)]))?|[{mathematical}#&@^%°]|{between}")


def _class_of(category: str) -> str:
    """The characters of a Unicode category, as they stand in a class of a pattern."""
    codes = [code for code in range(0x1F000) if unicodedata.category(chr(code)).startswith(category)]
    return "".join(re.escape(chr(code)) for code in codes)
