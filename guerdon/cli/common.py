"""What the verbs share: progress, messages, exit codes."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from guerdon.errors import GuerdonError
from guerdon.training.progress import Bars, Plain, Progressing, Silent

Returned = TypeVar("Returned")
_NO_MEMORY = "out of memory; use smaller batches"
_TORCH_NO_MEMORY = ("DefaultCPUAllocator", "out of memory")  # torch raises RuntimeError, of its own kind on an accelerator only
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines, and no progress.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.OPTION=VALUE", help="Override an option of the recipe; repeatable."),
]


@contextmanager
def progress(json_output: bool) -> Iterator[Progressing]:
    """Bars on a terminal, plain lines elsewhere, nothing where a machine reads."""
    if json_output:
        yield Silent()
    elif sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Plain()


def answer(values: Mapping[str, Any], json_output: bool, lines: Sequence[str] = ()) -> None:
    """Prints a result: as JSON, or as lines for a person."""
    if json_output:
        print(json.dumps(values, ensure_ascii=False))
    else:
        for line in lines or [f"{name}: {value}" for name, value in values.items()]:
            print(line)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column flush left, the others right."""
    drawn = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


def run_command(command: Callable[[], Returned], debug: bool = False) -> int:
    """Runs the command line and returns its exit code: 0 good, 1 failed work, 2 bad usage or input, 130 interrupted.

    An error is one line; ``debug`` adds the traceback.
    """
    try:
        command()
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:
        return _report(f"{error.format_message()}; --help lists what there is", 2, debug)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; a run goes on where it stopped when the command is given again", file=sys.stderr)
        return 130
    except GuerdonError as error:
        return _report(str(error), error.exit_code, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _report(_NO_MEMORY, 1, debug)
    except Exception as error:  # a fault of guerdon itself: still one line, with the way to the rest
        if isinstance(error, RuntimeError) and any(mark in str(error) for mark in _TORCH_NO_MEMORY):
            return _report(_NO_MEMORY, 1, debug)
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = (
            f"internal error: {type(error).__name__}: {error} ({where.name}, line {where.lineno}); --debug shows the traceback"
        )
        return _report(line, 1, debug)
    return 0


def _report(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print("error: " + " ".join(line.split()), file=sys.stderr)
    return code
