"""The judgements that a run trains its reward model on, and whether a recipe's reward waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.judgements import read_comparisons, read_ratings
from guerdon.errors import DataError
from guerdon.pipeline.recipe import Recipe
from guerdon.pipeline.sections import RewardModelSection

Records = list[Comparison | Rating]


def judgement_files(recipe: Recipe) -> list[Path]:
    """The files of the section ``reward_model``; none without it."""
    section = recipe.reward_model
    if section is None:
        return []
    return [recipe.data_file(name) for name in dict.fromkeys([*section.judgements, *section.validation_judgements])]


def read_judgements(recipe: Recipe, section: RewardModelSection) -> tuple[Records, Records]:
    """The judgements to train on, and those to validate with (none, where a share of the sources is to be held out).

    Raises:
        DataError: for a bad record (unless bad ones are skipped), a file that cannot be used, or a choice that leaves none.
    """
    training = _read(recipe, section, section.judgements, section.where, "where")
    if not section.validation_judgements and not section.validation_where:
        return training, []
    files = section.validation_judgements or section.judgements
    return training, _read(recipe, section, files, section.validation_where, "validation_where")


def _read(recipe: Recipe, section: RewardModelSection, names: Sequence[str], where: Mapping[str, str], option: str) -> Records:
    found: Records
    paths = [recipe.data_file(name) for name in names]
    if section.rated:
        fields = section.rating_fields
        found = [
            r for p in paths for r in read_ratings(p, fields, section.on_error, empty_outputs=True).ratings if _fits(r, where)
        ]
    else:
        given = (read_comparisons(p, section.fields, section.on_error, empty_outputs=True) for p in paths)
        found = [c for read in given for c in read.comparisons if _fits(c, where)]
    if not found:
        raise DataError(
            f"no judgement has {dict(where)}" if where else "there are no judgements",
            where=f"{', '.join(map(str, paths))}, reward_model.{option}",
            cure="correct the choice",
        )
    return found


def _fits(record: Comparison | Rating, where: Mapping[str, str]) -> bool:
    return all(str(record.meta.get(name)) == value for name, value in where.items())
