"""``guerdon score``: a reward over a file of outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress


def score(
    reward: Annotated[str, typer.Argument(help="A recipe (its section reward), a reward model's folder, or module:function.")],
    input_file: Annotated[Path, typer.Option("--input", "-i", help="Records with source, output or outputs, and references.")],
    output_file: Annotated[Path, typer.Option("--output", "-o", help="JSONL: the input's fields, scores and parts.")],
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Scores every output of a file with a reward.

    Example: guerdon score recipes/e2e.yaml -i outputs.jsonl -o scores.jsonl
    """
    from guerdon.pipeline.files import score_file

    with progress(json_output) as shown:
        means = score_file(reward, input_file, output_file, overrides or [], shown)
    lines = [f"{name}: {value:.6g}" for name, value in means.items()]
    answer({"means": means, "output": str(output_file)}, json_output, [*lines, f"written to {output_file}"])
