"""Options and steps of reinforcement whose next outputs are drawn and judged during the update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from helpers.tiny_runs import EXAMPLES, REWARD, generator
from torch import Tensor

from guerdon.decoding import LengthLimit
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.reinforce import Reinforce, trainee_of
from guerdon.training.holding import KlOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

LIMIT, LOW, HIGH, COPIES = 7, 0.05, 0.1, 3


def config(**changes: Any) -> ReinforceConfig:
    base = ReinforceConfig(
        steps=6,
        sources_per_step=4,
        samples_per_source=COPIES,
        limit=LengthLimit(absolute=LIMIT),
        normalisation=NormaliserOptions("none"),
        kl=KlOptions(0.0),
        clip_low=LOW,
        clip_high=HIGH,
        overlap=True,
        optimiser=OptimiserOptions(learning_rate=1e-2, warmup_steps=1, schedule="constant", weight_decay=0.0),
        loop=LoopOptions(validate_every=3, checkpoint_every=1, criterion="reward", higher_is_better=True, average_best=0),
    )
    return replace(base, **changes)


def trainee(chosen: ReinforceConfig, reward: FunctionReward = REWARD) -> Reinforce:
    """On a float64 policy that has left its anchor."""
    made = trainee_of(generator(), reward, EXAMPLES[:16], chosen, EXAMPLES[16:], seed=5)
    move(made, 1, 0.05)
    return made


def move(made: Reinforce, seed: int, far: float) -> None:
    """An update of the weights."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.generator.policy.parameters():
            parameter.add_(far * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64))


def gradient(made: Reinforce, losses: Any) -> Tensor:
    parameters = list(made.generator.policy.parameters())
    parts = torch.autograd.grad(sum(losses), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
