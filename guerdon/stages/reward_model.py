"""Reward models from human judgement: comparisons, rankings or ratings (FORMULAS 3.4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.selection import split_by_source
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models.reward_folder import RewardScorer
from guerdon.models.reward_text import delexicalise
from guerdon.training.judging import fit_temperature
from guerdon.training.loop import Outcome
from guerdon.training.progress import Progressing, Silent
from guerdon.training.reward_making import Records, RewardMaker, check_start
from guerdon.training.reward_training import RewardModelConfig

__all__ = ["RewardModelConfig", "TrainedRewardModel", "train_reward_model"]


@dataclass(frozen=True)
class TrainedRewardModel:
    """What training leaves.

    Attributes:
        scorers: the reward models, one for each member.
        outcomes: how each member's training ended.
        dropped: training records that were left out, by reason.
        reliability: of each annotator, by the first member, where it was estimated.
    """

    scorers: Sequence[RewardScorer]
    outcomes: Sequence[Outcome]
    dropped: Mapping[str, int]
    reliability: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """What a finished stage notes, as JSON values: how the first member's training ended, and the others'."""
        first = self.outcomes[0]
        found = {"steps": first.steps, "reason": first.reason, "skipped_steps": first.skipped, **first.validation}
        others = {"members": [dict(outcome.validation) for outcome in self.outcomes]} if len(self.outcomes) > 1 else {}
        trusted = {"reliability": dict(self.reliability)} if self.reliability else {}
        return {**found, "dropped": dict(self.dropped), **others, **trusted}


def train_reward_model(
    judgements: Records,
    config: RewardModelConfig,
    validation: Records = (),
    start: Generator | None = None,
    likelihood: Generator | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
    name: str = "reward_model",
) -> TrainedRewardModel:
    """Trains one reward model, or an ensemble, on judgements of outputs.

    Args:
        judgements: `Comparison` records, or for the losses of ratings `Rating` records.
        config: the options.
        validation: of other sources; without them ``config.held_out`` of the sources is held out.
        start: a policy, pre-trained or fine-tuned, that the backbone begins with; it is not changed. None trains a backbone
            from random weights.
        likelihood: the frozen policy, where ``config.model.surprisal`` is set.
        folder, seed, progress, tensorboard: as `guerdon.stages.finetune.finetune`.
        name: of the stage in logs and checkpoints, for a folder in which several are trained.

    Raises:
        DataError: where nothing is left to train on or to validate with, a text is too long (with ``too_long="stop"``), or a
            validation source is trained on.
        ConfigurationError: for options that contradict what is given.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    check_start(config.model, start, likelihood)
    progress = progress or Silent()
    around = {"folder": folder, "seed": seed, "progress": progress, "tensorboard": tensorboard}
    training, held = _split(judgements, validation, config, seed)
    maker = RewardMaker(training, config, start, likelihood, seed)
    temperatures = _cross_fitted(maker, training, name, around) if config.temperature_folds else {}
    members = []
    for number in range(1, config.members + 1):
        own = name if number == 1 else f"{name}-{number}"
        members.append(maker.train(own, number, training, held, around))
    first = members[0]
    for reason, count in first.dropped.items():
        progress.say(f"{name}: {count} of {len(training)} records or pairs dropped: {reason}")
    scorers = [maker.scorer(member, temperatures) for member in members]
    return TrainedRewardModel(scorers, [member.outcome for member in members], first.dropped, maker.reliability(first))


def _cross_fitted(maker: RewardMaker, training: Records, name: str, around: Mapping[str, Any]) -> dict[int, float]:
    """The temperature of each head, fitted to training comparisons by models that were trained without their sources."""
    config, seed = maker.config, maker.seed
    left: Records = training
    folds: list[Records] = []
    for number in range(config.temperature_folds - 1):
        left, fold = split_by_source(left, 1 / (config.temperature_folds - number), seed + number, _source_key(config))
        folds.append(fold)
    folds.append(left)
    found: list[tuple[int, float, float]] = []
    for number, kept in enumerate(folds, 1):
        others = [record for other in folds if other is not kept for record in other]
        inner, held = split_by_source(others, config.held_out, seed, _source_key(config))
        member = maker.train(f"{name}-fold-{number}", number, inner, held, around)
        found += maker.differences(member, kept)
    temperatures = {}
    for head in sorted({head for head, _, _ in found}):
        own = [(difference, weight) for of, difference, weight in found if of == head]
        temperatures[head] = fit_temperature(torch.tensor([d for d, _ in own]), torch.tensor([w for _, w in own]))
    return temperatures


def _split(judgements: Records, validation: Records, config: RewardModelConfig, seed: int) -> tuple[Records, Records]:
    expected = Rating if config.rated else Comparison
    for record in [*judgements, *validation]:
        if not isinstance(record, expected):
            wanted, given = expected.__name__.lower(), type(record).__name__.lower()
            raise ConfigurationError(
                f"the loss {config.loss} learns from {wanted}s, and a {given} is given",
                where="reward_model.loss",
                cure="choose another loss, or give the other records",
            )
    source = _source_key(config)
    if not validation:
        return split_by_source(judgements, config.held_out, seed, source)
    shared = {source(record) for record in judgements} & {source(record) for record in validation}
    if shared:
        raise DataError(
            f"{len(shared)} validation sources are trained on, such as {min(shared)[:60]!r}",
            where="reward_model",
            cure="give validation data of other sources, or none: then a share of the sources is held out",
        )
    return judgements, validation


def _source_key(config: RewardModelConfig) -> Any:
    """What counts as the same source: for a model that does not see some slots' values, sources that differ in nothing else."""
    slots = config.model.delexicalise
    return lambda record: delexicalise(record.source, "", slots)[0]
