"""``guerdon report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, answer


def report(
    run: Annotated[Path, typer.Argument(help="The run folder; the run may still be going on.")],
    json_output: Json = False,
) -> None:
    """Writes report.html, one self-contained page, from what stands in a run folder.

    Example: guerdon report runs/e2e
    """
    from guerdon.evaluation.report import write_report

    page = write_report(run)
    answer({"report": str(page)}, json_output, [f"report: {page}"])
