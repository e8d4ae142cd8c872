"""``guerdon``: the command line. Each verb is a module of its own and holds no logic."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from guerdon import __version__
from guerdon.cli import audit, check, compare, evaluate, export, generate, overoptimise, quickstart, report, run, score
from guerdon.cli.common import run_command

app = typer.Typer(
    name="guerdon",
    help="Trains text generators against rewards, encoder–decoder models first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
VERBS = (
    quickstart.quickstart,
    run.run,
    check.check,
    generate.generate,
    score.score,
    audit.audit,
    evaluate.evaluate,
    overoptimise.overoptimise,
    compare.compare,
    report.report,
    export.export,
)
for verb in VERBS:
    app.command()(verb)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Trains text generators against rewards. ``--debug`` anywhere (or GUERDON_DEBUG=1) shows the traceback of an error."""
    if version:
        print(__version__)
        raise typer.Exit


def answer(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    plain = [argument for argument in arguments if argument != "--debug"]
    debug = len(plain) < len(arguments) or bool(os.environ.get("GUERDON_DEBUG"))

    def command() -> None:
        stopped = app(plain, standalone_mode=False)  # hands back the code of a typer.Exit
        if stopped:
            raise typer.Exit(stopped)

    return run_command(command, debug)


def main() -> None:
    """The entry point of the command ``guerdon``."""
    sys.exit(answer(sys.argv[1:]))
