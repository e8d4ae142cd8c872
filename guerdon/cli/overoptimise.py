"""``guerdon overoptimise``: how far a reward can be optimised before judges that are not optimised stop following."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress, table


def overoptimise(
    reward: Annotated[str, typer.Argument(help="What is optimised: a recipe (its section reward), or module:function.")],
    samples: Annotated[Path, typer.Option(help="Records with source and many outputs, drawn from the policy, each.")],
    judge: Annotated[list[str], typer.Option(metavar="NAME=REWARD", help="A reward that is not optimised; repeatable.")],
    run: Annotated[Path | None, typer.Option(help="The folder of a reinforcement run: adds its validations.")] = None,
    most: Annotated[int, typer.Option(help="The largest n of best-of-n.")] = 256,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for page and JSON.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of each interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 1,
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Optimises a reward by best-of-n, n = 1, 2, 4, ..., and reports where each judge is best, along the KL that is paid.

    The samples come from guerdon generate MODEL --method sample --returned 256.

    Example: guerdon overoptimise recipes/e2e.yaml --samples samples.jsonl --judge "bleu={type: bleu}" -o judged
    """
    from guerdon.evaluation.overoptimisation import OveroptimisationOptions
    from guerdon.evaluation.overoptimisation_page import points_table, sentences
    from guerdon.pipeline.overoptimise import named_judges, overoptimise_file

    options = OveroptimisationOptions(most=most, resamples=bootstrap, seed=seed)
    with progress(json_output) as shown:
        found = overoptimise_file(reward, samples, named_judges(judge), run, options, overrides or [], output, shown)
    if json_output:
        answer(found.plain(), json_output)
        return
    for course in found.courses:
        table(f"{course.name}: {found.proxy} and its judges, 95% intervals", *points_table(course))
    lines = [sentence for course in found.courses for sentence in sentences(course)]
    answer({}, json_output, [*lines, *([f"written to {output}"] if output else [])])
