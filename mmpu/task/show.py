"""Samples of a task as a reader wants them: the turns, pictures as paths or inline, the reference and the answer."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator

from mmpu.core import Part, Sample
from mmpu.media import load_image
from mmpu.shown import one_line, visible
from mmpu.task.hub import HubSource
from mmpu.task.yaml_task import YamlTask

WIDTH = 320
"""Longest side of an inline picture, in pixels."""


def show(task: YamlTask, split: str, n: int) -> Iterator[str]:
    """The lines of the first `n` samples of a split."""
    config = task.config
    facts = {"licence": config.licence, "citation": config.citation, "traps": config.traps, "revision": _revision(task)}
    yield visible(f"{task.name}: {config.about}")
    yield from (visible(f"  {name}: {' '.join(text.split())}") for name, text in facts.items() if text)
    chosen = f"{split}[:{n}]"
    for sample in task.samples(chosen):
        yield from ("", f"── {one_line(sample.id)}")
        yield from _sample(sample)
    for why, count in task.dropped[chosen].items():
        if (example := task.examples.get(chosen, {}).get(why)) is not None:
            yield from ("", visible(f"left out on the way there as `{why}`: {count}, the first {example}"))


def _revision(task: YamlTask) -> str:
    """The state of the hub's data set that rows come from; empty where they come from files."""
    config = task.config
    sources = {split.source or config.source or "" for split in config.splits.values()}
    hub = [source for source in sources if source.startswith("hf:") and config.data is None]
    named = {HubSource.parse(source, str(task.path), config.revision).revision for source in hub}
    if None in named:
        return f"not pinned, so the hub's rows may change; pin it with --data {task.name}=@COMMIT or `revision: COMMIT`"
    return ", ".join(sorted(filter(None, named)))


def _sample(sample: Sample) -> Iterator[str]:
    for message in sample.prompt:
        for part in message.parts:
            yield f"{message.role}: {_part(part)}"
        if message.more:
            yield visible(f"{message.role}: {message.more}")
    rejected = None if sample.pair is None else sample.pair[1]
    for name, text in (("reference", sample.reference), ("rejected", rejected), ("answer", sample.answer)):
        if text is not None:
            yield visible(f"{name}: {text}")
    yield from (visible(f"{name}: {value}") for name, value in sample.meta.items())


def _part(part: Part) -> str:
    if part.kind == "text":
        return visible(part.data)
    name = part.data if len(part.data) < 200 else f"{part.data[:40]}… ({len(part.data)} characters)"
    return f"[image {one_line(name)}]" + _inline(part.data)


def _inline(image: str) -> str:
    """The escape sequence that draws a picture, where standard output is a terminal that is known to draw."""
    kitty = "KITTY_WINDOW_ID" in os.environ
    iterm = os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm")
    if not sys.stdout.isatty() or not (kitty or iterm):
        return ""
    picture = load_image(image)
    picture.thumbnail((WIDTH, WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    if iterm:
        return f"\n\x1b]1337;File=inline=1;size={len(buffer.getvalue())}:{encoded}\a"
    pieces = [encoded[i : i + 4096] for i in range(0, len(encoded), 4096)]
    more = [f"\x1b_Gm={int(i < len(pieces) - 1)}" for i in range(len(pieces))]
    more[0] = more[0].replace("\x1b_G", "\x1b_Gf=100,a=T,")
    return "\n" + "".join(f"{head};{piece}\x1b\\" for head, piece in zip(more, pieces, strict=True))
