"""Text to token ids, without doing the same work twice: prompts about one question differ in a few lines only.

A text is cut before a tag that begins a line, as in our prompts' blocks, and the ids of a piece are remembered. That is
done where, by the tokenizer's own parts, no token can reach over such a cut and nothing before it depends on what
follows; any other tokenizer is given the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

KEPT = 50_000
"""Pieces held before the cache starts anew."""
CUT = "\n<"
"""Cut between the two, if what stands before is no white space."""
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_ALTERNATIVES = frozenset(
    (
        *(r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?\p{L}+", r"\p{N}", r"\p{N}{1,3}", r" ?\p{N}+"),
        *(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"),
    )
)
"""Of the patterns by which GPT-2's, LLaMA 3's and Qwen's tokenizers split: none matches a line break and `<` behind
it, and none looks further than that."""
_PROBE = "Grade it.\n<question>\nWhat is 2 + 2?\n\n</question>\n<candidate>\n 4.\n</candidate>\nDigit:"


class Tokens:
    """The ids of texts, no special token added.

    Args:
        tokenizer: One of transformers'.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._known: dict[str, tuple[int, ...]] = {}
        self._lead: tuple[int, ...] = ()
        self.cuts = self._backend is not None and can_cut(self._backend, tokenizer)
        """Whether texts are cut."""
        if self.cuts:
            self._lead = self._fresh("\n")
            self.cuts = self(_PROBE) == self.whole(_PROBE)

    def __call__(self, text: str) -> tuple[int, ...]:
        if not self.cuts:
            return self.whole(text)
        first, *others = _pieces(text)
        if first.startswith(CUT):
            return self.whole(text)
        ids = list(self._ids(first))
        for piece in others:
            ids += self._ids(piece)
        return tuple(ids)

    def whole(self, text: str) -> tuple[int, ...]:
        """The same ids, from the text in one piece."""
        return tuple(cast(list[int], self._tokenizer(text, add_special_tokens=False)["input_ids"]))

    def _ids(self, piece: str) -> tuple[int, ...]:
        found = self._known.get(piece)
        if found is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            found = self._fresh(piece)
            if piece.startswith(CUT):  # the line break belongs to the piece before
                found = found[len(self._lead) :]
            self._known[piece] = found
        return found

    def _fresh(self, piece: str) -> tuple[int, ...]:
        self._backend.no_truncation()
        self._backend.no_padding()
        return tuple(self._backend.encode(piece, add_special_tokens=False).ids)


def _pieces(text: str) -> list[str]:
    """A text in pieces that overlap by one line break."""
    parts = text.split(CUT)
    pieces: list[str] = []
    piece = parts[0]
    for part in parts[1:]:
        if not piece or piece[-1].isspace():
            piece += CUT + part
        else:
            pieces.append(piece + "\n")
            piece = CUT + part
    pieces.append(piece)
    return pieces


def lead(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that a tokenizer puts before a text; what it puts behind one belongs behind an answer."""
    text = "a"
    plain, whole = (
        tuple(cast(list[int], tokenizer(text, add_special_tokens=each)["input_ids"])) for each in (False, True)
    )
    places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
    return whole[: places[0]] if places else ()


def can_cut(backend: Any, tokenizer: Any) -> bool:
    """Whether ids of pieces are the ids of the text.

    Where it splits texts by one of the known patterns, it always splits at a cut. Where it splits at spaces or not at
    all, no entry of the vocabulary may reach over a cut; merges on one side of it are then no affair of the other's.
    """
    from tokenizers import models

    model: Any = backend.model
    added: Iterable[Any] = tokenizer.added_tokens_decoder.values()
    plain = (
        isinstance(model, models.BPE)
        and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
        and not backend.encode_special_tokens
        and not any(t.lstrip or t.rstrip or t.single_word or CUT in t.content for t in added)
        and all(_normalizes_apart(part) for part in _parts(backend.normalizer, "normalizers"))
    )
    if not plain:
        return False
    splitters = [part for part in _parts(backend.pre_tokenizer, "pretokenizers") if not _at_spaces(part)]
    if not splitters:
        spanning = (CUT, "<0x0A><")
        whole = model.byte_fallback and not model.ignore_merges
        return whole and not any(span in token for token in backend.get_vocab() for span in spanning)
    return all(map(_splits_apart, splitters)) and any(map(_splits, splitters))


def _parts(component: Any, name: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    state = cast(dict[str, Any], json.loads(component.__getstate__()))
    return state[name] if state["type"] == "Sequence" else [state]


def _normalizes_apart(part: dict[str, Any]) -> bool:
    if part["type"] == "Replace":
        return part["pattern"] == {"String": " "} and part["content"] == "▁"
    return part["type"] == "NFC" or (part["type"] == "Prepend" and part["prepend"] == "▁")


def _at_spaces(part: dict[str, Any]) -> bool:
    return part["type"] == "Split" and part["pattern"] == {"String": " "} and part["behavior"] == "MergedWithPrevious"


def _splits_apart(part: dict[str, Any]) -> bool:
    if part["type"] == "ByteLevel":
        return not part["add_prefix_space"]
    return _splits(part)


def _splits(part: dict[str, Any]) -> bool:
    """Whether a part splits at every cut."""
    if part["type"] == "ByteLevel":
        return part["use_regex"]
    if part["type"] != "Split" or part["behavior"] != "Isolated" or part["invert"]:
        return False
    pattern = str(part["pattern"].get("Regex", ""))
    alternatives = set(pattern.removeprefix(_CONTRACTIONS).split("|"))
    return alternatives <= _ALTERNATIVES and r"\s+" in alternatives
