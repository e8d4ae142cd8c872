"""An audit of a recipe's reward: within a run, before a policy is trained on it, or of the verb audit, on records of a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from guerdon.data.records import Example, FieldMap, read_examples
from guerdon.errors import RewardError
from guerdon.evaluation.audit import AuditOptions, audit
from guerdon.evaluation.audit_page import AUDIT_PAGE, write_audit
from guerdon.evaluation.audit_results import Audit
from guerdon.evaluation.audit_wording import findings
from guerdon.evaluation.human_pairs import read_human_pairs
from guerdon.evaluation.requirements import Requirement
from guerdon.evaluation.wording import listed
from guerdon.metrics.slots import SlotPatterns
from guerdon.pipeline.files import open_reward
from guerdon.pipeline.folder import RunFiles
from guerdon.pipeline.prepare import normalisation, read_patterns, validation_data
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.pipeline.sections import AuditSection
from guerdon.rewards.base import Reward
from guerdon.training.progress import Progressing
from guerdon.training.runlog import RunLog


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
    if recipe is not None and recipe.audit is not None:
        requirements = requirements or recipe.audit.requirements
    pairs = read_human_pairs(files.pairs, files.pairs_source) if files.pairs else []
    found = audit(judge, examples, requirements, pairs, _patterns(files, recipe), options, str(files.data), progress)
    if folder is not None:
        write_audit(found, folder)
    return found


def audit_stage(
    recipe: Recipe,
    section: AuditSection,
    reward: Reward,
    examples: Sequence[Example],
    patterns: SlotPatterns | None,
    files: RunFiles,
    log: RunLog,
    progress: Progressing,
) -> None:
    """Audits a run's reward, says what it found, and leaves ``audit/audit.html``; does nothing where that stands already.

    Raises:
        RewardError: when a requirement is not met; the page is there then as well.
    """
    if not files.current("audit"):
        began = time.perf_counter()
        options = AuditOptions(recipe.seed, section.bootstrap, section.language, normalisation(recipe))
        found = audit(reward, examples, section.requirements, (), patterns, options, validation_data(recipe), progress)
        log.timing("audit", event="finished", seconds=time.perf_counter() - began)
        failed = [str(outcome.requirement) for outcome in found.failed]
        files.store("audit", partial(_write, found), {"failed": failed})
        for finding in findings(found):
            progress.say(f"audit of the reward: {finding.sentence}")
    if failed := files.facts("audit")["failed"]:
        raise RewardError(
            f"the reward does not meet {listed(failed)} of the recipe's audit",
            where=str(files.folder / "audit" / AUDIT_PAGE),
            cure="look at the page, then mend the reward or the requirement (audit.require)",
        )


def _write(found: Audit, folder: Path) -> None:
    write_audit(found, folder)


def _fields(files: AuditFiles, recipe: Recipe | None) -> FieldMap:
    known = FieldMap() if recipe is None else recipe.data.fields
    return replace(known, source=files.source or known.source, references=files.references or known.references)


def _patterns(files: AuditFiles, recipe: Recipe | None) -> SlotPatterns | None:
    if files.slots is not None:
        return SlotPatterns.from_file(files.slots)
    return None if recipe is None else read_patterns(recipe)
