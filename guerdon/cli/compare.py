"""``guerdon compare``: a grid of reinforcement runs from one policy, over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress


def compare(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=A,B,...", help="An option of reinforce and its values; repeatable: all combinations."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each cell, with the seeds 1, 2, ...; 3 where left out.")] = None,
    seed_list: Annotated[str | None, typer.Option(metavar="1,3,...", help="The seeds themselves.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="The folder of a fine-tuned policy to begin with; else the recipe trains it once.")
    ] = None,
    controls: Annotated[
        bool, typer.Option(help="Shuffled and constant rewards for each seed, and best-of-n at equal sampling cost.")
    ] = True,
    gradients: Annotated[int, typer.Option(help="Gradients that each estimator's variance is measured on; 0 for none.")] = 16,
    target: Annotated[float | None, typer.Option(help="The validation reward that steps and time are counted to.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The comparison's folder; by default runs/compare-<name of the recipe>.")
    ] = None,
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Runs every combination of options over several seeds, and writes one page. A comparison that was cut goes on.

    Example: guerdon compare recipes/e2e.yaml --vary reinforce.estimator=rloo,grpo,ppo --seeds 5
    """
    from guerdon.pipeline.compare import compare as run_comparison
    from guerdon.pipeline.grid import Plan, read_grid, read_seeds

    cells = read_grid(recipe, vary or [], overrides or [])
    plan = Plan(cells, read_seeds(seeds, seed_list), start, controls, gradients)
    with progress(json_output) as shown:
        result = run_comparison(plan, folder or Path("runs") / f"compare-{cells[0].recipe.name}", shown, target)
    answer(result.summary(), json_output, result.lines())
