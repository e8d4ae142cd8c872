"""The judgements that a run trains its reward models on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.judgements import read_comparisons, read_ratings
from guerdon.errors import DataError
from guerdon.pipeline.recipe import Recipe, Scorer
from guerdon.pipeline.sections import RewardModelSection

Records = list[Comparison | Rating]


def judgement_files(recipe: Recipe, name: Scorer) -> list[Path]:
    """The files of the section; none without it."""
    section: RewardModelSection | None = getattr(recipe, name)
    if section is None:
        return []
    return [recipe.data_file(file) for file in dict.fromkeys([*section.judgements, *section.validation_judgements])]


def read_judgements(recipe: Recipe) -> dict[Scorer, tuple[Records, Records]]:
    """For each section of a reward model, the judgements that it trains on, and those that it validates with.

    There are none of the latter where a share of the sources is to be held out.

    Raises:
        DataError: for a bad record (unless bad ones are skipped), a file that cannot be used, or a choice that leaves none.
    """
    sections: dict[Scorer, RewardModelSection | None] = {"reward_model": recipe.reward_model, "judge": recipe.judge}
    return {name: _both(recipe, name, section) for name, section in sections.items() if section is not None}


def judgement_counts(judgements: Mapping[Scorer, tuple[Records, Records]]) -> dict[str, int]:
    """How many there are, in words."""
    return {
        f"{kind} judgements" + (" of the judge" if name == "judge" else ""): len(given)
        for name, pair in judgements.items()
        for kind, given in zip(("training", "validation"), pair, strict=True)
        if given
    }


def _both(recipe: Recipe, name: Scorer, section: RewardModelSection) -> tuple[Records, Records]:
    training = _read(recipe, section, section.judgements, section.where, f"{name}.where")
    if not section.validation_judgements and not section.validation_where:
        return training, []
    files = section.validation_judgements or section.judgements
    return training, _read(recipe, section, files, section.validation_where, f"{name}.validation_where")


def _read(recipe: Recipe, section: RewardModelSection, files: Sequence[str], where: Mapping[str, str], option: str) -> Records:
    found: Records
    paths = [recipe.data_file(file) for file in files]
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
            where=f"{', '.join(map(str, paths))}, {option}",
            cure="correct the choice",
        )
    return found


def _fits(record: Comparison | Rating, where: Mapping[str, str]) -> bool:
    return all(str(record.meta.get(name)) == value for name, value in where.items())
