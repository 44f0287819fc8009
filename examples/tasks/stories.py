"""Stories of text files, separated by <|endoftext|>: the first sentence is the prompt, the next two the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def rows(split: str, folder: Path) -> Iterator[dict[str, str]]:
    for file in sorted(folder.glob("*.txt")):
        for number, story in enumerate(file.read_text(encoding="utf-8").split("<|endoftext|>")):
            sentences = re.split(r"(?<=[.!?])\s+", " ".join(story.split()))
            if len(sentences) >= 4 and (number % 5 == 0) == (split == "test"):
                yield {"id": f"{file.stem}-{number}", "start": sentences[0], "rest": " ".join(sentences[1:3])}
