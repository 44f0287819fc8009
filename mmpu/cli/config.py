"""`mmpu config` and `mmpu init`: what may stand in a config, and one to begin with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from mmpu.cli.show import quiet, say
from mmpu.core import UserError


@click.command()
@click.argument("key", required=False)
@click.option("--format", "form", type=click.Choice(["text", "markdown", "schema"]), default="text", show_default=True)
def config(key: str | None, form: str) -> None:
    """Print every key of a training config with type, default, range and meaning; or those whose place holds KEY, such
    as `optim`, `lora` or `ldl_grpo`."""
    quiet()
    from mmpu.recipes import reference

    if form == "schema":
        from mmpu.recipes.schema import schema

        click.echo(json.dumps(schema(), indent=1, ensure_ascii=False))
        return
    found = [each for each in reference.sections() if key is None or key in each.key]
    if not found:
        from mmpu.plugins import suggest

        known = [each.key.removeprefix("stages[].").split(": ")[-1] for each in reference.sections()]
        raise UserError(f"no part of a config is called {key!r}; {suggest(str(key), known)}")
    click.echo(reference.text(found) if form == "text" else reference.markdown(found), nl=False)


@click.command()
@click.option("--student", prompt="Which model shall learn (a bundled one, a folder, a hub id)", default="tiny-text")
@click.option("--task", prompt="On which task (a name of `mmpu tasks`, a file of rows, a YAML)", default="market")
@click.option(
    "--teacher",
    prompt="Who answers each prompt once (reference, a .jsonl of answers, http://host:8000/v1=MODEL)",
    default="reference",
)
@click.option("--method", prompt="How (sft alone, or a method of `mmpu methods` after it)", default="ldl_grpo")
@click.option("--run", prompt="Into which folder", default="runs/first")
@click.option("--out", type=click.Path(path_type=Path), default="mmpu.yaml", show_default=True, help="The config.")
def init(student: str, task: str, teacher: str, method: str, run: str, out: Path) -> None:
    """Write a training config that runs, from five answers or as many flags."""
    quiet()
    from mmpu.recipes import starting

    written = starting.write(starting.Answers(student, task, teacher, method, run), out)
    say(f"written: {', '.join(map(str, written))}. Next: {shlex.join(['mmpu', 'train', str(out)])} --dry-run")
