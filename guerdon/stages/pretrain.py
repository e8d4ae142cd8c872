"""Denoising pre-training on raw text, as BART (Lewis et al. 2020): the policy writes a text again from a corrupted one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guerdon.data.batches import Batch
from guerdon.data.draws import generator as draw
from guerdon.data.noise import NoiseOptions, denoise, split_sentences
from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.training.around import surroundings
from guerdon.training.loop import Loop, Outcome
from guerdon.training.progress import Progressing
from guerdon.training.supervised import Pairs, Supervised, SupervisedOptions


@dataclass(frozen=True)
class PretrainConfig(SupervisedOptions):
    """Options of pre-training.

    Attributes:
        noise: how texts are corrupted.
        max_length: longest text in tokens; longer ones are cut between sentences, or inside one that is longer still.
    """

    noise: NoiseOptions = field(default_factory=NoiseOptions)
    max_length: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 2:
            raise ConfigurationError(
                f"{self.max_length} leaves no room for a text", where="pretrain.max_length", cure="give more"
            )
        if self.loop.criterion != "nll":
            raise ConfigurationError(
                f"nothing measures {self.loop.criterion!r}", where="pretrain.loop.criterion", cure="choose nll"
            )


def pretrain(
    generator: Generator,
    texts: Sequence[str],
    config: PretrainConfig,
    validation: Sequence[str] = (),
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Trains the generator's policy, in place, to restore ``texts`` that have been corrupted.

    The corruption of a text is another one in each epoch, and a function of (seed, epoch, number of the text).

    Args:
        generator: what is trained.
        texts: raw texts.
        config: the options.
        validation: raw texts that choose the checkpoint; their corruption is always the same.
        folder, seed, progress, tensorboard: as `guerdon.stages.finetune.finetune`.

    Raises:
        DataError: where there is no text.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    mask_id = getattr(generator.tokenizer, "mask_id", None)
    if mask_id is None:
        raise ConfigurationError("the tokenizer has no mask token, which corrupted texts need", where="pretrain")
    if min(generator.policy.max_source, generator.policy.max_target) < 2:
        raise ConfigurationError(
            "the policy takes no text but an empty one", where="pretrain", cure="raise max_source, max_target"
        )
    training, held = (list(_documents(generator, part, config.max_length)) for part in (texts, validation))
    if not training or not held:
        raise DataError(
            "there is no text to train or to validate on", where="pretrain", cure="give pretrain texts and validation texts"
        )

    def corrupted(document: Sequence[Sequence[int]], purpose: str, epoch: int, number: int) -> list[int]:
        noisy = denoise(document, mask_id, config.noise, draw(seed, purpose, epoch, number))
        return [*noisy[: generator.policy.max_source - 1], generator.policy.end_id]

    def corrupt(epoch: int, batch: Batch) -> Batch:
        rows = [corrupted(training[i], "noise", epoch, i) for i in batch.indices]
        return Batch(batch.indices, Padded.from_lists(rows, generator.policy.pad_id), batch.targets)

    whole = _whole(training, generator.policy.end_id)
    noisy = Pairs(
        [corrupted(d, "validation noise", 0, i) for i, d in enumerate(held)], _whole(held, generator.policy.end_id).targets
    )
    trainee = Supervised("pretrain", generator, whole, noisy, config, seed, corrupt=corrupt)
    with surroundings(folder, "pretrain", seed, progress, tensorboard) as around:
        return Loop(trainee, config.total_steps(whole, seed), config.loop, config.optimiser, around).run()


def _whole(documents: Sequence[Sequence[Sequence[int]]], end: int) -> Pairs:
    """Each document as its own source and target; a corrupted source is never longer, so that batches may be cut by these."""
    rows = [[*(token for sentence in document for token in sentence), end] for document in documents]
    return Pairs(rows, rows)


def _documents(generator: Generator, texts: Sequence[str], max_length: int) -> Iterator[list[list[int]]]:
    """The sentences of each text, as ids, in documents of at most ``max_length`` tokens, end token included."""
    room = min(max_length, generator.policy.max_target, generator.policy.max_source) - 1
    for text in texts:
        document: list[list[int]] = []
        held = 0
        for sentence in generator.tokenizer.encode_prefixes(split_sentences(text)):
            for first in range(0, len(sentence), room):
                piece = sentence[first : first + room]
                if held + len(piece) > room:
                    yield document
                    document, held = [], 0
                document.append(piece)
                held += len(piece)
        if document:
            yield document
