"""The estimators of the policy gradient that a recipe may name, and the options that belong to one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from guerdon.errors import ConfigurationError
from guerdon.objectives.advantage import Baseline, check_baseline

Estimator = Literal["reinforce", "self_critical", "rloo", "grpo", "dr_grpo", "remax", "ppo", "minimum_risk"]
"""
- reinforce: Williams 1992, with any baseline
- self_critical: less the reward of the greedy output (Rennie et al. 2017)
- rloo: less the mean of the source's other outputs (Kool et al. 2019; Ahmadian et al. 2024)
- grpo: less the group's mean, over its standard deviation, averaged over an output's tokens (Shao et al. 2024)
- dr_grpo: less the group's mean, summed over tokens (Liu et al. 2025)
- remax: less the reward of the greedy output, the KL penalty as a return to go (Li et al. 2024)
- ppo: a value head and generalised advantages (Schulman et al. 2016, 2017)
- minimum_risk: the expected reward over the drawn set, renormalised (Shen et al. 2016)
"""

_GROUP_ESTIMATORS = ("rloo", "grpo", "dr_grpo", "minimum_risk")
GREEDY_ESTIMATORS = ("self_critical", "remax")
DEFAULT_SHARPNESS = 0.005  # of minimum risk training: Shen et al. 2016, section 4.2
Shaping = Literal["none", "prefix"]


@dataclass(frozen=True)
class ValueOptions:
    """The value head of PPO, and what its values are used for.

    Attributes:
        discount: of later rewards; 1 for texts, whose length is no delay.
        trace: λ of generalised advantages: 1 is the whole return less the value (unbiased), 0 one step.
        weight: of the value's squared error in the loss.
        clip: the error counted is the larger of the value's and that of the value held within so far of what it was at
            drawing (the implementations of PPO); None counts the value's own.
        learning_rate_factor: the head learns so many times faster than the policy.
        trunk: whether the value's error trains the decoder below the head, too.
    """

    discount: float = 1.0
    trace: float = 0.95
    weight: float = 0.5
    clip: float | None = None
    learning_rate_factor: float = 20.0
    trunk: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.discount <= 1 and 0 <= self.trace <= 1):
            raise ConfigurationError(
                "discount must be above 0 and at most 1, trace 0 to 1", where="reinforce.value.discount, trace"
            )
        if not 0 < self.weight < math.inf or not 0 < self.learning_rate_factor < math.inf:
            raise ConfigurationError(
                "the value head would never learn",
                where="reinforce.value.weight, learning_rate_factor",
                cure="give more than 0, or choose an estimator without a value head",
            )
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ConfigurationError(
                f"{self.clip} lets no value move", where="reinforce.value.clip", cure="more than 0, or null"
            )


def check_estimator(
    estimator: str, baseline: Baseline | None, samples: int, value: ValueOptions | None, sharpness: float | None, shaping: str
) -> None:
    """Refuses an estimator that cannot be, and options that belong to another one.

    Raises:
        ConfigurationError: in one line.
    """
    if estimator not in get_args(Estimator):
        raise ConfigurationError(
            f"there is no {estimator!r}", where="reinforce.estimator", cure=f"choose {', '.join(get_args(Estimator))}"
        )
    if estimator in _GROUP_ESTIMATORS and samples < 2:
        raise ConfigurationError(
            f"{estimator} compares the outputs of a source, but samples_per_source is {samples}",
            where="reinforce.estimator",
            cure="draw at least 2 samples for each source, or choose reinforce, self_critical, remax or ppo",
        )
    for name, given, of in (
        ("baseline", baseline, "reinforce"), ("value", value, "ppo"), ("sharpness", sharpness, "minimum_risk"),
    ):  # fmt: skip
        if given is not None and estimator != of:
            raise ConfigurationError(
                f"{name} belongs to the estimator {of}, and the estimator is {estimator}",
                where=f"reinforce.{name}",
                cure=f"take it out, or choose estimator: {of}",
            )
    if estimator == "reinforce":
        check_baseline(baseline or "leave_one_out", samples)
    if sharpness is not None and not 0 < sharpness < math.inf:
        raise ConfigurationError(f"{sharpness} is no exponent", where="reinforce.sharpness", cure="give more than 0")
    _check_shaping(estimator, baseline, shaping)


def _check_shaping(estimator: str, baseline: Baseline | None, shaping: str) -> None:
    if shaping not in get_args(Shaping):
        raise ConfigurationError(f"there is no {shaping!r}", where="reinforce.shaping", cure="choose none or prefix")
    shapes = estimator in ("rloo", "ppo") or (estimator == "reinforce" and baseline in (None, "none", "leave_one_out"))
    if shaping == "prefix" and not shapes:
        raise ConfigurationError(
            f"{baseline or estimator} has one advantage for a whole output, shaping one for each token",
            where="reinforce.shaping",
            cure="choose ppo, rloo, or reinforce with baseline none or leave_one_out",
        )
