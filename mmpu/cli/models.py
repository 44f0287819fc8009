"""`mmpu doctor`, `mmpu evaluator` and `mmpu export`: what concerns one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mmpu.cli.numbers import COUNT, COUNT_OR_ZERO, SHARE
from mmpu.cli.show import JSON, quiet, say, show_json, table
from mmpu.cli.tasks import ALLOW_URLS, DATA, TRUST
from mmpu.core import UserError
from mmpu.knobs import FEW, MANY


@click.command()
@click.argument("model", required=False)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--all", "everything", is_flag=True, help="Every architecture of transformers, in miniature.")
@JSON
def doctor(model: str | None, options: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Check with numbers that MODEL is computed right: template, images, padding, sampling, shared trunks, adapters.

    KEY=VALUE are those of `student:` in a config, such as dtype=bfloat16 or template=completion. With --all the
    architectures of the installed transformers are built tiny and compared with transformers itself, as a table.
    """
    quiet()
    if everything:
        from mmpu.recipes.survey import rows

        for line in rows(tuple(filter(None, (model, *options)))):
            click.echo(line)
        return
    if model is None:
        raise click.UsageError("name a MODEL, or give --all")
    from mmpu.recipes import doctor as checks
    from mmpu.recipes import runs

    failed = 0
    found: list[checks.Check] = []
    for check in checks.examine(runs.student_config(model, options)):
        found.append(check)
        failed += not check.passed
        if as_json:
            continue
        measured = "" if check.value is None else f"{check.value:.1e}"
        limit = "" if check.limit is None else f"≤ {check.limit:.0e}"
        verdict = " " if check.limit is None and check.value is None else "✓" if check.passed else "✗"
        say(f"{verdict} {check.name:<27} {measured:>8} {limit:<8} {check.note}")
    if as_json:
        show_json(found)
    if failed:
        say(f"{failed} checks failed: do not train {model} with these options", err=True)
        sys.exit(1)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--task", required=True, help="Task name or YAML file.")
@click.option("--anchors", help="A .jsonl of answers, or `reference`; default: what stands beside the task, or these.")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", type=click.IntRange(8, MANY), default=64, show_default=True, help="Prompts to try on.")
@click.option("--seconds", type=COUNT_OR_ZERO, default=16, show_default=True, help="Second answers to ask for.")
@click.option("--graded", type=COUNT_OR_ZERO, default=16, show_default=True, help="Prompts to sample for.")
@click.option("--k", type=click.IntRange(2, FEW), default=4, show_default=True, help="Candidates of each of these.")
@click.option("--max-tokens", type=int, help="Longest candidate; default: the task's.")
@click.option("--min-auc", type=SHARE, default=0.75, show_default=True, help="What is good enough.")
@click.option("--tokens", type=COUNT, default=50_000, show_default=True, help="To spend on a model.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON of all rows; models that it holds are done.")
@DATA
@TRUST
@ALLOW_URLS
@JSON
def evaluator(as_json: bool, **options: Any) -> None:
    """Find out whether MODEL can grade its own answers to TASK, and in which way. Exit code 1 if none can."""
    quiet()
    from mmpu.recipes import evaluator as recipe

    found = recipe.examine(recipe.EvaluatorOptions(**options), lambda text: say(text, err=True))
    if as_json:
        show_json(found)
    for outcome in () if as_json else found:
        header, rows = recipe.table(outcome)
        table(outcome.model, header, rows)
        say(f"{outcome.tokens:,} tokens through the model, {outcome.seconds:.0f} s with sampling")
        say(f"{outcome.model}: {outcome.verdict}")
    if not any(outcome.able for outcome in found):
        sys.exit(1)


@click.command()
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@TRUST
def export(run: str, folder: Path, trust: bool) -> None:
    """Write the weights of RUN (or of one of its stages), adapters merged, as a folder that transformers and vLLM
    load."""
    quiet()
    from mmpu.recipes import runs

    if folder.exists():
        raise UserError(f"{folder} exists; choose another folder")
    runs.export(run, folder, trust=trust)
    say(f"written to {folder}")
