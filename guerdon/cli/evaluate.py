"""``guerdon evaluate``: metrics of a file of outputs, alone or against another's; or a reward against people's judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from guerdon.cli.common import Json, Overrides, answer, progress, table

OF_OUTPUTS, OF_REWARDS = "Of a file of outputs", "Of a reward"


def of_outputs(text: str) -> Any:
    """An option that is about a file of outputs."""
    return typer.Option(help=text, rich_help_panel=OF_OUTPUTS)


def of_rewards(text: str, *names: str, metavar: str | None = None) -> Any:
    """An option that is about a reward."""
    return typer.Option(*names, help=text, rich_help_panel=OF_REWARDS, metavar=metavar)


Fields = Annotated[list[str] | None, of_rewards("A field's name, e.g. source=prompt; repeatable.", metavar="NAME=FIELD")]


def evaluate(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="OUTPUTS|REWARD", help="A file of outputs with references; or, with --pairs, a reward.")
    ],
    against: Annotated[Path | None, of_outputs("Another file of outputs for the same sources.")] = None,
    lowercase: Annotated[bool, of_outputs("BLEU, chrF and TER ignore case.")] = False,
    slots: Annotated[Path | None, of_outputs("A file of slot patterns: adds slot errors.")] = None,
    references: Annotated[str, of_outputs("The field that holds the references.")] = "references",
    pairs: Annotated[Path | None, of_rewards("Comparisons by people: evaluates a reward.")] = None,
    ratings: Annotated[Path | None, of_rewards("Ratings by people.")] = None,
    data: Annotated[Path | None, of_rewards("Records of the same sources, for references.")] = None,
    split: Annotated[str | None, of_rewards("Takes the judgements of this split.")] = None,
    train: Annotated[Path | None, of_rewards("Comparisons that the linear model is trained on.")] = None,
    train_split: Annotated[str | None, of_rewards("Of --train, or of --pairs: trains on this split.")] = None,
    aspect: Annotated[str | None, of_rewards("Takes what was judged for this.")] = None,
    field: Fields = None,
    output: Annotated[Path | None, of_rewards("A folder for page and JSON.", "--output", "-o")] = None,
    seed: Annotated[int, of_rewards("Of folds and draws.")] = 1,
    overrides: Overrides = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of each interval.")] = 1000,
    json_output: Json = False,
) -> None:
    """Prints BLEU, chrF, ROUGE-L, TER, lengths and diversity with 95% intervals, and paired differences to another system.

    With --pairs, how often a reward agrees with people, beside a linear model, length, frequency and overlap alone; and its
    calibration, its correlation with ratings and with length.

    Example: guerdon evaluate outputs.jsonl --against baseline.jsonl --lowercase

    Example: guerdon evaluate recipes/e2e.yaml --pairs pairs.jsonl --split valid --train-split train -o judged
    """
    _refuse_mixed(context, pairs is not None)
    if pairs is None:
        _outputs(Path(what), against, references, lowercase, slots, bootstrap, json_output)
        return
    from guerdon.evaluation.reward_evaluation import RewardEvaluationOptions
    from guerdon.evaluation.reward_tables import accuracy_table, facts, sentences
    from guerdon.pipeline.evaluate_reward import JudgementFields, RewardFiles, evaluate_reward_file

    files = RewardFiles(pairs, ratings, data, train, split, train_split, aspect, JudgementFields.from_text(field or []))
    options = RewardEvaluationOptions(seed=seed, resamples=bootstrap)
    with progress(json_output) as shown:
        found = evaluate_reward_file(what, files, options, overrides or [], output, shown)
    if json_output:
        answer(found.plain(), json_output)
        return
    table(f"{found.reward}: how often it prefers what people prefer", *accuracy_table(found))
    lines = [*sentences(found), *(f"{label}: {value}" for label, value in facts(found))]
    answer({}, json_output, [*lines, *([f"written to {output}"] if output else [])])


def _outputs(
    outputs: Path, against: Path | None, references: str, lowercase: bool, slots: Path | None, bootstrap: int, json_output: bool
) -> None:
    from guerdon.pipeline.files import evaluate_files

    found = evaluate_files(outputs, against, references, lowercase, slots, bootstrap)
    if json_output:
        answer(found.plain(), json_output)
        return
    table("95% bootstrap intervals", *found.systems_table())
    if against is not None:
        table(f"difference to {against}, paired bootstrap", *found.comparisons_table())


def _refuse_mixed(context: typer.Context, of_reward: bool) -> None:
    """An option that does nothing is refused."""
    panel = OF_OUTPUTS if of_reward else OF_REWARDS
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name))
        other = getattr(parameter, "rich_help_panel", None) == panel or (parameter.name == "overrides" and not of_reward)
        if other and given is not None and given.name == "COMMANDLINE":
            need = "is about a file of outputs, and --pairs is given" if of_reward else "is about a reward, and needs --pairs"
            raise typer.BadParameter(f"--{parameter.name} {need}")
