"""What the verb audit does: a reward by name, records from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guerdon.data.records import FieldMap, read_examples
from guerdon.evaluation.audit import AuditOptions, audit
from guerdon.evaluation.audit_page import write_audit
from guerdon.evaluation.audit_results import Audit
from guerdon.evaluation.human_pairs import read_human_pairs
from guerdon.evaluation.requirements import Requirement
from guerdon.metrics.slots import SlotPatterns
from guerdon.pipeline.files import open_reward
from guerdon.pipeline.prepare import read_patterns
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.training.progress import Progressing


@dataclass(frozen=True)
class AuditFiles:
    """What an audit reads.

    Attributes:
        data: records with references.
        limit: records read at most; None for all.
        source: the name of the field; by default that of the recipe which holds the reward, or "source".
        references: likewise, or "references".
        slots: patterns of slot values; by default those of the recipe's evaluation, where there are any.
        pairs: outputs of which people preferred one.
        pairs_source: the field of their source.
    """

    data: Path
    limit: int | None = None
    source: str | None = None
    references: str | None = None
    slots: Path | None = None
    pairs: Path | None = None
    pairs_source: str = "source"


def audit_file(
    reward: str,
    files: AuditFiles,
    requirements: Sequence[Requirement],
    options: AuditOptions,
    overrides: Sequence[str],
    folder: Path | None,
    progress: Progressing,
) -> Audit:
    """Audits the reward that a recipe or ``module:function`` names; writes the page into ``folder`` where one is given.

    A recipe's normalisation, where it has the section reinforce, stands for that of the options.

    Raises:
        DataError, ConfigurationError, RewardError: for records, options and rewards that cannot be used.
    """
    recipe = read_recipe(reward, overrides) if Path(reward).suffix in (".yaml", ".yml") else None
    judge = open_reward(reward, overrides)
    if recipe is not None and recipe.reinforce is not None:
        options = replace(options, normalisation=recipe.reinforce.normalisation)
    examples = read_examples(files.data, _fields(files, recipe), needs_references=True, limit=files.limit).examples
    pairs = read_human_pairs(files.pairs, files.pairs_source) if files.pairs else []
    found = audit(judge, examples, requirements, pairs, _patterns(files, recipe), options, str(files.data), progress)
    if folder is not None:
        write_audit(found, folder)
    return found


def _fields(files: AuditFiles, recipe: Recipe | None) -> FieldMap:
    known = FieldMap() if recipe is None else recipe.data.fields
    return replace(known, source=files.source or known.source, references=files.references or known.references)


def _patterns(files: AuditFiles, recipe: Recipe | None) -> SlotPatterns | None:
    if files.slots is not None:
        return SlotPatterns.from_file(files.slots)
    return None if recipe is None else read_patterns(recipe)
