"""``guerdon run``: all stages of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    folder: Annotated[Path | None, typer.Option(help="The run folder; by default runs/<name of the recipe>.")] = None,
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Runs all stages of a recipe. Each is skipped when it is finished, and resumed when it was cut.

    Example: guerdon run recipes/e2e.yaml --set reinforce.steps=100 --folder runs/try
    """
    from guerdon.pipeline.execute import execute
    from guerdon.pipeline.recipe import read_recipe

    read = read_recipe(recipe, overrides or [])
    where = folder or Path("runs") / read.name
    with progress(json_output) as shown:
        result = execute(read, where, shown)
    answer(result.summary(), json_output, result.lines())
