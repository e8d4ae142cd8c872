"""``guerdon check``: whether a recipe can run, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer


def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Reads a recipe and its data, builds model and reward, and scores a few references; trains nothing and writes nothing.

    Example: guerdon check recipes/e2e.yaml
    """
    from guerdon.pipeline.check import check_recipe
    from guerdon.pipeline.recipe import read_recipe

    answer(check_recipe(read_recipe(recipe, overrides or [])), json_output)
