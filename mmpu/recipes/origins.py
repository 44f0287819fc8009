"""Where a student comes from, as far as its files and the hub's own names tell; nobody is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmpu import strict_yaml
from mmpu.boards import Origin
from mmpu.core import UserError

if TYPE_CHECKING:
    from mmpu.student import Student

FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
LARGEST_CARD = 2**20


def origin_of(student: Student, base: str) -> Origin:
    """Of a student that was trained from `base`: a folder, or a name on the hub."""
    model = student.model
    on_hub = not Path(base).expanduser().exists() and base.count("/") == 1
    return Origin(
        organisation=base.split("/")[0] if on_hub else None,
        hub=base if on_hub else None,
        revision=getattr(model.config, "_commit_hash", None) if on_hub else None,
        licence=licence_of(base),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def licence_of(base: str) -> str | None:
    """What the model's card states, where the card is in its folder or among the hub's files that were fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from mmpu.student import resolve_model

    try:
        found = resolve_model(base)[0]
        card: object = Path(found, "README.md")
        if not Path(found).exists():
            card = try_to_load_from_cache(found, "README.md")
    except (UserError, HFValidationError):  # the base of a run that came from another machine
        return None
    return _stated(Path(card)) if isinstance(card, str | Path) and Path(card).is_file() else None


def _stated(card: Path) -> str | None:
    """The licence in a card's front matter; a card that cannot be read states none."""
    if card.stat().st_size > LARGEST_CARD:
        return None
    front = FRONT.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        values: object = strict_yaml.loaded(front[1]) if front else None
    except UserError:
        return None
    licence: object = values.get("license") if isinstance(values, dict) else None  # pyright: ignore
    return licence if isinstance(licence, str) else None
