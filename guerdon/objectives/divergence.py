"""How far a policy has moved from its anchor, KL(policy || anchor), and the coefficient that holds it near.

``log_prob`` and ``anchor_log_prob`` are those of the policy's own samples. What each estimate is unbiased for, in its value
and in its gradient, stands in the page "Divergence" of the documentation, and each line there is a test.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from guerdon.errors import CheckpointError, ConfigurationError, TrainingError

KlEstimator = Literal["k1", "k2", "k3", "exact"]

_LARGEST_ERROR = 0.2


def kl_estimate(kind: KlEstimator, log_prob: Tensor, anchor_log_prob: Tensor, exact_kl: Tensor | None = None) -> Tensor:
    """An estimate of KL(policy || anchor) of the next-token distribution at each sampled prefix, with a gradient.

    Schulman 2020 (Approximating KL divergence), with ρ = anchor / policy of the token that was drawn: k1 = -log ρ, unbiased,
    negative for some tokens; k2 = ½ (log ρ)², biased, never negative; k3 = ρ - 1 - log ρ, unbiased where the policy gives
    every token that the anchor does a probability, never negative. "exact" is the sum over the vocabulary.

    Args:
        kind: which one.
        log_prob: [n, length], per token.
        anchor_log_prob: [n, length], per token.
        exact_kl: [n, length], ``kl`` of `guerdon.models.policy.Evaluation`, for "exact".

    Returns:
        [n, length].

    Raises:
        ConfigurationError: for an unknown kind, or "exact" without ``exact_kl``.
    """
    if kind == "exact" and exact_kl is not None:
        return exact_kl
    log_ratio = log_prob - anchor_log_prob
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    if kind == "exact":
        raise ConfigurationError("the exact divergence was not given", cure="evaluate with the anchor and pass its kl")
    raise ConfigurationError(f"there is no estimate {kind!r} of the KL", cure=f"choose {', '.join(get_args(KlEstimator))}")


def sequence_kl(per_token: Tensor, mask: Tensor) -> Tensor:
    """The sum of `kl_estimate` over each output: [n, length] -> [n], without a gradient.

    Taken off the reward (r - beta * sequence_kl), k1 makes REINFORCE ascend E[r] - beta * KL(policy || anchor) exactly
    (Ziegler et al. 2019, eq. 2): what the gradient of log p inside the reward would add is zero in expectation. That holds of
    no other estimate; "exact" in the reward is exact together with "exact" in the loss, for each is half of the gradient.
    """
    return torch.where(mask, per_token, 0.0).sum(-1).detach()


class KlController:
    """The coefficient β of the divergence, moved so that the divergence meets a target.

    Ziegler et al. 2019 (Fine-tuning language models from human preferences), section 2.2: e = clip((KL - target) / target,
    ±0.2), β ← β (1 + K e). K is samples / horizon, so that it does not depend on how many samples an update sees: after
    ``horizon`` samples at an error of 0.1, β has grown by a factor of about exp(0.1). Without a target β is constant.

    Args:
        coefficient: the first β; above 0 where there is a target.
        target: KL of whole outputs in nats; None for a constant β.
        horizon: in samples.

    Raises:
        ConfigurationError: for numbers that cannot be.
    """

    def __init__(self, coefficient: float, target: float | None, horizon: float) -> None:
        if not 0.0 <= coefficient < math.inf:
            raise ConfigurationError(f"the KL coefficient is {coefficient}", cure="give a number that is 0 or more")
        if target is not None and not 0.0 < target < math.inf:
            raise ConfigurationError(f"the KL target is {target}", cure="give a number above 0, or none")
        if target is not None and coefficient == 0.0:
            raise ConfigurationError(
                "a KL target moves the coefficient by factors, but the coefficient is 0",
                cure="begin with a coefficient above 0, or leave the target out",
            )
        if not 0.0 < horizon < math.inf:
            raise ConfigurationError(f"the KL horizon is {horizon}", cure="give a number of samples above 0")
        self.target, self.horizon = target, horizon
        self._value = float(coefficient)

    @property
    def value(self) -> float:
        """β as of now."""
        return self._value

    def update(self, measured_kl: float, samples: int) -> None:
        """Takes in the mean divergence per output of one step's samples.

        Raises:
            ConfigurationError: when a step has 5 horizons of samples or more, which could turn β negative.
            TrainingError: when the divergence or β is not finite.
        """
        if self.target is None:
            return
        if not math.isfinite(measured_kl):
            raise TrainingError(f"the measured KL is {measured_kl}", cure="skip the update, as a step that is not finite")
        if _LARGEST_ERROR * samples >= self.horizon:
            raise ConfigurationError(
                f"a step has {samples} samples, and the KL horizon is {self.horizon:g}",
                cure="choose a horizon of several steps' samples",
            )
        error = min(max(measured_kl / self.target - 1.0, -_LARGEST_ERROR), _LARGEST_ERROR)
        value = self._value * (1.0 + error * samples / self.horizon)
        if not math.isfinite(value):
            raise TrainingError("the KL coefficient has grown beyond bounds", cure="choose a target that can be reached")
        self._value = value

    def state_dict(self) -> dict[str, float]:
        """Numbers that JSON holds exactly."""
        return {"coefficient": self._value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else.
        """
        value = state.get("coefficient") if isinstance(state, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value < math.inf:
            raise CheckpointError(f"the KL controller's state is damaged: {state!r}")
        self._value = float(value)
