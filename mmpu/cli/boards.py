"""`mmpu leaderboard` and `mmpu publish`: boards are checked, shown, merged and published."""

from __future__ import annotations

from pathlib import Path

import click

from mmpu.cli.show import JSON, quiet, say, show_board, show_json, show_page
from mmpu.core import UserError


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of the boards and the samples behind them.")
@click.option("--site", type=click.Path(path_type=Path), help="Write a folder for a static host: index, pages, schema.")
@click.option(
    "--merge", "into", type=click.Path(path_type=Path), help="Write boards of one task and judge as one file."
)
@click.option("--check", is_flag=True, help="Only validate; exit 2 at the first file that is no board.")
@JSON
def leaderboard(
    paths: tuple[Path, ...],
    markdown: bool,
    html: Path | None,
    site: Path | None,
    into: Path | None,
    check: bool,
    as_json: bool,
) -> None:
    """Validate and show board files, or the folders that hold them."""
    from mmpu import boards

    paths = tuple(f for path in paths for f in (_boards_in(path) if path.is_dir() else [path]))
    if site is not None:
        from mmpu.recipes.pages import write_site

        say(f"site: {write_site(paths, site)[0]}")
        return
    if into is not None:
        from mmpu.judging import with_strengths

        boards.write(into, with_strengths(boards.merged([boards.read(path) for path in paths])))
        say(f"written to {into}")
        return
    if check:
        entries = sum(len(boards.read(path).entries) for path in paths)
        say(f"{len(paths)} boards with {entries} entries are valid")
        return
    if html is not None:
        show_page(paths, html)
        return
    if as_json:
        show_json([boards.read(path) for path in paths])
        return
    for path in paths:
        board = boards.read(path)
        if markdown:
            say(boards.markdown(board))
        else:
            show_board(board)


def _boards_in(folder: Path) -> list[Path]:
    """Raises:
    UserError: there is none.
    """
    found = [path for path in sorted(folder.glob("*.json")) if not path.name.endswith(".lm_eval.json")]
    if not found:
        inside = sorted({str(path.parent) for path in folder.glob("*/*.*.json")})
        hint = f"; look into {', '.join(inside[:3])}" if inside else ", as `mmpu eval` writes one"
        raise UserError(f"the folder {folder} holds no board (NAME.JUDGE.json){hint}")
    return found


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="BOARD_OR_RUN")
@click.option("--to", required=True, metavar="hf://ORG/NAME|DIR", help="A repository of the hub, or a folder.")
@click.option("--board", "boards", multiple=True, type=click.Path(path_type=Path), help="For a run: shown on its card.")
@click.option("--dry-run", is_flag=True, help="Write the folder, say what would go where, and stop.")
def publish(target: Path, to: str, boards: tuple[Path, ...], dry_run: bool) -> None:
    """Publish a board (or a folder of them) as a static Space, or a run as a model with its card."""
    quiet()
    from mmpu.recipes import publishing

    repository = publishing.repository(to)
    place = Path("publish", repository.partition("/")[2]) if repository else Path(to)
    folder = publishing.prepared(target, place, boards)
    for name, size in folder.files:
        say(f"{size:>12,}  {name}")
    say(f"written to {folder.path}")
    if repository and dry_run:
        say(f"would go to the {folder.kind} {repository} of the hub")
    elif repository:
        say(publishing.upload(folder, repository))
