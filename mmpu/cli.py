"""The commands. Each imports what it needs when it runs, so that help and listings answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mmpu import __version__
from mmpu.cli_tasks import DATA, TRUST, tasks
from mmpu.core import UserError


class _Main(click.Group):
    """Turns a user's mistake into one message and exit code 2; `--debug` shows the traceback instead."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"mmpu: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("mmpu: interrupted; the same command resumes", err=True)
            sys.exit(130)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="mmpu")
def main(debug: bool) -> None:
    """Align a small text or vision-language student with one teacher answer per prompt, and prove that it got
    better."""


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]…")
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train the stages of CONFIG, a name or a YAML file. The same command resumes an interrupted run."""
    _quiet()
    from mmpu import recipe

    folder = recipe.train(config, overrides)
    click.echo(f"{folder}: done. Next: mmpu eval {folder} --task … --judge … --baseline {folder}/0-…")


@main.command("eval")
@click.argument("systems", nargs=-1, required=True, metavar="[LABEL=]RUN_OR_MODEL…")
@click.option("--task", help="Task name or YAML file.")
@click.option("--lm-eval", help="Tasks of lm-eval to run as well, or alone: gsm8k,ifeval,…")
@click.option("--judge", help="Judge name or YAML file: rule, qwen3, qwen3-vl, …; default: the task's.")
@click.option(
    "--baseline",
    help="A system's label, a run, a model, a .jsonl of answers, or `reference`, the data's own; default: the task's.",
)
@click.option("--split", help="Default: the one that the task is evaluated on, most often test.")
@click.option("--limit", type=click.IntRange(min=1), help="Use the split's first N prompts only.")
@click.option("--judge-url", help="OpenAI-compatible endpoint of the judge, up to /v1.")
@DATA
@TRUST
@click.option("--attempts", type=click.IntRange(min=1), help="Answers per prompt, for Avg@k; default: the task's.")
@click.option("--out", default="leaderboards", show_default=True, help="Where boards, answers and verdicts go.")
@click.option("--temperature", type=float, help="Sampling temperature; default: the task's.")
@click.option("--max-tokens", type=int, help="Longest answer; default: the task's.")
@click.option("--seed", type=int, default=0, show_default=True)
def evaluate(
    systems: tuple[str, ...],
    task: str | None,
    lm_eval: str | None,
    judge: str | None,
    baseline: str | None,
    split: str | None,
    limit: int | None,
    judge_url: str | None,
    data: tuple[str, ...],
    trust: bool,
    attempts: int | None,
    out: str,
    temperature: float | None,
    max_tokens: int | None,
    seed: int,
) -> None:
    """Let systems answer a task, judge them against the baseline, and publish the board."""
    _quiet()
    from mmpu import recipe

    harness = tuple(filter(None, (lm_eval or "").split(",")))
    if task is None:
        if not harness:
            raise click.UsageError("Missing option '--task', or '--lm-eval'.")
        for path in recipe.lm_eval(systems, harness, limit, Path(out)):
            click.echo(f"written to {path}")
        return
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    board = recipe.evaluate(
        recipe.EvalOptions(
            systems,
            task,
            judge,
            baseline,
            split,
            limit,
            judge_url,
            data,
            out,
            {k: v for k, v in sampling.items() if v is not None},
            attempts,
            trust,
            harness,
        )
    )
    _show(board)
    click.echo(f"written to {Path(out) / f'{board.task}.{board.judge}.json'}")


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def leaderboard(paths: tuple[Path, ...], markdown: bool) -> None:
    """Validate and show board files."""
    from mmpu import leaderboard as boards

    for path in paths:
        board = boards.read(path)
        if markdown:
            click.echo(boards.markdown(board))
        else:
            _show(board)


main.add_command(tasks)


@main.command()
def judges() -> None:
    """List the judges on the search path."""
    _list("judges")


@main.command()
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
def export(run: str, folder: Path) -> None:
    """Write the weights of RUN (or of one of its stages), adapters merged, as a folder that transformers and vLLM
    load."""
    _quiet()
    from mmpu import recipe

    if folder.exists():
        raise UserError(f"{folder} exists; choose another folder")
    recipe.export(run, folder)
    click.echo(f"written to {folder}")


def _list(kind: str) -> None:
    from mmpu import plugins
    from mmpu.config import load_yaml

    found = plugins.data(kind)
    width = max(map(len, found), default=0)
    for name in sorted(found):
        about = str(load_yaml(found[name]).get("about", ""))
        click.echo(f"{name:<{width}}  {about}")


def _show(board: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmpu.leaderboard import HEADER, cells

    table = Table(title=f"{board.task}, judge {board.judge}: {board.decided_by}", title_justify="left")
    for column in HEADER:
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for entry in sorted(board.entries, key=lambda e: e.win_rate.rate.value):
        table.add_row(*cells(entry))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _quiet() -> None:
    """Our errors say what they have to; libraries' chatter would bury them."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    main()
