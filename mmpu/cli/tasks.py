"""`mmpu tasks` and its commands: list, search, show, check and begin tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmpu import files
from mmpu.cli.numbers import PARALLEL
from mmpu.cli.show import JSON, listed, quiet, say, show_json
from mmpu.core import UserError

if TYPE_CHECKING:
    from mmpu.task import YamlTask

DATA = click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]PATH|@REVISION",
    help="Local files, or the hub's revision, of the task, or of the task or data set NAME.",
)
TRUST = click.option(
    "--trust", is_flag=True, help="Trust a task given by its path, and the Python of a run's model: they may run code."
)
ALLOW_URLS = click.option("--allow-urls", is_flag=True, help="Fetch images that the task names by URL.")


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def tasks(context: click.Context, as_json: bool) -> None:
    """List the tasks on the search path; or search, show, check and begin tasks."""
    if context.invoked_subcommand is None:
        _list((), as_json)


@tasks.command()
@click.argument("words", nargs=-1, required=True)
@JSON
def search(words: tuple[str, ...], as_json: bool) -> None:
    """List the tasks whose name, aliases or YAML mention all WORDS."""
    _list(words, as_json)


@tasks.command()
@click.argument("name")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--n", default=3, show_default=True, type=PARALLEL, help="Samples to show.")
@click.option("--split", help="Default: the split that the task is evaluated on.")
@click.option("--student", metavar="MODEL", help="Show tokens, ids and mask as this model, run or stage has them.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the YAML instead; of a file of rows, what it stands for.")
@DATA
@TRUST
def show(
    name: str,
    options: tuple[str, ...],
    n: int,
    split: str | None,
    student: str | None,
    as_yaml: bool,
    data: tuple[str, ...],
    trust: bool,
) -> None:
    """Show samples of the task NAME, or of a file of rows, as a model gets them.

    With --student, KEY=VALUE are those of `student:` in a config, such as template=completion.
    """
    from mmpu.task import load_local
    from mmpu.task import show as task_show

    if options and student is None:
        raise click.UsageError(f"{' '.join(options)}: options of a student; name it with --student")
    task = load_local(name, data, trust=trust)
    if as_yaml:
        click.echo(task.written, nl=False)
        return
    splits, evaluated = task.config.splits, task.config.evaluate
    whole = task.path.suffix == ".yaml" and evaluated in splits  # of a file of rows, most are to train on
    chosen = split or (evaluated if whole else next(iter(splits)))
    for line in task_show.show(task, chosen, n) if student is None else _rendered(task, chosen, n, student, options):
        click.echo(line)


def _rendered(task: YamlTask, split: str, n: int, student: str, options: tuple[str, ...]) -> Iterator[str]:
    quiet()
    from mmpu.recipes import rendering, runs

    return rendering.lines(task, split, n, runs.student_config(student, options))


@tasks.command()
@click.argument("name")
@click.option("--split", multiple=True, help="Look at this split only; may be repeated.")
@DATA
@TRUST
@JSON
def check(name: str, split: tuple[str, ...], data: tuple[str, ...], trust: bool, as_json: bool) -> None:
    """Check the task NAME, or a YAML file: fields, pictures, ids, grader, and that splits share nothing."""
    from mmpu.task import check as task_check
    from mmpu.task import load_local

    report = task_check.check(load_local(name, data, trust=trust), data, split)
    if as_json:
        show_json(report)
    else:
        for line in report.facts:
            say(f"ok    {line}")
        for line in report.notes:
            say(f"note  {line}")
    if report.problems:
        raise UserError(f"{len(report.problems)} problems in {name}:\n" + "\n".join(f"- {p}" for p in report.problems))


@tasks.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where to write; default: here.")
def new(name: str, folder: Path) -> None:
    """Write NAME.yaml, a commented task to start from, and NAME.jsonl with rows for it."""
    starters = Path(__file__).parent.parent / "starters"
    targets = {starters / f"task{suffix}": folder / f"{name}{suffix}" for suffix in (".yaml", ".jsonl")}
    for target in targets.values():
        if target.exists():
            raise UserError(f"{target} exists; choose another name, or remove it")
    for source, target in targets.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text(encoding="utf-8").replace("task.jsonl", f"{target.stem}.jsonl"))
        except OSError as error:
            raise UserError(f"cannot write {target}: {error}") from None
    say(f"written: {', '.join(map(str, targets.values()))}. Next: mmpu tasks check {folder / name}.yaml")


@tasks.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, required=True)
@click.option("--split", help="Default: the split that each task is evaluated on.")
@DATA
def export(folder: Path, names: tuple[str, ...], split: str | None, data: tuple[str, ...]) -> None:
    """Write the text tasks NAMES to FOLDER, for `lm_eval --include_path FOLDER --tasks mmpu_NAME`."""
    from mmpu.evaluation import lm_eval as harness

    harness.export(names, folder, split, data)
    say(f"written: {', '.join(f'mmpu_{name}' for name in names)} in {folder}")


def _list(words: tuple[str, ...], as_json: bool) -> None:
    from mmpu import plugins
    from mmpu.task import lookup

    found = plugins.data("tasks")
    if words:
        texts = {name: _mentions(name, path) for name, path in found.items()}
        found = {name: path for name, path in found.items() if all(w.casefold() in texts[name] for w in words)}
        if not found:
            raise UserError(f"no task mentions {' and '.join(map(repr, words))}; `mmpu tasks` lists all")
    read: dict[str, str] = {}
    broken: list[str] = []
    for name in sorted(found):
        try:
            aliases, values = lookup.described(found[name])
        except UserError as error:
            broken.append(str(error))
        else:
            read[name] = f"{values.get('about', '')}" + (f" [{', '.join(aliases)}]" if aliases else "")
    listed(read, broken, as_json)


def _mentions(name: str, path: Path) -> str:
    try:
        return f"{name} {files.text(path)}".casefold()
    except (OSError, ValueError):
        return name.casefold()
