"""`mmpu judge …`, and the options by which `mmpu eval` judges and spends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmpu.cli.numbers import COST, COUNT, COUNT_OR_ZERO, PARALLEL, SHARE
from mmpu.cli.show import JSON, say, show_board, show_json
from mmpu.cli.tasks import DATA, TRUST
from mmpu.shown import one_line

if TYPE_CHECKING:
    from mmpu.boards import Audit
    from mmpu.judging import Estimate, Progress

F = TypeVar("F", bound=Callable[..., Any])
MUST_LOSE = 0.9
"""Share of readings that an answer which must lose has to lose for `mmpu judge audit` to be content."""
QUIET_SECONDS = 10.0
"""Between two lines of progress where nobody is looking."""

_OPTIONS = (
    click.option(
        "--equalise/--no-equalise", default=None, help="Judge length-equalised answers too; default: the task's."
    ),
    click.option("--calibration", type=click.Path(), help="JSON with items' difficulty, for lc_glm noreg and v1."),
    click.option("--probes", type=COUNT_OR_ZERO, default=5, show_default=True, help="Prompts to audit on."),
    click.option("--max-calls", type=COUNT_OR_ZERO, help="Stop after so many readings; resumes later."),
    click.option("--max-cost", type=COST, help="Stop before the estimate exceeds it."),
    click.option("--rejudge", is_flag=True, help="Ask anew for verdicts that are stored."),
    click.option("--concurrency", type=PARALLEL, help="Calls in flight; default: the judge's."),
    click.option("--max-unread", type=SHARE, help="Share of unread duels that is accepted; 0.02."),
    click.option("--max-missing", type=SHARE, help="Share of missing answers that is accepted; 0.02."),
)


def judging_options(command: F) -> F:
    """Adds to a command the options that `assess.JudgingOptions` holds."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def judge() -> None:
    """Verdicts: recompute, audit, import, export."""


@judge.command()
@click.argument("store", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--task", help="Only matches of this task.")
@click.option("--judge", "judge_name", help="Only matches of this judge.")
@click.option("--calibration", type=click.Path(path_type=Path), help="JSON for lc_glm noreg and v1.")
@click.option("--max-unread", type=SHARE, default=0.02, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the boards into this folder.")
@JSON
def metrics(
    store: Path,
    task: str | None,
    judge_name: str | None,
    calibration: Path | None,
    max_unread: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compute every metric again from a verdict STORE, without a judge, a task or the answers."""
    from mmpu import boards
    from mmpu.boards import tables
    from mmpu.judging import recompute

    found = recompute(store, task, judge_name, calibration, max_unread)
    if as_json:
        show_json([{"board": board, "strengths": rankings} for board, rankings in found])
    for board, rankings in found:
        if not as_json:
            show_board(board)
        for where, ranking in {} if as_json else rankings.items():
            say(f"Bradley–Terry, chance to beat the average system, % ({where}):")
            for name, strength in sorted(ranking.items(), key=lambda pair: -pair[1].value):
                say(f"  {name}  {tables.percent(strength)}")
        if out:
            path = out / boards.board_name(board.task, board.judge)
            boards.write(path, board)
            say(f"written to {path}", err=as_json)


@judge.command()
@click.option("--judge", "judge_name", required=True, help="Judge name or YAML file.")
@click.option("--task", required=True, help="Task whose prompts to use.")
@click.option("--baseline", help="A .jsonl of answers that traps must lose to; default: the task's references.")
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=COUNT, default=25, show_default=True, help="Prompts to use.")
@click.option("--judge-url", envvar="MMPU_JUDGE_URL", help="OpenAI-compatible endpoint of the judge, up to /v1.")
@DATA
@TRUST
@click.option("--out", default="leaderboards", show_default=True, help="Where the verdict store is.")
@JSON
def audit(
    judge_name: str,
    task: str,
    baseline: str | None,
    split: str,
    limit: int,
    judge_url: str | None,
    data: tuple[str, ...],
    trust: bool,
    out: str,
    as_json: bool,
) -> None:
    """Let a judge compare empty, constant, prompt-injecting and repeated answers with good ones. Exit code 1 if one of
    them does not lose."""
    from mmpu.recipes import evaluation as assess

    found = assess.audit_judge(
        judge_name, task, baseline, split, limit, judge_url, data, trust, Path(out), progress_on_stderr()
    )
    if as_json:
        show_json(found)
    else:
        show_audit(found)
    if not content(found):
        sys.exit(1)


@judge.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
def import_(file: Path, store: Path) -> None:
    """Add the verdicts of FILE to a STORE: AlpacaEval's annotations.json, or JSONL that `export` wrote."""
    from mmpu.judging import import_verdicts

    readings, matches, known = import_verdicts(file, store)
    say(f"{readings} readings and {matches} matches added to {store}; {known} readings were there already")


@judge.command("export")
@click.argument("store", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--alpaca-eval", "task", help="Write AlpacaEval's files of this task into the folder TARGET instead.")
@DATA
@TRUST
def export(store: Path, target: Path, task: str | None, data: tuple[str, ...], trust: bool) -> None:
    """Write all readings and matches of a STORE as JSONL to TARGET."""
    from mmpu.judging import export_verdicts
    from mmpu.recipes import evaluation as assess

    if task is None:
        readings, matches = export_verdicts(store, target)
        say(f"{readings} readings and {matches} matches written to {target}")
        return
    for folder, unread in assess.export_alpaca_eval(store, target, task, data, trust):
        say(f"written to {folder}" + (f"; {unread} preferences are null, their verdicts unread" if unread else ""))


def content(audit: Audit) -> bool:
    """Whether everything that must lose did."""
    return all(traps.lost >= MUST_LOSE * traps.n for traps in audit.adversarial.values())


def show_audit(audit: Audit) -> None:
    """Prints an audit."""
    rates = {
        "readings": str(audit.readings),
        "unread": _percent(audit.unread_rate),
        "another winner in the other order": _percent(audit.flip_rate),
        "first slot wins": _percent(audit.first_slot),
        "ties": _percent(audit.tie_rate),
        "correlation with length": "–" if audit.length_correlation is None else f"{audit.length_correlation:+.2f}",
    }
    for name, value in rates.items():
        say(f"{name:<34} {value}")
    for kind, traps in audit.adversarial.items():
        passed = traps.lost >= MUST_LOSE * traps.n
        say(
            f"{kind + ' answer':<34} {'ok' if passed else 'FAILED'}: lost {traps.lost}, tied {traps.tied}, "
            f"won {traps.won}, unread {traps.unread}, of {traps.n}"
        )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def announce(estimate: Estimate) -> None:
    """Says what is about to be asked, if anything is."""
    if estimate.calls:
        say("\n".join(estimate.lines()))


def answers_on_stderr() -> Callable[[str, int, int], None]:
    """How many prompts each system has answered; of one that takes no time, its end alone."""
    terminal, last = sys.stderr.isatty(), [time.monotonic()]

    def show(name: str, done: int, total: int) -> None:
        if done < total and time.monotonic() - last[0] < (QUIET_SECONDS if not terminal else 0.2):
            return
        last[0] = time.monotonic()
        line = f"{one_line(name)}: {done:,}/{total:,} prompts answered"
        click.echo(f"\r\x1b[K{line}" if terminal else line, err=True, nl=done == total or not terminal)

    return show


def progress_on_stderr() -> Callable[[Progress], None]:
    """A line that is rewritten on a terminal, and a new line now and then elsewhere."""
    terminal, last = sys.stderr.isatty(), [time.monotonic()]

    def show(progress: Progress) -> None:
        finished = progress.done == progress.total
        if not terminal and not finished and time.monotonic() - last[0] < QUIET_SECONDS:
            return
        last[0] = time.monotonic()
        eta = "" if progress.eta is None or finished else f", {progress.eta:.0f} s to go"
        cached = "" if progress.cached is None else f", {progress.cached:.0%} of prompt tokens from the server's cache"
        line = (
            f"{progress.done}/{progress.total} readings, {progress.rate:.1f}/s, {progress.unread} unread{cached}{eta}"
        )
        click.echo(f"\r\x1b[K{line}" if terminal else line, err=True, nl=finished or not terminal)

    return show
