"""``guerdon generate``: outputs for a file of sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, answer, progress


def generate(
    model: Annotated[str, typer.Argument(help="A model's folder, or a run's (its last stage).")],
    input_file: Annotated[Path, typer.Option("--input", "-i", help="Records: JSONL, CSV, TSV or Parquet.")],
    output_file: Annotated[Path, typer.Option("--output", "-o", help="JSONL: the input's fields, outputs and log_probs.")],
    source: Annotated[str, typer.Option(help="The field that holds the source.")] = "source",
    prefix: Annotated[str | None, typer.Option(help="A field that holds the text which outputs must begin with.")] = None,
    method: Annotated[str | None, typer.Option(help="greedy, sample or beam; by default the model's own.")] = None,
    returned: Annotated[int | None, typer.Option(help="Outputs per source.")] = None,
    beam_size: Annotated[int | None, typer.Option(help="For beam.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="For beam: the power of the length that scores are divided by.")
    ] = None,
    patience: Annotated[float | None, typer.Option(help="For beam: stop at patience * beam_size finished outputs.")] = None,
    temperature: Annotated[float | None, typer.Option(help="For sample.")] = None,
    top_k: Annotated[int | None, typer.Option(help="For sample.")] = None,
    top_p: Annotated[float | None, typer.Option(help="For sample.")] = None,
    min_p: Annotated[float | None, typer.Option(help="For sample.")] = None,
    ngram_block: Annotated[int | None, typer.Option(help="No n-gram of this size twice in an output.")] = None,
    max_length: Annotated[int | None, typer.Option(help="The longest output in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the samples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sources decoded together: speed and memory only.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of products: float32; bfloat16, int8: faster, coarser.")] = None,
    json_output: Json = False,
) -> None:
    """Writes outputs for every record of a file.

    Example: guerdon generate runs/e2e -i sources.jsonl -o outputs.jsonl --method beam --beam-size 5 --returned 3
    """
    from guerdon.pipeline.files import generate_file

    changes = {
        "method": method, "returned": returned, "beam_size": beam_size, "length_penalty": length_penalty, "patience": patience,
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "ngram_block": ngram_block, "seed": seed,
        "batch_size": batch_size, "precision": precision,
    }  # fmt: skip
    given = {name: value for name, value in changes.items() if value is not None}
    with progress(json_output) as shown:
        count = generate_file(model, input_file, output_file, source, prefix, given, max_length, shown)
    answer({"records": count, "output": str(output_file)}, json_output, [f"{count} records written to {output_file}"])
