"""Fine-tuning: teacher forcing on pairs of source and reference (FORMULAS 3.5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from guerdon.data.batches import Batch
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.data.segmentation import Segmentations
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.training.around import surroundings
from guerdon.training.loop import Loop, Outcome
from guerdon.training.progress import Progressing, Silent
from guerdon.training.supervised import Corruption, Pairs, Supervised, SupervisedOptions, Validate


@dataclass(frozen=True)
class FinetuneConfig(SupervisedOptions):
    """Options of fine-tuning.

    Attributes:
        too_long: what to do with a pair that the policy cannot take: stop, or skip and count it.
        bpe_dropout: the probability that a merge of the tokenizer is passed over; words then come in other pieces in each
            epoch (`guerdon.data.segmentation`). 0.1 in the paper. Batches are cut by the usual pieces, so that a step has
            more positions than ``batch`` says: about 1.3 times as many at 0.1. Validation is not touched.
    """

    too_long: Literal["stop", "skip"] = "stop"
    bpe_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.bpe_dropout <= 1.0:
            raise ConfigurationError(
                f"{self.bpe_dropout} is no probability", where="finetune.bpe_dropout", cure="choose from 0 to 1"
            )
        if self.too_long not in ("stop", "skip"):
            raise ConfigurationError(f"there is no {self.too_long!r}", where="finetune.too_long", cure="choose stop or skip")


def finetune(
    generator: Generator,
    examples: Sequence[Example],
    config: FinetuneConfig,
    validation: Sequence[Example] = (),
    validate: Validate | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Trains the generator's policy on every (source, reference) pair of ``examples``.

    Args:
        generator: its policy is trained in place; it ends with the weights that validated best.
        examples: an example with several references gives several pairs.
        config: the options.
        validation: examples whose first reference measures the negative log-likelihood.
        validate: further validation figures, e.g. BLEU of greedy outputs.
        folder: the run folder, where the stage logs and resumes; None keeps nothing.
        seed: of the run.
        progress: is told how far it is.
        tensorboard: whether to write TensorBoard events.

    Raises:
        DataError: for a pair that is too long (with ``too_long="stop"``), or no pair at all.
        ConfigurationError: for a criterion that nothing measures, or ``bpe_dropout`` with another library's tokenizer.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    progress = progress or Silent()
    training = _pairs(generator, [(e.source, r) for e in examples for r in e.references], config.too_long, progress)
    if not len(training):
        raise DataError(
            "no pair of source and reference is left to train on", where="finetune", cure="give examples with references"
        )
    held = _pairs(generator, [(e.source, e.references[0]) for e in validation if e.references], config.too_long, progress)
    if validate is None and (config.loop.criterion != "nll" or not len(held)):
        raise ConfigurationError(
            f"nothing measures {config.loop.criterion!r}",
            where="finetune.loop.criterion",
            cure="give validation examples with references for nll, or a function that measures it",
        )
    corrupt = _resegmented(generator, training, config.bpe_dropout, seed) if config.bpe_dropout else None
    trainee = Supervised("finetune", generator, training, held, config, seed, corrupt, validate)
    with surroundings(folder, "finetune", seed, progress, tensorboard) as around:
        return Loop(trainee, config.total_steps(training, seed), config.loop, config.optimiser, around).run()


def can_drop_merges(generator: Generator) -> Tokenizer:
    """The generator's tokenizer; refuses, as a `ConfigurationError`, one that cannot do what ``bpe_dropout`` asks."""
    if not isinstance(generator.tokenizer, Tokenizer):
        raise ConfigurationError(
            "only a tokenizer of guerdon can pass over merges", where="finetune.bpe_dropout", cure="leave it out"
        )
    return generator.tokenizer


def _resegmented(generator: Generator, pairs: Pairs, dropout: float, seed: int) -> Corruption:
    """Batches of the same texts in other pieces; a text whose pieces would be too many for the policy keeps its own."""
    tokenizer, policy = can_drop_merges(generator), generator.policy
    sources, targets = (
        Segmentations(tokenizer, tokenizer.decode_batch(rows), dropout, seed, purpose)
        for rows, purpose in ((pairs.sources, "sources"), (pairs.targets, "targets"))
    )

    def rows_of(side: Segmentations, usual: Sequence[Sequence[int]], limit: int, epoch: int, numbers: Sequence[int]) -> Padded:
        cut = ((i, [*side.of(i, epoch), tokenizer.end_id]) for i in numbers)
        return Padded.from_lists([row if len(row) <= limit else usual[i] for i, row in cut], policy.pad_id)

    def corrupt(epoch: int, batch: Batch) -> Batch:
        numbers = batch.indices
        return Batch(
            numbers,
            rows_of(sources, pairs.sources, policy.max_source, epoch, numbers),
            rows_of(targets, pairs.targets, policy.max_target, epoch, numbers),
        )

    return corrupt


def _pairs(
    generator: Generator, pairs: Sequence[tuple[str, str]], too_long: Literal["stop", "skip"], progress: Progressing
) -> Pairs:
    kept = encode_pairs(generator, pairs, too_long)
    if len(kept) < len(pairs):
        progress.say(f"finetune: {len(pairs) - len(kept)} of {len(pairs)} pairs skipped, which are too long for the policy")
    return kept


def encode_pairs(generator: Generator, pairs: Sequence[tuple[str, str]], too_long: Literal["stop", "skip"]) -> Pairs:
    """The ids of (source, target) texts.

    Raises:
        DataError: for a text that is too long, with ``too_long="stop"``.
    """
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    if too_long == "stop":
        return Pairs(generator.encode_sources(sources), generator.encode_targets(targets))
    policy = generator.policy
    rows = zip(generator.tokenizer.encode_sources(sources), generator.tokenizer.encode_targets(targets), strict=True)
    kept = [(s, t) for s, t in rows if len(s) <= policy.max_source and len(t) <= policy.max_target]
    return Pairs([s for s, _ in kept], [t for _, t in kept])
