"""``guerdon export``: a policy for another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, answer


def export(
    model: Annotated[str, typer.Argument(help="A model's folder, or a run's (its last stage).")],
    to: Annotated[str, typer.Option("--to", help="huggingface or ctranslate2.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    quantisation: Annotated[
        str | None, typer.Option(help="Of the weights, for ctranslate2: int8, float16 or bfloat16; else float32.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Writes a policy and its tokenizer in another library's format, and checks that it is the same model.

    Example: guerdon export runs/e2e --to ctranslate2 -o exported
    """
    from guerdon.pipeline.export import export as run_export

    found = run_export(model, to, folder, quantisation)
    answer(found.plain(), json_output, found.lines())
