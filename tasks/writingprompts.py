"""WritingPrompts as published by fairseq (a prompt per line, a story per line), or as on the hub, made readable.

Yields prompt, story, tag (`CW`, `EU`, … or empty), key (the prompt's words) and `held_out`: whether the same prompt is
in a split that is evaluated on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FILES = {"train": "train", "validation": "valid", "test": "test"}
LATER = {"train": ("validation", "test"), "validation": ("test",), "test": ()}
"""Splits whose prompts a split must not have."""
HUB = "hf:euclaise/writingprompts"
TAG = re.compile(r"^\s*\[\s*(\w+)\s*\]\s*")
SPACING = (
    (r"\s*<newline>\s*", "\n"),
    (r"``\s*|\s*''", '"'),
    (r"\s+(n't|'(?:s|m|d|ll|re|ve)\b)", r"\1"),
    (r"\s+([,.;:!?%)\]}])", r"\1"),
    (r"([(\[{$])\s+", r"\1"),
    (r"[^\S\n]+", " "),
)


def rows(split: str, folder: Path) -> Iterator[dict[str, object]]:
    taken = {key(prompt) for other in LATER[split] for prompt, _ in pairs(other, folder)}
    for prompt, story in pairs(split, folder):
        tag = TAG.match(prompt)
        yield {
            "prompt": readable(f"[{tag[1].upper()}] {prompt[tag.end() :]}" if tag else prompt),
            "story": readable(story),
            "tag": tag[1].upper() if tag else "",
            "key": key(prompt),
            "held_out": key(prompt) in taken,
        }


def pairs(split: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Prompts with their stories, as published."""
    source, target = (folder / f"{FILES[split]}.wp_{side}" for side in ("source", "target"))
    if source.is_file() and target.is_file():
        with source.open(encoding="utf-8") as prompts, target.open(encoding="utf-8") as stories:
            yield from zip(prompts, stories, strict=True)
        return
    from mmpu.task.hub import HubSource

    copy = folder if any(folder.rglob("*.parquet")) else None
    for row in HubSource.parse(HUB, __file__).rows(split, copy):
        yield str(row["prompt"]), str(row["story"])


def key(prompt: str) -> str:
    """What makes two prompts the same: their words, without tag, case and punctuation."""
    return " ".join(re.findall(r"\w+", TAG.sub("", prompt).casefold()))


def readable(text: str) -> str:
    """Tokenised text as people write it."""
    for pattern, replacement in SPACING:
        text = re.sub(pattern, replacement, text)
    return text.strip()
