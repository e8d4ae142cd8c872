"""``guerdon evaluate``: metrics of a file of outputs, alone or against another's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, answer, table


def evaluate(
    outputs: Annotated[Path, typer.Argument(help="Records with source, output or outputs (the first counts), and references.")],
    against: Annotated[Path | None, typer.Option(help="Another file of outputs for the same sources, to compare with.")] = None,
    lowercase: Annotated[bool, typer.Option(help="BLEU, chrF and TER ignore case.")] = False,
    slots: Annotated[Path | None, typer.Option(help="A file of slot patterns: adds slot errors.")] = None,
    references: Annotated[str, typer.Option(help="The field that holds the references.")] = "references",
    bootstrap: Annotated[int, typer.Option(help="Resamples of each interval.")] = 1000,
    json_output: Json = False,
) -> None:
    """Prints BLEU, chrF, ROUGE-L, TER, lengths and diversity with 95% intervals, and paired differences to another system.

    Example: guerdon evaluate outputs.jsonl --against baseline.jsonl --lowercase
    """
    from guerdon.pipeline.files import evaluate_files

    found = evaluate_files(outputs, against, references, lowercase, slots, bootstrap)
    if json_output:
        answer(found.plain(), json_output)
        return
    table("95% bootstrap intervals", *found.systems_table())
    if against is not None:
        table(f"difference to {against}, paired bootstrap", *found.comparisons_table())
