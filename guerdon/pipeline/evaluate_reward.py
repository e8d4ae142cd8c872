"""What the verb evaluate does with a reward: comparisons and ratings from files, by split and aspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.judgements import ComparisonFields, RatingFields, read_comparisons, read_ratings
from guerdon.data.records import Example, FieldMap, read_examples
from guerdon.errors import ConfigurationError, DataError, nearest
from guerdon.evaluation.reward_evaluation import RewardEvaluationOptions, evaluate_reward
from guerdon.evaluation.reward_page import write_reward_evaluation
from guerdon.evaluation.reward_results import RewardEvaluation
from guerdon.pipeline.files import open_reward
from guerdon.pipeline.recipe import read_recipe
from guerdon.training.progress import Progressing

_Judged = TypeVar("_Judged", Comparison, Rating)
_VOTES = {"votes_for": "weight", "votes_against": "against"}


@dataclass(frozen=True)
class JudgementFields:
    """The names of the fields in the files of pairs and ratings, where they are not the usual ones.

    Attributes:
        given: the field of each of: source, chosen, rejected, outputs, ranks, votes_for, votes_against, annotator, aspect,
            references (pairs); source, output, score, annotator, aspect (ratings); split (both).
    """

    given: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.given:
            if name not in self.names():
                cure = nearest(name, self.names())
                raise ConfigurationError(f"there is no field {name!r}", where="--field", cure=cure)

    @classmethod
    def from_text(cls, texts: Sequence[str]) -> JudgementFields:
        """From "source=prompt" and the like.

        Raises:
            ConfigurationError: for a text of another form, or an unknown name.
        """
        for text in texts:
            if not all(text.partition("=")):
                raise ConfigurationError(f"{text!r} is not NAME=FIELD", where="--field", cure="write e.g. source=prompt")
        return cls(dict(text.split("=", 1) for text in texts))

    @staticmethod
    def names() -> list[str]:
        """Which there are."""
        own = {f.name for kind in (ComparisonFields, RatingFields) for f in fields(kind)} - set(_VOTES.values())
        return sorted({*own, *_VOTES, "split"})

    @property
    def split(self) -> str:
        """The field of the split."""
        return self.given.get("split", "split")

    def comparisons(self) -> ComparisonFields:
        """For pairs."""
        votes = {_VOTES[name]: self.given.get(name, name) for name in _VOTES}
        return replace(ComparisonFields(**votes), **self._of(ComparisonFields))

    def ratings(self) -> RatingFields:
        """For ratings."""
        return replace(RatingFields(), **self._of(RatingFields))

    def _of(self, kind: type[Any]) -> dict[str, str]:
        known = {f.name for f in fields(kind)}
        return {name: given for name, given in self.given.items() if name in known}


@dataclass(frozen=True)
class RewardFiles:
    """What the evaluation of a reward reads.

    Attributes:
        pairs: comparisons.
        ratings: of outputs.
        data: records of the same sources, for references and further fields.
        train: comparisons that the linear model is trained on.
        split: takes of pairs and ratings those whose field of the split says so.
        train_split: likewise of ``train``, or of ``pairs`` where there is no such file.
        aspect: takes those judgements whose aspect it is.
        fields: their names.

    Raises:
        ConfigurationError: training comparisons from the evaluated split of the same file.
    """

    pairs: Path
    ratings: Path | None = None
    data: Path | None = None
    train: Path | None = None
    split: str | None = None
    train_split: str | None = None
    aspect: str | None = None
    fields: JudgementFields = field(default_factory=JudgementFields)

    def __post_init__(self) -> None:
        if self.train is None and self.train_split is not None and self.split in (None, self.train_split):
            raise ConfigurationError(
                "the linear model would be trained on what it is measured on",
                where="--train-split",
                cure="name another split with --split",
            )


def evaluate_reward_file(
    reward: str,
    files: RewardFiles,
    options: RewardEvaluationOptions,
    overrides: Sequence[str],
    folder: Path | None,
    progress: Progressing,
) -> RewardEvaluation:
    """Evaluates the reward of this name (see `open_reward`); writes page and JSON into ``folder`` where one is given.

    Raises:
        DataError, ConfigurationError, RewardError, InputError: for files, options and rewards that cannot be used.
    """
    recipe = read_recipe(reward, overrides) if Path(reward).suffix in (".yaml", ".yml") else None
    judge = open_reward(reward, overrides)
    if recipe is not None and recipe.reinforce is not None:
        options = replace(options, normalisation=recipe.reinforce.normalisation)
    found = evaluate_reward(
        judge,
        _comparisons(files.pairs, files.split, files),
        _ratings(files),
        _training(files),
        _examples(files),
        options,
        data=f"{files.pairs.name}, split {files.split}" if files.split else files.pairs.name,
        progress=progress,
    )
    if folder is not None:
        write_reward_evaluation(found, folder)
    return found


def _comparisons(path: Path, split: str | None, files: RewardFiles) -> list[Comparison]:
    return _taken(read_comparisons(path, files.fields.comparisons(), empty_outputs=True).comparisons, path, split, files)


def _ratings(files: RewardFiles) -> list[Rating]:
    if files.ratings is None:
        return []
    found = read_ratings(files.ratings, files.fields.ratings(), empty_outputs=True).ratings
    return _taken(found, files.ratings, files.split, files)


def _training(files: RewardFiles) -> list[Comparison]:
    if files.train is None and files.train_split is None:
        return []
    return _comparisons(files.train or files.pairs, files.train_split, files)


def _examples(files: RewardFiles) -> list[Example]:
    return [] if files.data is None else read_examples(files.data, FieldMap()).examples


def _taken(judged: list[_Judged], path: Path, split: str | None, files: RewardFiles) -> list[_Judged]:
    """Those of the split and of the aspect."""
    name = files.fields.split
    found = [one for one in judged if split is None or one.meta.get(name) == split]
    if not found:
        splits = sorted({str(one.meta.get(name)) for one in judged})[:5]
        raise DataError(f"no record has {name!r} {split!r}", where=str(path), cure=f"choose one of {', '.join(splits)}")
    kept = [one for one in found if files.aspect is None or one.aspect == files.aspect]
    if not kept:
        aspects = sorted({str(one.aspect) for one in found})[:5]
        raise DataError(
            f"no record has the aspect {files.aspect!r}", where=str(path), cure=f"choose one of {', '.join(aspects)}"
        )
    return kept
