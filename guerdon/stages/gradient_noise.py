"""How noisy a gradient estimator is: its signal against its spread, measured on one policy that is not updated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guerdon.errors import ConfigurationError, TrainingError
from guerdon.models.actor import VALUE_HEAD
from guerdon.training.trainee import Trainee


@dataclass(frozen=True)
class GradientNoise:
    """What K independent gradients g_1 ... g_K of one policy tell.

    Attributes:
        estimates: K.
        covariance: the trace of their covariance, Σ ‖g_k − ḡ‖² / (K − 1): the expected squared error of one gradient.
        signal: the squared norm of the true mean gradient, ‖ḡ‖² − covariance / K. ‖ḡ‖² alone is too large by that much on
            average; the difference is unbiased, and may be negative where K gradients show no signal.
        cosine: between the mean of the first ⌊K/2⌋ gradients and that of the others: 1 where noise is nothing, about 0
            where it is all.
    """

    estimates: int
    covariance: float
    signal: float
    cosine: float

    @property
    def noise_to_signal(self) -> float | None:
        """covariance / signal: so many gradients must be averaged for as much signal as noise; None without a signal.

        It is the "simple noise scale" of McCandlish et al. 2018 (https://arxiv.org/abs/1812.06162, eq. 2.9), counted in
        optimiser steps instead of samples.
        """
        return self.covariance / self.signal if self.signal > 0 else None


def gradient_noise(trainee: Trainee, estimates: int, warmup: int) -> GradientNoise:
    """Draws ``estimates`` gradients of the trainee's policy, as its steps ``warmup`` + 1, + 2, ... would have them.

    Of a step that makes several updates the first one's is meant; a value head's weights are no policy's, and left out.
    Nothing is updated but what the trainee itself keeps (moments of normalisation, running baselines): the first
    ``warmup`` steps are drawn for these alone. Sums are held in float64: 16 bytes for each parameter.

    Raises:
        ConfigurationError: for fewer than 4 estimates, which leave no half with a spread.
        TrainingError: where a gradient is not finite.
    """
    if estimates < 4:
        raise ConfigurationError(f"{estimates} gradients show no spread", where="gradients", cure="take 4 or more")
    with torch.no_grad():
        for step in range(1, warmup + 1):
            for _ in next(trainee.updates(step)):
                pass
    first, squares = _summed(trainee, range(warmup + 1, warmup + 1 + estimates // 2))
    second, more = _summed(trainee, range(warmup + 1 + estimates // 2, warmup + 1 + estimates))
    trainee.model.zero_grad(set_to_none=True)
    both = _dot(first, first) + _dot(second, second) + 2 * _dot(first, second)  # |Σ g|²
    covariance = max(0.0, math.fsum([*squares, *more]) - both / estimates) / (estimates - 1)
    lengths = math.sqrt(_dot(first, first) * _dot(second, second))
    cosine = _dot(first, second) / lengths if lengths else 0.0
    return GradientNoise(estimates, covariance, both / estimates**2 - covariance / estimates, cosine)


def _summed(trainee: Trainee, steps: Sequence[int]) -> tuple[list[Tensor], list[float]]:
    """The sum of the gradients of some steps, and the squared norm of each."""
    named = trainee.model.named_parameters()
    weights = [weight for name, weight in named if weight.requires_grad and not name.startswith(VALUE_HEAD)]
    total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    squares = []
    for step in steps:
        trainee.model.zero_grad(set_to_none=True)
        for loss in next(trainee.updates(step)):
            loss.backward()
        found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        squares.append(_dot(found, found))
        if not math.isfinite(squares[-1]):
            raise TrainingError(
                "a gradient is not finite", where=f"gradient noise, draw {step}", cure="look at the reward and the loss"
            )
        for summed, gradient in zip(total, found, strict=True):
            summed += gradient
    return total, squares


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))
