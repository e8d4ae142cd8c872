"""A small stage that a test may kill: ``python -m helpers.resumable STAGE FOLDER`` trains, resumes, and saves the model."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from guerdon.data.batches import BatchOptions
from guerdon.data.comparisons import Comparison
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.generator import Generator
from guerdon.models.reward_folder import save_scorers
from guerdon.models.reward_options import NgramOptions, RewardModelOptions
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.quickstart.corpus import build
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.rewards.overlap import SentenceChrf
from guerdon.stages.finetune import FinetuneConfig, finetune
from guerdon.stages.prefer import prefer
from guerdon.stages.pretrain import PretrainConfig, pretrain
from guerdon.stages.reinforce import reinforce
from guerdon.stages.reward_model import RewardModelConfig, train_reward_model
from guerdon.training.loop import Outcome
from guerdon.training.monitors import MonitorOptions
from guerdon.training.preferences import PreferConfig
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.trainee import LoopOptions

TRAINING, VALIDATION = ([*split][:size] for split, size in zip(build(1), (40, 6), strict=False))
LOOP = LoopOptions(validate_every=7, checkpoint_every=1, average_best=2)
RISING = LoopOptions(validate_every=5, checkpoint_every=1, average_best=2, criterion="reward", higher_is_better=True)
BATCH = BatchOptions(max_tokens=600)


def generator() -> Generator:
    """The same untrained policy in every process; its dropout is on, so that every draw of a step counts."""
    tokenizer = Tokenizer.train([text for e in TRAINING for text in (e.source, *e.references)], 400)
    torch.manual_seed(0)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 24, dropout=0.2, max_source=128, max_target=96)
    return Generator(Transformer(options).eval(), tokenizer)


def finetuned(made: Generator, folder: Path) -> Outcome:
    """Its batches go over several epochs, in micro-batches."""
    config = FinetuneConfig(steps=45, batch=BATCH, accumulation=2, loop=LOOP)
    return finetune(made, TRAINING, config, VALIDATION, folder=folder, seed=3)


def pretrained(made: Generator, folder: Path) -> Outcome:
    """Its corruptions are drawn anew in every epoch."""
    texts = [e.references[0] for e in TRAINING]
    config = PretrainConfig(steps=45, batch=BATCH, loop=LOOP, max_length=40)
    return pretrain(made, texts, config, [e.references[0] for e in VALIDATION], folder=folder, seed=3)


def reinforced(made: Generator, folder: Path) -> Outcome:
    """It keeps running moments and a running mean."""
    config = ReinforceConfig(
        steps=18,
        sources_per_step=6,
        samples_per_source=2,
        limit=LengthLimit(12),
        baseline="running_mean",
        normalisation=NormaliserOptions("running"),
        mle_weight=0.1,
        monitors=MonitorOptions(window=2, length_drift=0.01, entropy_collapse=0.99, clear=0.99),  # many alarms
        loop=RISING,
    )
    return reinforce(made, SentenceChrf(), TRAINING, config, VALIDATION, folder=folder, seed=3)


def preferred(made: Generator, folder: Path) -> Outcome:
    """Its anchor is the policy that the first process began with, which a checkpoint does not hold."""
    pairs = [
        Comparison.of_pair(e.source, e.references[0], other.references[0], weight=1 + i % 2)
        for i, (e, other) in enumerate(itertools.pairwise([*TRAINING, *VALIDATION]))
    ]
    loop = dataclasses.replace(RISING, criterion="margin")
    config = PreferConfig(steps=25, batch=BATCH, accumulation=2, loop=loop)
    return prefer(made, pairs[: len(TRAINING) - 1], config, pairs[len(TRAINING) :], folder=folder, seed=3)


def rewarded(made: Generator, folder: Path) -> Outcome:
    """Two members and two folds for the temperature, which begin with the policy; its dropouts are on."""
    pairs = [
        Comparison.of_pair(e.source, e.references[0], " ".join(sorted(e.references[0].split())), weight=1 + i % 2)
        for i, e in enumerate(TRAINING)
    ]
    loop = dataclasses.replace(RISING, criterion="accuracy")
    ngrams = NgramOptions(buckets=64, dropout=0.2)
    model = RewardModelOptions(max_source=128, max_output=96, pooling=("last", "max"), dropout=0.2, ngrams=ngrams)
    config = RewardModelConfig(steps=15, batch=BATCH, accumulation=2, loop=loop, model=model, held_out=0.2)
    config = dataclasses.replace(config, members=2, temperature_folds=2)
    trained = train_reward_model(pairs, config, start=made, folder=folder, seed=3)
    save_scorers(trained.scorers[1:], folder / "model")
    return trained.outcomes[1]


STAGES: dict[str, Callable[[Generator, Path], Outcome]] = {
    "finetune": finetuned,
    "prefer": preferred,
    "pretrain": pretrained,
    "reinforce": reinforced,
    "reward_model": rewarded,
}


if __name__ == "__main__":
    made = generator()
    STAGES[sys.argv[1]](made, Path(sys.argv[2]))
    if sys.argv[1] != "reward_model":  # which leaves the policy as it was, and saves its own
        made.save(Path(sys.argv[2]) / "model")
