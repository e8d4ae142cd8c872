"""``guerdon quickstart``: a short whole run on a built-in corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress


def quickstart(
    folder: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Tokenizer, fine-tuning, reward model, audit, reinforcement with controls, report: on a corpus written by a program.

    Example: guerdon quickstart --folder runs/first
    """
    from guerdon.pipeline.execute import execute
    from guerdon.quickstart.recipe import quickstart_recipe

    with progress(json_output) as shown:
        recipe = quickstart_recipe(folder, overrides or [])
        shown.say(recipe.data.note)
        result = execute(recipe, folder, shown)
    answer(result.summary(), json_output, result.lines())
