"""The commands. Each imports what it needs when it runs, so that help and listings answer at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmpu import __version__, plugins
from mmpu.cli.boards import leaderboard, publish
from mmpu.cli.config import config, init
from mmpu.cli.judge import announce, answers_on_stderr, judge, judging_options, progress_on_stderr
from mmpu.cli.models import doctor, evaluator, export
from mmpu.cli.numbers import COUNT, PARALLEL, Number
from mmpu.cli.show import JSON, described, listed, quiet, say, show_board, show_json, show_page, table
from mmpu.cli.tasks import ALLOW_URLS, DATA, TRUST, tasks
from mmpu.core import UserError
from mmpu.knobs import DAY
from mmpu.shown import visible

if TYPE_CHECKING:
    from mmpu.boards import Board


NO_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""What is wrong where a path that was given cannot be one, or is of another kind."""
NO_ROOM = "make room, or look at who may write there"


class _Main(click.Group):
    """Turns a user's mistake into one message and exit code 2; `--debug` shows the traceback instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for each in args:
            try:
                each.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"the argument {visible(each)} is no UTF-8 text; write it in UTF-8") from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            say(f"mmpu: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt as error:
            say("mmpu: interrupted; the same command resumes", err=True)
            sys.exit(getattr(error, "status", 130))
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:  # a full disk, a folder that cannot be written
            if ctx.params.get("debug"):
                raise
            misnamed = error.errno in NO_NAME
            say(f"mmpu: {error}; {'correct the path' if misnamed else NO_ROOM}", err=True)
            sys.exit(2 if misnamed else 1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            said = " ".join(str(error).split())[:300]
            if (place := plugins.culprit(error)) is not None:
                say(f"mmpu: {place}: {type(error).__name__}: {said}; it is the plug-in's to mend", err=True)
                sys.exit(1)
            say(
                f"mmpu: this should not have happened ({type(error).__name__}: {said}). Please report it with what "
                "`mmpu --debug` and the same command print",
                err=True,
            )
            sys.exit(1)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="mmpu")
def main(debug: bool) -> None:
    """Align a small text or vision-language student with one teacher answer per prompt, and prove that it got
    better."""


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]…")
@click.option("--restart-from", metavar="STAGE", help="Set this stage and later ones aside, and train them anew.")
@click.option("--dry-run", is_flag=True, help="Check all, load no model; say steps, tokens, calls, cost, memory.")
@ALLOW_URLS
def train(config: str, overrides: tuple[str, ...], restart_from: str | None, dry_run: bool, allow_urls: bool) -> None:
    """Train the stages of CONFIG, a name or a YAML file. The same command resumes an interrupted run."""
    quiet()
    from mmpu.recipes import outlook, run_config

    run = run_config.load(config, (*overrides, "allow_urls=true") if allow_urls else overrides)
    first = os.environ.get("RANK", "0") == "0"
    for line in outlook.checked(run):
        if first:
            say(line, err=True)
    if dry_run:
        from mmpu.recipes import dry_run as dry

        for line in dry.lines(run):
            say(line)
        return
    from mmpu.recipes import training as recipe

    recipe.train_run(run, restart_from)
    if first:
        say(f"{run.folder}: done. Next: {outlook.afterwards(run)}")


@main.command("eval")
@click.argument("systems", nargs=-1, required=True, metavar="[LABEL=]SYSTEM…")
@click.option("--task", help="Task name or YAML file; default: the one that the runs were trained on.")
@click.option("--lm-eval", help="Tasks of lm-eval to run as well, or alone: gsm8k,ifeval,…")
@click.option("--judge", help="Judge name or YAML file: rule, qwen3, qwen3-vl, …; default: the task's.")
@click.option(
    "--baseline",
    help="A system's label, a run, a model, a .jsonl of answers, or `reference`, the data's own; default: the task's.",
)
@click.option("--engine", default="hf", show_default=True, help="Of runs and models: hf, vllm, or a YAML of its keys.")
@click.option("--split", help="Default: the one that the task is evaluated on, most often test.")
@click.option("--limit", type=COUNT, help="Use the split's first N prompts only.")
@click.option("--judge-url", envvar="MMPU_JUDGE_URL", help="OpenAI-compatible endpoint of the judge, up to /v1.")
@DATA
@TRUST
@click.option("--attempts", type=PARALLEL, help="Answers per prompt, for Avg@k; default: the task's.")
@click.option("--out", default="leaderboards", show_default=True, help="Where boards, answers and verdicts go.")
@click.option("--temperature", type=float, help="Sampling temperature; default: the task's.")
@click.option("--max-tokens", type=int, help="Longest answer; default: the task's.")
@click.option("--seed", type=int, default=0, show_default=True)
@ALLOW_URLS
@click.option(
    "--dry-run", is_flag=True, help="Say what answers and judging would cost at most, and stop; nobody answers."
)
@JSON
@judging_options
def evaluate(
    systems: tuple[str, ...],
    task: str | None,
    lm_eval: str | None,
    judge: str | None,
    baseline: str | None,
    engine: str,
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
    allow_urls: bool,
    dry_run: bool,
    as_json: bool,
    **judging: Any,
) -> None:
    """Let systems answer a task, judge them against the baseline, and publish the board.

    A SYSTEM is a run, a stage, a model, a .jsonl of answers, openai:MODEL@URL, vllm:PATH or an engine's YAML.
    """
    quiet()
    from mmpu.recipes import evaluation as assess

    harness = tuple(filter(None, (lm_eval or "").split(",")))
    if task is None and harness:
        for path in assess.lm_eval(systems, harness, limit, Path(out), data, trust):
            say(f"written to {path}")
        return
    if task is None and assess.trained_on(systems, baseline) is None:
        raise click.UsageError("Missing option '--task': no run is among the systems that would say on which.")
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = assess.EvalOptions(
        systems,
        task,
        judge,
        baseline,
        split,
        limit,
        judge_url,
        data,
        trust,
        allow_urls,
        out,
        {k: v for k, v in sampling.items() if v is not None},
        attempts,
        harness,
        engine,
        assess.JudgingOptions(**judging),
    )
    if dry_run:
        say("\n".join([*assess.answering(options), *assess.estimate(options).lines()]))
        say("nobody was asked: answers that are not on the disk are counted as long as they may be")
        return
    board = assess.evaluate(options, progress_on_stderr(), announce, answers_on_stderr())
    _published(board, Path(out), as_json)


def _published(board: Board, folder: Path, as_json: bool) -> None:
    """Shows a board that was written to a folder, and writes its page."""
    from mmpu.boards import board_name

    path = folder / board_name(board.task, board.judge)
    if as_json:
        show_json(board)
    else:
        show_board(board)
    say(f"written to {path}", err=as_json)
    show_page([path], path.with_suffix(".html"), err=as_json)


@main.command()
@click.argument("task")
@click.argument("settings", nargs=-1, metavar="[KEY.SUB=VALUE]…")
@click.option("--engine", required=True, help="Engine name (openai, hf, replay, …) or YAML file; its keys follow TASK.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSONL file that `replay` reads.")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", type=COUNT, help="Use the split's first N prompts only.")
@click.option("--n", type=PARALLEL, default=1, show_default=True, help="Answers per prompt.")
@click.option("--temperature", type=float, help="Sampling temperature; default: the task's, as for what follows.")
@click.option("--top-p", type=float)
@click.option("--max-tokens", type=int)
@click.option("--seed", type=int)
@click.option(
    "--store", type=click.Path(path_type=Path), help="Where answers are kept; default: store.sqlite by --out."
)
@DATA
@TRUST
@click.option("--dry-run", is_flag=True, help="Show calls, tokens and cost, and ask nothing.")
@ALLOW_URLS
def generate(**options: Any) -> None:
    """Collect an engine's answers to TASK: a teacher's anchors, or a baseline's outputs. The same command resumes."""
    quiet()
    from mmpu.recipes import collecting

    given = ("temperature", "top_p", "max_tokens", "seed")
    sampling = {name: value for name in given if (value := options.pop(name)) is not None}
    collection = collecting.collection(collecting.GenerateOptions(sampling=sampling, **options))
    if options["dry_run"]:
        say(collection.preview())
        return
    report = collecting.run(collection)
    say(report.text)
    if report.failed:
        sys.exit(1)


@main.command()
@click.argument("store", default="runs/store.sqlite", type=click.Path(path_type=Path))
@click.option("--model", help="Of this model only, named as in the table.")
@click.option("--older-than", metavar="AGE", help="Delete answers older than 12h, 30d, 8w.")
@click.option("--keep", metavar="SIZE", help="Delete the oldest answers beyond 500MB, 2GB.")
@click.option("--all", "everything", is_flag=True, help="Delete all answers.")
def cache(store: Path, model: str | None, older_than: str | None, keep: str | None, everything: bool) -> None:
    """Show what the answers in STORE take, and delete some."""
    from mmpu.store import prune as caches

    say(caches.prune_and_show(store, model, older_than, keep, everything))


@main.command()
@JSON
def judges(as_json: bool) -> None:
    """List the judges on the search path."""
    from mmpu import plugins

    listed(*described(plugins.data("judges")), as_json)


@main.group(invoke_without_command=True)
@JSON
@click.pass_context
def methods(context: click.Context, as_json: bool) -> None:
    """List the training systems of the literature that are ready to use."""
    if context.invoked_subcommand is None:
        from mmpu.recipes import presets

        found, broken = described(presets.names())
        listed(found | presets.of_your_own(), broken, as_json)


@methods.command("show")
@click.argument("name")
def show_method(name: str) -> None:
    """Print formula, needs, knobs and defaults of a system or a method."""
    quiet()
    from mmpu.recipes import presets

    say(presets.explain(name))


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]…")
@click.option("--methods", required=True, help="Presets or methods, separated by commas; see `mmpu methods`.")
@click.option("--seeds", default="0", show_default=True, help="Seeds, separated by commas.")
@click.option("--judge", default="rule", show_default=True, help="Compares each method with stage I.")
@click.option("--judge-url", help="OpenAI-compatible endpoint of the judge, up to /v1.")
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=COUNT, help="Use the split's first N prompts only.")
@click.option("--attempts", type=PARALLEL, help="Answers per prompt, for Avg@k; default: the task's.")
@JSON
def compare(config: str, overrides: tuple[str, ...], methods: str, seeds: str, as_json: bool, **options: Any) -> None:
    """Train several methods from one stage I of CONFIG and put them in one table. The same command resumes."""
    quiet()
    from mmpu.studies import compare as comparing
    from mmpu.studies import comparison

    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise UserError(f"--seeds takes whole numbers separated by commas, got {seeds!r}") from None
    asked = comparing.Options(config, tuple(methods.split(",")), numbers, overrides=overrides, **options)
    found = comparing.compare(asked, lambda text: say(text, err=True))
    if as_json:
        show_json(found)
        return
    table("Comparison", comparison.header(found), [comparison.cells(line, found) for line in found.lines])
    say(comparison.note(found))
    say(f"written to {found.folder / 'comparison.md'}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--every", type=Number(0.1, DAY), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Show the present state and end.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the run's page anew at every look.")
def watch(run: Path, every: float, once: bool, html: Path | None) -> None:
    """Show the metrics of RUN live."""
    from mmpu.studies import curves
    from mmpu.studies.run_page import write_run_page

    curves.watch(run, every, once, lambda: html and write_run_page([run], html))


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the files; default: report/ in the first run.")
@click.option("--figures", type=click.Choice(["png", "svg"]), help="Draw curves as files too; needs mmpu[report].")
def report(runs: tuple[Path, ...], out: Path | None, figures: str | None) -> None:
    """Write a page of RUNs: curves with seeds pooled, settings that differ, costs, and what the student said at every
    step."""
    from mmpu.studies import curves
    from mmpu.studies.run_page import write_run_page

    folder = out or runs[0] / "report"
    say(write_run_page(runs, folder / "report.html"))
    for path in curves.draw(runs, folder, figures) if figures else []:
        say(path)


for command in (tasks, judge, config, init, leaderboard, publish, doctor, evaluator, export):
    main.add_command(command)
