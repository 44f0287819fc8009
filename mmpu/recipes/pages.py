"""From board files, and the evaluation's store, answers and samples beside them, to a page.

Numbers come from the boards alone. What else there is, is shown; what is missing is said on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmpu.boards import (
    SCHEMA_FILE,
    Board,
    Entry,
    Listed,
    Shown,
    System,
    Texts,
    index,
    kept,
    page,
    read,
    schema_text,
    view_of,
    write,
)
from mmpu.core import UserError
from mmpu.evaluation import STORE, place_of, said_by
from mmpu.judging import Match, Verdicts, match_of, met, places, raw_wins, with_strengths
from mmpu.store import write_atomically
from mmpu.thinking import answer_of


def write_page(paths: Sequence[Path], out: Path) -> list[Path]:
    """Writes a page of these boards to `out`, an HTML file, with script files beside it where pictures are many.

    Returns:
        What was written, the page first.

    Raises:
        UserError: a board cannot be read, or `out` cannot be written.
    """
    if out.suffix != ".html":
        raise UserError(f"{out}: a page is an .html file; give --html a name that ends so")
    texts = Texts()
    shown = [_shown(read(path), path.parent, texts) for path in paths]
    files = page(shown, texts, out.stem)
    for name in reversed(files):  # the page last: it does not stand there without its pictures
        write_atomically(out.with_name(name), files[name])
    return [out.with_name(name) for name in files]


def write_site(paths: Sequence[Path], out: Path) -> list[Path]:
    """Writes a site of all boards in these files and folders to the folder `out`.

    Returns:
        What was written, the index first.

    Raises:
        UserError: a board cannot be read, two are of one task and judge, or `out` cannot be written.
    """
    files = [f for path in paths for f in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    boards = [Listed(file.name, read(file)) for file in files]
    listing = index(boards)
    written: list[Path] = []
    for file, listed in zip(files, boards, strict=True):
        write(out / file.name, listed.board)
        written += [*write_page([file], out / f"{file.stem}.html"), out / file.name]
    write_atomically(out / SCHEMA_FILE, schema_text())
    write_atomically(out / "index.html", listing)
    return [out / "index.html", *written, out / SCHEMA_FILE]


def _shown(board: Board, folder: Path, texts: Texts) -> Shown:
    store = folder / STORE
    verdicts = Verdicts(store) if store.exists() else None
    known = {} if verdicts is None else _known(board, verdicts)
    if verdicts is not None:
        board = replace(board, entries=tuple(_named(e, known.get(_name(e)), verdicts) for e in board.entries))
    views = met(board.entries)
    strengths = {
        view_of(s.split, s.baseline, s.judge_identity): {name: asdict(value) for name, value in s.systems.items()}
        for s in board.strengths or with_strengths(board).strengths
    }
    ranks = {view_of(v.split, v.baseline, v.judge_identity): places(v.wins, v.baseline, v.clusters) for v in views}
    if verdicts is None:
        silent = f"There is no {STORE} beside the board, so its answers cannot be shown."
        return Shown(board, ranks, strengths, silent=silent)
    matches, silent = _matches(board, known, verdicts, folder, texts)
    if not known:
        silent = f"{store} holds no match of this board, so its answers cannot be shown."
    return Shown(board, ranks, strengths, matches, silent)


def _known(board: Board, verdicts: Verdicts) -> dict[tuple[str, System, System, str], Match]:
    """The store's matches that the board shows."""
    shown = {_name(entry) for entry in board.entries if entry.system != entry.baseline}
    return {_name(m): m for m in map(match_of, verdicts.matches()) if m.task == board.task and _name(m) in shown}


def _named(entry: Entry, match: Match | None, verdicts: Verdicts) -> Entry:
    """With the win of every prompt, which an entry of an older board or of very many prompts does not name."""
    if entry.items or match is None:
        return entry
    wins = raw_wins(match, verdicts.get(match.keys))
    return replace(entry, items=wins, resampled={item.sample: item.cluster for item in match.items})


def _matches(
    board: Board, known: Mapping[tuple[str, System, System, str], Match], verdicts: Verdicts, folder: Path, texts: Texts
) -> tuple[list[dict[str, Any]], str]:
    """The duels behind the board as the page reads them, and why some cannot be shown."""
    shown: list[dict[str, Any]] = []
    silent: dict[str, None] = {}
    for entry in board.entries:
        match = known.get(_name(entry))
        if match is None:
            continue
        name = view_of(entry.split, entry.baseline.name, entry.provenance.judge_identity)
        try:
            items = _items(match, verdicts.get(match.keys), place_of(folder, board.task, match.split), texts)
        except UserError as reason:
            silent[str(reason)] = None
        else:
            shown.append({"view": name, "system": entry.system.name, "items": items})
    return shown, " ".join(silent)


def _name(one: Match | Entry) -> tuple[str, System, System, str]:
    """Whose answers met whose, under which judge."""
    return one.split, one.system, one.baseline, one.provenance.judge_identity


def _items(match: Match, readings: Mapping[str, Any], folder: Path, texts: Texts) -> list[list[Any]]:
    """The duels of a match, each as the page's `samples.js` reads it."""
    samples = kept(folder)
    ours, theirs = (said_by(system, folder) for system in (match.system, match.baseline))
    if lacking := [i for i in match.items if not all(i.sample in known for known in (samples, ours, theirs))]:
        raise UserError(
            f"{folder} lacks {len(lacking)} of the {len(match.items)} samples that {match.system.name} was judged on; "
            "run `mmpu eval` again, nothing is paid for twice"
        )
    items: list[list[Any]] = []
    for item in match.items:
        both = [_said(*said[item.sample], texts) for said in (ours, theirs)]
        verdicts = [
            [v.order, v.win, v.soft, v.reason, dict(v.detail), texts.text(v.said) if v.said else None]
            for v in item.raw.verdicts(item.sample, readings)
        ]
        sample = texts.sample(samples[item.sample], str(folder))
        items.append([sample, both, list(item.grades), list(item.words), verdicts])
    return items


def _said(raw: str, reasoning: str, texts: Texts) -> list[int | None]:
    """The answer, and what was thought before it where there is any."""
    answer = answer_of(raw)
    thought = "\n\n".join(filter(None, (reasoning, raw if raw != answer else "")))
    return [texts.text(answer), texts.text(thought) if thought else None]
