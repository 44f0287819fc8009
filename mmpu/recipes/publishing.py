"""Boards and runs as folders that others can use, and such folders on the hub: a static Space with the pages of boards,
or a model repository with weights and card."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpu import files
from mmpu.boards import read, records
from mmpu.config import load_yaml
from mmpu.core import UserError
from mmpu.recipes.benchmarks import results
from mmpu.recipes.card import card
from mmpu.recipes.pages import write_site
from mmpu.recipes.runs import export, last_stage, weights_of
from mmpu.store import write_atomically

HUB = "hf://"
LONGEST = 96
"""Characters of a repository's name, as the hub has it."""
_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)


@dataclass(frozen=True)
class Folder:
    """What is published, on this machine."""

    kind: Literal["model", "space"]
    path: Path

    @property
    def files(self) -> list[tuple[str, int]]:
        """Names and bytes of what is in it."""
        found = sorted(p for p in self.path.rglob("*") if p.is_file())
        return [(p.relative_to(self.path).as_posix(), p.stat().st_size) for p in found]


def repository(to: str) -> str | None:
    """The repository that `hf://org/name` names; None for a folder.

    Raises:
        UserError: it is neither.
    """
    if not to.startswith(HUB):
        return None
    name = to.removeprefix(HUB)
    parts = name.split("/")
    if len(parts) != 2 or not all(map(_NAME.fullmatch, parts)) or len(name) > LONGEST or "--" in name or ".." in name:
        raise UserError(f"{to}: a repository is named hf://ORGANISATION/NAME, of letters, digits, `-`, `_` and `.`")
    return name


def prepared(target: Path, folder: Path, boards: Sequence[Path] = ()) -> Folder:
    """Writes what is to be published to `folder`.

    Args:
        target: A board's JSON file, a folder of them, or a run.
        boards: For a run, those that its card shows.

    Raises:
        UserError: there is nothing to publish, or the folder is not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another folder, or delete it")
    if (target / "config.yaml").exists():
        return Folder("model", _model(target, folder, boards))
    if boards:
        raise UserError("--board belongs to the card of a run, and this is a leaderboard; leave it out")
    return Folder("space", _space(target, folder))


def upload(folder: Folder, repository: str) -> str:
    """Puts the folder into a repository of the hub, made if it is not there; the token is huggingface_hub's own.

    Returns:
        The address.

    Raises:
        UserError: the hub refused; what lies in the folder is whole.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    sdk = "static" if folder.kind == "space" else None
    try:
        api.create_repo(repository, repo_type=folder.kind, space_sdk=sdk, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder.path, repo_type=folder.kind)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the hub did not take {repository}: {said}; everything lies in {folder.path}. It wants a token that may "
            "write (HF_TOKEN, or `hf auth login`)"
        ) from None
    return str(done.repo_url)


def _model(run: Path, folder: Path, boards: Sequence[Path]) -> Path:
    config = load_yaml(run / "config.yaml")
    stage = last_stage(run)  # an unfinished run is refused before anything is written
    export(str(run), folder)
    shown = [read(path) for path in boards]
    write_atomically(folder / "README.md", card(run.name, config, shown))
    for name, text in results(weights_of(str(stage)), shown).items():
        write_atomically(folder / ".eval_results" / name, text)
    write_atomically(folder / "mmpu.yaml", files.text(run / "config.yaml"))
    return folder


def _space(target: Path, folder: Path) -> Path:
    paths = sorted(target.glob("*.json")) if target.is_dir() else [target]
    write_site(paths, folder)
    for path in paths:
        text = json.dumps(records(read(path)), indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / "every_eval_ever" / path.name, text)
    tasks = ", ".join(sorted({read(path).task for path in paths}))
    front = "---\ntitle: Leaderboards\nsdk: static\npinned: false\ntags: [leaderboard, mmpu]\n---\n"
    write_atomically(folder / "README.md", f"{front}\nPairwise leaderboards of {tasks}, made by mmpu.\n")
    return folder
