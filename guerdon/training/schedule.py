"""The optimiser, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from guerdon.errors import ConfigurationError


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW (Loshchilov and Hutter 2019) and its schedule.

    Attributes:
        learning_rate: the highest one, reached after the warm-up.
        warmup_steps: steps over which it rises linearly from 0.
        schedule: its course afterwards: constant; cosine or linear to ``final_share`` at the last step; or inverse_sqrt
            (Vaswani et al. 2017, eq. 3), which goes on falling as 1 / √step.
        final_share: the share of ``learning_rate`` that cosine and linear end on.
        weight_decay: decoupled; matrices only, no biases and no layer norms.
        beta1, beta2, epsilon: of Adam.
        clip_norm: longest gradient (2-norm over all parameters); None does not clip.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 200
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "cosine"
    final_share: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigurationError(
                f"{self.learning_rate} is no learning rate", where="learning_rate", cure="give more than 0"
            )
        if self.warmup_steps < 0 or not 0 <= self.final_share <= 1 or self.weight_decay < 0:
            raise ConfigurationError(
                "warm-up, final share and weight decay must not be negative, nor the share above 1", where="optimiser"
            )
        if self.schedule == "inverse_sqrt" and self.warmup_steps == 0:
            raise ConfigurationError(
                "inverse_sqrt starts from the end of a warm-up", where="warmup_steps", cure="give at least 1"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigurationError(f"{self.clip_norm} is no norm", where="clip_norm", cure="give more than 0, or null")


def learning_rate(options: OptimiserOptions, step: int, steps: int) -> float:
    """The learning rate of ``step`` (from 1) of ``steps``."""
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, steps - options.warmup_steps)
    share = {
        "constant": 1.0,
        "cosine": options.final_share + (1 - options.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))),
        "linear": options.final_share + (1 - options.final_share) * max(0.0, 1 - done),
        "inverse_sqrt": math.sqrt(max(1, options.warmup_steps) / step),
    }[options.schedule]
    return options.learning_rate * share


def build_optimiser(model: nn.Module, options: OptimiserOptions) -> torch.optim.AdamW:
    """AdamW over two groups of parameters: matrices, which decay, and the rest."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for _, p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for _, p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, betas=(options.beta1, options.beta2), eps=options.epsilon, fused=True
    )
