"""The optimiser, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from guerdon.errors import ConfigurationError

Schedule = Literal["constant", "cosine", "linear", "inverse_sqrt"]


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
    schedule: Schedule = "cosine"
    final_share: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ConfigurationError(
                f"there is no {self.schedule!r}", where="optimiser.schedule", cure=f"choose {', '.join(get_args(Schedule))}"
            )
        fit = {  # written so that nan fits nowhere
            "learning_rate": 0 < self.learning_rate < math.inf,
            "warmup_steps": self.warmup_steps >= (1 if self.schedule == "inverse_sqrt" else 0),
            "final_share": 0 <= self.final_share <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "epsilon": 0 < self.epsilon < math.inf,
            "clip_norm": self.clip_norm is None or 0 < self.clip_norm < math.inf,
        }
        for name in (name for name, fits in fit.items() if not fits):
            raise ConfigurationError(
                f"{getattr(self, name)} is out of range", where=f"optimiser.{name}", cure=f"give {_RANGES[name]}"
            )


_RANGES = {
    "learning_rate": "more than 0",
    "warmup_steps": "0 or more, and at least 1 for inverse_sqrt, which starts from the end of the warm-up",
    "final_share": "0 to 1",
    "weight_decay": "0 or more",
    "beta1": "0 to below 1",
    "beta2": "0 to below 1",
    "epsilon": "more than 0",
    "clip_norm": "more than 0, or null",
}


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
