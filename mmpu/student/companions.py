"""What lies beside a model's weights travels with them as it came: tokenizer, processors, templates, code, how to
generate. Written anew it would lose what the writer does not know, or take names that only the newest release reads."""

from __future__ import annotations

import shutil
from pathlib import Path

_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
_OURS = ("config.json", "adapter_config.json", "student.json")
_ON_THE_HUB = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json"),
    *("chat_template.json", "chat_template.jinja", "tokenizer_config.json", "tokenizer.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
GENERATION = "generation_config.json"


def copied(source: str, folder: Path) -> bool:
    """Copies what lies beside the weights of a folder or a hub id; False if that holds no tokenizer."""
    place = Path(source)
    if not place.is_dir():
        found = _cached(source)
        if found is None:
            return False
        place = found
    (folder / GENERATION).unlink(missing_ok=True)
    for file in place.iterdir():
        if file.is_file() and file.suffix in _SUFFIXES and file.name not in _OURS and ".index." not in file.name:
            shutil.copyfile(file, folder / file.name)
    templates = place / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name, dirs_exist_ok=True)
    return any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def _cached(name: str) -> Path | None:
    """The folder where the hub's files of a model lie on this machine."""
    from transformers.utils.hub import cached_file

    found: list[Path] = []
    for file in _ON_THE_HUB:
        path = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        found += [Path(path)] if path else []
    return found[0].parent if found else None
