"""``guerdon audit``: what fools a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guerdon.cli.common import Json, Overrides, answer, progress, table


def audit(
    reward: Annotated[str, typer.Argument(help="A recipe (its section reward), or module:function.")],
    data: Annotated[Path, typer.Option(help="Records with source and references: JSONL, CSV, TSV or Parquet.")],
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="PROBE<=SHARE", help="What must hold, e.g. empty<=0.05; repeatable. Else the exit status is 1."),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Outputs of which people preferred one: source, chosen, rejected.")] = None,
    pairs_source: Annotated[str, typer.Option(help="The field of their source.")] = "source",
    slots: Annotated[Path | None, typer.Option(help="A file of slot patterns; by default the recipe's.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder: audit.html and audit.json.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read at most so many records.")] = None,
    source: Annotated[str | None, typer.Option(help="The field that holds the source.")] = None,
    references: Annotated[str | None, typer.Option(help="The field that holds the references.")] = None,
    language: Annotated[str, typer.Option(help="Of filler and negation: en, de, or none to leave these probes out.")] = "en",
    bootstrap: Annotated[int, typer.Option(help="Resamples of each interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 1,
    overrides: Overrides = None,
    json_output: Json = False,
) -> None:
    """Tests a reward on probes built from records, before anybody trains on it.

    Example: guerdon audit recipes/e2e.yaml --data dev.jsonl --limit 300 --require "empty<=0.05" --output audit
    """
    from guerdon.evaluation.audit import AuditOptions
    from guerdon.evaluation.audit_wording import facts, findings, probe_table, requirement_lines
    from guerdon.evaluation.requirements import Requirement
    from guerdon.pipeline.audit import AuditFiles, audit_file

    requirements = [Requirement.from_text(text) for text in require or []]
    options = AuditOptions(seed=seed, resamples=bootstrap, language=language)
    files = AuditFiles(data, limit, source, references, slots, pairs, pairs_source)
    with progress(json_output) as shown:
        found = audit_file(reward, files, requirements, options, overrides or [], output, shown)
    if json_output:
        answer(found.plain(), json_output)
    else:
        table(f"{found.reward}: how often it prefers a probe to the reference", *probe_table(found))
        lines = [finding.sentence for finding in findings(found)]
        lines += [f"{label}: {value}" for label, value in facts(found)] + list(requirement_lines(found))
        answer({}, json_output, [*lines, *([f"written to {output}"] if output else [])])
    if found.failed:
        raise typer.Exit(1)
