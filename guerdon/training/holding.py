"""What holds a policy while rewards pull it: the KL to an anchor, and an entropy that is kept up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.objectives.divergence import KlEstimator

AnchorKind = Literal["fixed", "refreshed", "moving_average"]


@dataclass(frozen=True)
class KlOptions:
    """How the policy is held near its anchor.

    Attributes:
        coefficient: β; 0 only measures. With a target, what the controller begins with.
        place: "reward" takes β times the estimate, summed over an output, off its reward (Ziegler et al. 2019); "loss" adds it
            to the loss. Which gradients these have, and which are biased: ``docs/divergence.md``.
        estimator: k1, k2 or k3 (Schulman 2020), or "exact" over the vocabulary at the sampled prefixes; left out, k1 in
            the reward and exact in the loss. "exact" in the reward alone is half of the gradient.
        target: the KL of whole outputs that β is steered to (nats); None keeps β.
        horizon: samples over which β may change by a factor of e, for a target (Ziegler et al. 2019, section 2.2, with
            its error cut to ±0.2: the factor over a horizon is e^0.2).
        anchor: "fixed" is the policy that the stage begins with; "refreshed" becomes the policy anew every ``anchor_every``
            steps; "moving_average" follows it with ``anchor_decay`` a step.
        anchor_every, anchor_decay: see ``anchor``.
        measured: the share of a step's sources (which are drawn at random) along whose outputs the KL is measured, where the
            coefficient is 0 and the measure is for the log alone: it costs a forward pass of the anchor.
    """

    coefficient: float = 0.05
    place: Literal["reward", "loss"] = "reward"
    estimator: KlEstimator | None = None
    target: float | None = None
    horizon: int = 10_000
    anchor: AnchorKind = "fixed"
    anchor_every: int | None = None
    anchor_decay: float | None = None
    measured: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.coefficient < math.inf:
            raise ConfigurationError(
                f"{self.coefficient} is no coefficient", where="reinforce.kl.coefficient", cure="0 or more"
            )
        if self.place not in ("reward", "loss"):
            raise ConfigurationError(f"there is no place {self.place!r}", where="reinforce.kl.place", cure="reward or loss")
        if self.estimator is not None and self.estimator not in get_args(KlEstimator):
            names = ", ".join(get_args(KlEstimator))
            raise ConfigurationError(f"there is no {self.estimator!r}", where="reinforce.kl.estimator", cure=f"choose {names}")
        if self.place == "loss" and self.estimator == "k1":
            raise ConfigurationError(
                "the gradient of k1 in the loss is 0 in expectation: it holds nothing",
                where="reinforce.kl.estimator",
                cure="choose exact, k2 or k3, or put k1 in the reward",
            )
        if not (self.measured == 1.0 or (0.0 < self.measured < 1.0 and self.coefficient == 0.0)):
            raise ConfigurationError(
                f"{self.measured} of the outputs, with a coefficient of {self.coefficient}",
                where="reinforce.kl.measured",
                cure="give more than 0 and at most 1, and 1 where the coefficient is above 0: each output's KL then counts",
            )
        self._check_target()
        self._check_anchor()

    def _check_target(self) -> None:
        if self.target is not None and not self.coefficient:
            raise ConfigurationError(
                "a target multiplies the coefficient, which is 0",
                where="reinforce.kl.target",
                cure="give a coefficient above 0",
            )
        if (self.target is not None and not 0 < self.target < math.inf) or self.horizon < 1:
            raise ConfigurationError("target and horizon must be above 0", where="reinforce.kl.target", cure="e.g. target 5")

    def _check_anchor(self) -> None:
        if self.anchor not in get_args(AnchorKind):
            names = ", ".join(get_args(AnchorKind))
            raise ConfigurationError(f"there is no {self.anchor!r}", where="reinforce.kl.anchor", cure=f"choose {names}")
        if (self.anchor_every is not None) != (self.anchor == "refreshed") or (self.anchor_every or 1) < 1:
            raise ConfigurationError(
                f"anchor_every is {self.anchor_every} and anchor is {self.anchor}",
                where="reinforce.kl.anchor_every",
                cure="give 1 or more steps with anchor: refreshed, and leave it out otherwise",
            )
        if (self.anchor_decay is not None) != (self.anchor == "moving_average") or not 0 <= (self.anchor_decay or 0) < 1:
            raise ConfigurationError(
                f"anchor_decay is {self.anchor_decay} and anchor is {self.anchor}",
                where="reinforce.kl.anchor_decay",
                cure="give 0 to below 1 with anchor: moving_average, and leave it out otherwise",
            )

    @property
    def chosen_estimator(self) -> KlEstimator:
        """The estimator, the default of its place filled in."""
        return self.estimator or ("k1" if self.place == "reward" else "exact")

    @property
    def moves(self) -> bool:
        """Whether the anchor is a part of what a checkpoint must hold."""
        return self.anchor != "fixed"


@torch.no_grad()
def move_anchor(options: KlOptions, anchor: nn.Module, policy: nn.Module, step: int) -> None:
    """Moves the anchor before ``step`` (from 1): a function of the weights and the step alone."""
    if step == 1 or options.anchor == "fixed":
        return
    if options.anchor == "refreshed":
        if options.anchor_every and (step - 1) % options.anchor_every == 0:
            anchor.load_state_dict(policy.state_dict())
        return
    for kept, now in zip(anchor.parameters(), policy.parameters(), strict=True):
        kept.lerp_(now, 1.0 - (options.anchor_decay or 0.0))


@dataclass(frozen=True)
class EntropyOptions:
    """A bonus for the entropy of the next-token distributions along the samples, summed over an output.

    Attributes:
        coefficient: of the bonus; with a target, what it begins with.
        target: mean entropy a token (nats) below which the coefficient grows, and above which it falls, down to 0; None
            keeps the coefficient.
        rate: growth a step for each nat below the target.
        most: the largest coefficient that a target may lead to.
    """

    coefficient: float = 0.0
    target: float | None = None
    rate: float = 0.001
    most: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.coefficient < math.inf:
            raise ConfigurationError(
                f"{self.coefficient} is no coefficient", where="reinforce.entropy.coefficient", cure="0 or more"
            )
        if self.target is not None and not 0 < self.target < math.inf:
            raise ConfigurationError(f"{self.target} nats", where="reinforce.entropy.target", cure="give more than 0")
        if not (0 < self.rate < math.inf and self.coefficient <= self.most < math.inf) and self.target is not None:
            raise ConfigurationError(
                "rate must be above 0, and most at least the coefficient", where="reinforce.entropy.rate, most"
            )


class EntropyController:
    """The bonus' coefficient: dual ascent on "the mean entropy is at least the target" (Haarnoja et al. 2018, section 5)."""

    def __init__(self, options: EntropyOptions) -> None:
        self.options, self.value = options, options.coefficient

    def update(self, entropy: float) -> None:
        """Takes in the mean entropy a token of a step."""
        options = self.options
        if options.target is not None:
            self.value = min(options.most, max(0.0, self.value + options.rate * (options.target - entropy)))

    def state_dict(self) -> dict[str, float]:
        """A number that JSON holds exactly."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores what `state_dict` gave; raises `CheckpointError` for anything else."""
        try:
            value = float(state["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the entropy controller's state is damaged ({error})") from error
        if not 0.0 <= value < math.inf:
            raise CheckpointError(f"the entropy controller's coefficient is impossible: {value}")
        self.value = value
