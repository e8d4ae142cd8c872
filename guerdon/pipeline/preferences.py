"""The comparisons of a run's section ``prefer``: read from files and checked, or drawn once and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guerdon.data.batches import plan_batches
from guerdon.data.comparisons import Comparison
from guerdon.data.fields import Skipped
from guerdon.data.files import write_jsonl
from guerdon.data.judgements import read_comparisons
from guerdon.data.records import Example, Records
from guerdon.data.selection import split_by_source
from guerdon.errors import DataError
from guerdon.generator import Generator
from guerdon.pipeline.folder import RunFiles
from guerdon.pipeline.prepare import located, measured_split
from guerdon.pipeline.recipe import Recipe
from guerdon.pipeline.sections import PreferSection
from guerdon.rewards.base import Reward
from guerdon.training.drawn import comparisons_from_reward
from guerdon.training.preferences import encode_comparisons
from guerdon.training.progress import Progressing

DRAWN, TRAINING, VALIDATION = "comparisons", "comparisons.jsonl", "validation_comparisons.jsonl"


@dataclass(frozen=True)
class Preferences:
    """Comparisons to train on and to validate by, and the records of files that were left out, by file."""

    training: list[Comparison]
    validation: list[Comparison]
    skipped: Mapping[str, Sequence[Skipped]] = field(default_factory=dict)


def read_preferences(recipe: Recipe) -> Preferences | None:
    """The comparisons of the recipe's files; None where it has none, or draws them.

    Raises:
        DataError: for a bad record (unless bad ones are skipped), or a file that cannot be used.
    """
    section = recipe.prefer
    if section is None or section.comparisons is None:
        return None
    names = [name for name in (section.comparisons, section.validation_comparisons) if name is not None]
    read = [read_comparisons(recipe.data_file(name), section.fields, recipe.data.on_error) for name in names]
    skipped = {name: found.skipped for name, found in zip(names, read, strict=True) if found.skipped}
    if section.validation_share is None:
        return Preferences(read[0].comparisons, read[1].comparisons, skipped)
    try:
        split = split_by_source(read[0].comparisons, section.validation_share, recipe.seed)
    except DataError as error:
        raise DataError(error.what, where=str(recipe.data_file(names[0])), cure=error.cure) from error
    return Preferences(*split, skipped)


def check_preferences(
    recipe: Recipe, preferences: Preferences | None, records: Mapping[str, Records], generator: Generator, progress: Progressing
) -> dict[str, int]:
    """Refuses comparisons that the stage would stop at; returns what it works on, in numbers.

    Raises:
        DataError: it names the file and the text.
    """
    section = recipe.prefer
    if section is None or preferences is None:
        return {}
    path = recipe.data_file(section.comparisons or "")
    held = path if section.validation_comparisons is None else recipe.data_file(section.validation_comparisons)
    training = located(path, lambda given: encode_comparisons(generator, given, section.too_long), preferences.training)
    validation = located(held, lambda given: encode_comparisons(generator, given, section.too_long), preferences.validation)
    for pairs, file in ((training, path), (validation, held)):
        if not len(pairs):
            raise DataError(
                "no pair is left to work with",
                where=str(file),
                cure="give comparisons that prefer one of two different outputs",
            )
    located(
        path, lambda pairs: plan_batches(*pairs.lengths(), section.batch.max_tokens, 0, 0, section.batch.max_rows), training
    )
    steps = section.total_steps(training, recipe.seed)
    tested = {example.source for example in records[measured_split(recipe)].examples}
    shared = len({c.source for c in preferences.training} & tested)
    facts = {"preference pairs": len(training), "validation preference pairs": len(validation), "preference steps": steps}
    facts |= {f"comparisons dropped ({reason})": count for reason, count in training.dropped.items()}
    if shared:
        facts["compared sources that are tested on"] = shared
        progress.say(
            f"{shared} sources of {path.name} are sources that systems are measured on: that flatters the preferred one"
        )
    return facts


def drawn_preferences(
    recipe: Recipe, section: PreferSection, files: RunFiles, generator: Generator, reward: Reward,
    train: Sequence[Example], validation: Sequence[Example], progress: Progressing,
) -> Preferences:  # fmt: skip
    """Comparisons of the policy's own samples, drawn once: a run that goes on reads what it has drawn before.

    Raises:
        DataError: where no source gives a comparison.
        RewardError: when the reward fails.
    """
    options = section.from_reward
    assert options is not None, "called where the section draws"
    folder = files.folder / DRAWN
    if not files.finished(DRAWN):
        limit = recipe.decoding.limit
        drawn = [
            comparisons_from_reward(
                generator, reward, examples, options.samples, options.temperature, recipe.seed, limit, progress=progress
            )
            for examples in (train, validation)
        ]

        def save(partial: Path) -> None:
            for name, found in zip((TRAINING, VALIDATION), drawn, strict=True):
                write_jsonl(partial / name, [comparison.fields() for comparison in found.comparisons])

        for reason, count in drawn[0].dropped.items():
            progress.say(f"prefer: {count} of {len(train)} training sources gave no comparison: {reason}")
        files.store(DRAWN, save, {"comparisons": len(drawn[0].comparisons), "without comparison": dict(drawn[0].dropped)})
    read = [read_comparisons(folder / name, empty_outputs=True).comparisons for name in (TRAINING, VALIDATION)]
    return Preferences(read[0], read[1])
