"""The noise of a gradient: against numpy on gradients that are known, and on ones whose distribution is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guerdon.errors import ConfigurationError, TrainingError
from guerdon.stages.gradient_noise import GradientNoise, gradient_noise

SIZES = (3, 4)


class Given:
    """A trainee whose gradient at each step is a given vector, handed over in two losses. It counts what it drew."""

    def __init__(self, gradients: np.ndarray[Any, Any]) -> None:
        torch.manual_seed(0)
        self.model = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in (*SIZES, 2)])
        self.gradients, self.drawn = torch.tensor(gradients, dtype=torch.float32), list[tuple[int, bool]]()

    def updates(self, step: int) -> Iterator[Iterator[Tensor]]:
        yield self._losses(step)
        raise AssertionError("the first update is enough")

    def _losses(self, step: int) -> Iterator[Tensor]:
        self.drawn.append((step, torch.is_grad_enabled()))
        for weight, gradient in zip(self.model, self.gradients[step - 1].split(SIZES), strict=False):
            yield (weight * gradient).sum()


def drawn_gradients(count: int, seed: int, scale: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0.3, scale, size=(count, sum(SIZES))).astype(np.float32)


@pytest.mark.parametrize(("estimates", "warmup"), [(4, 0), (5, 2), (16, 4)])
def test_figures_are_those_of_numpy(estimates: int, warmup: int) -> None:
    gradients = drawn_gradients(estimates + warmup, 1)
    found = gradient_noise(Given(gradients), estimates, warmup)  # type: ignore[arg-type]
    kept = gradients[warmup:].astype(np.float64)
    covariance = np.trace(np.cov(kept, rowvar=False))
    mean = kept.mean(0)
    first, second = kept[: estimates // 2].mean(0), kept[estimates // 2 :].mean(0)
    assert found.covariance == pytest.approx(covariance, rel=1e-6)
    assert found.signal == pytest.approx(mean @ mean - covariance / estimates, rel=1e-6)
    assert found.cosine == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second), rel=1e-6)
    ratio = found.covariance / found.signal
    assert found.noise_to_signal == (pytest.approx(ratio) if found.signal > 0 else None)


def test_nothing_is_updated_and_warmup_draws_without_gradients() -> None:
    trainee = Given(drawn_gradients(7, 2))
    before = [weight.detach().clone() for weight in trainee.model]
    gradient_noise(trainee, 4, 3)  # type: ignore[arg-type]
    assert trainee.drawn == [(1, False), (2, False), (3, False), (4, True), (5, True), (6, True), (7, True)]
    assert all(torch.equal(old, new) for old, new in zip(before, trainee.model, strict=True))
    assert all(weight.grad is None for weight in trainee.model)


def test_signal_and_noise_are_unbiased() -> None:
    """Gradients from a normal distribution of mean 0.3 and deviation 2 in 7 dimensions: trace 28, |mean|² 0.63."""
    found = [gradient_noise(Given(drawn_gradients(8, seed, 2.0)), 8, 0) for seed in range(400)]  # type: ignore[arg-type]
    noise, signal = [f.covariance for f in found], [f.signal for f in found]
    assert np.mean(noise) == pytest.approx(28.0, abs=4 * np.std(noise) / 20)
    assert np.mean(signal) == pytest.approx(0.63, abs=4 * np.std(signal) / 20)
    assert 4 * np.std(signal) / 20 < 28.0 / 8, "the test could not see the bias of |mean|²"


def test_one_direction_alone_has_no_noise() -> None:
    found = gradient_noise(Given(np.tile(drawn_gradients(1, 3), (4, 1))), 4, 0)  # type: ignore[arg-type]
    assert found.covariance == pytest.approx(0.0, abs=1e-12)
    assert found.cosine == pytest.approx(1.0)


def test_no_gradient_at_all_shows_no_signal() -> None:
    found = gradient_noise(Given(np.zeros((4, sum(SIZES)), dtype=np.float32)), 4, 0)  # type: ignore[arg-type]
    assert (found.covariance, found.signal, found.cosine, found.noise_to_signal) == (0.0, 0.0, 0.0, None)
    assert GradientNoise(4, 2.0, -0.1, 0.0).noise_to_signal is None


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3 gradients"):
        gradient_noise(Given(drawn_gradients(3, 4)), 3, 0)  # type: ignore[arg-type]
    broken = drawn_gradients(4, 5)
    broken[2, 1] = np.inf
    with pytest.raises(TrainingError, match="not finite") as caught:
        gradient_noise(Given(broken), 4, 0)  # type: ignore[arg-type]
    assert "draw 3" in str(caught.value)
