"""Advantages: rewards less a baseline.

Axes: n samples of one optimiser step, before it is cut into micro-batches. ``kept`` bool [n] is False for samples that
leave the loss and the count; their rewards are never read. ``groups`` int64 [n] numbers the sample groups (the outputs
drawn for one source) from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.objectives.sums import group_sums

Baseline = Literal["none", "running_mean", "batch_mean", "leave_one_out", "self_critical"]

_NOISE = 1e-6  # a spread below this share of the mean is the rounding of float32 rewards, and counts as none


@dataclass(frozen=True)
class Advantages:
    """What the policy gradient weighs each sample with.

    Attributes:
        values: [n], in the rewards' dtype; 0 where ``counted`` is False.
        counted: bool [n]; True for the samples that the loss is divided by.
    """

    values: Tensor
    counted: Tensor

    @property
    def samples(self) -> int:
        """The number of scored samples, which the loss is divided by."""
        return int(self.counted.sum())


def _advantages(rewards: Tensor, baseline: Tensor | float, counted: Tensor) -> Advantages:
    return Advantages(torch.where(counted, rewards - baseline, 0.0), counted)


def _group_moments(rewards: Tensor, kept: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample's group: the mean and the standard deviation (n - 1) of what is kept, float64 [n]; who is counted."""
    wide, weight = torch.where(kept, rewards, 0.0).double(), kept.double()
    count = group_sums(weight, groups)[groups]
    mean = group_sums(wide, groups)[groups] / count.clamp(min=1)
    squares = group_sums(weight * (wide - mean).square(), groups)[groups]
    return mean, (squares / (count - 1).clamp(min=1)).sqrt(), kept & (count > 1)


def no_baseline(rewards: Tensor, kept: Tensor) -> Advantages:
    """The rewards themselves. Unbiased (Williams 1992)."""
    return _advantages(rewards, 0.0, kept)


def batch_mean(rewards: Tensor, kept: Tensor) -> Advantages:
    """Less the mean of the n kept rewards of the batch.

    Each sample is part of its own baseline, so that samples of one source have (n - 1) / n of the true gradient in
    expectation. Samples of several sources do not shrink alike: prefer `leave_one_out`.
    """
    count = kept.sum().clamp(min=1)
    return _advantages(rewards, torch.where(kept, rewards, 0.0).sum() / count, kept)


def leave_one_out(rewards: Tensor, kept: Tensor, groups: Tensor) -> Advantages:
    """Less the mean of the other kept rewards of the sample's group. Unbiased.

    Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for free), eq. 8; RLOO in Ahmadian et al. 2024. A sample that
    is alone in its group has no baseline: its advantage is 0 and it is not counted.
    """
    total, count = group_sums(torch.where(kept, rewards, 0.0), groups), group_sums(kept.to(rewards.dtype), groups)
    others = count[groups] - 1
    return _advantages(rewards, (total[groups] - rewards) / others.clamp(min=1), kept & (others > 0))


def group_mean(rewards: Tensor, kept: Tensor, groups: Tensor) -> Advantages:
    """Less the mean of the group's n kept rewards, the sample's own among them.

    Liu et al. 2025 (Understanding R1-zero-like training: a critical perspective), Dr. GRPO, section 3.2: GRPO's advantage
    without its scale. The expectation is (n - 1) / n of the true gradient; `leave_one_out` has no such factor. A sample that
    is alone in its group is only compared with itself: its advantage is 0 and it is not counted.
    """
    mean, _, counted = _group_moments(rewards, kept, groups)
    return _advantages(rewards, mean.to(rewards.dtype), counted)


def group_scaled(rewards: Tensor, kept: Tensor, groups: Tensor) -> Advantages:
    """Less the mean of the group's kept rewards, over their standard deviation.

    Shao et al. 2024 (DeepSeekMath), GRPO, section 4.1.2. The paper writes std without saying of what; this is the samples'
    (n - 1 in the denominator), as in the implementations that were released, and nothing is added to it. The scale lifts
    sources whose outputs hardly differ: it follows the gradient of another objective than the expected reward.

    Where a group has no spread (less than 1e-6 of its mean, float32's rounding) the advantages are 0 and its samples are
    counted; a sample that is alone in its group is not.
    """
    mean, deviation, counted = _group_moments(rewards, kept, groups)
    flat = deviation <= _NOISE * mean.abs()  # False of nan, which is not to be hidden
    scaled = (rewards.double() - mean) / torch.where(flat, 1.0, deviation)
    return Advantages(torch.where(counted & ~flat, scaled, 0.0).to(rewards.dtype), counted)


def self_critical(rewards: Tensor, kept: Tensor, groups: Tensor, greedy_rewards: Tensor) -> Advantages:
    """Less the reward of the policy's greedy output for the same source: ``greedy_rewards`` [groups]. Unbiased.

    Rennie et al. 2017 (Self-critical sequence training), eq. 8. ReMax (Li et al. 2024) is the same estimator.
    """
    return _advantages(rewards, greedy_rewards[groups], kept)


def constant(rewards: Tensor, kept: Tensor) -> Advantages:
    """+1 for every sample: the control that tells what sampling and fine-tuning on one's own outputs does by itself."""
    return _advantages(torch.ones_like(rewards), 0.0, kept)


class RunningMean:
    """The mean reward of *earlier* batches, which makes an unbiased baseline.

    A batch's samples are weighed with ``decay`` to the power of the batch's age in updates; decay 1 is the plain mean of
    all rewards so far. The baseline of the very first batch is 0.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 < decay <= 1.0:
            raise ConfigurationError(f"the running mean's decay is {decay}", cure="choose a number above 0 and at most 1")
        self.decay = decay
        self._total = 0.0
        self._weight = 0.0

    @property
    def value(self) -> float:
        """The mean so far; 0 before the first update."""
        return self._total / self._weight if self._weight else 0.0

    def advantages(self, rewards: Tensor, kept: Tensor) -> Advantages:
        """Less the mean so far. Call `update` with the same rewards afterwards."""
        return _advantages(rewards, self.value, kept)

    def update(self, rewards: Tensor, kept: Tensor) -> None:
        """Takes in a batch, once its advantages have been computed."""
        self._total = self.decay * self._total + float(rewards[kept].sum(dtype=torch.float64))
        self._weight = self.decay * self._weight + int(kept.sum())

    def state_dict(self) -> dict[str, float]:
        """Numbers that JSON holds exactly."""
        return {"total": self._total, "weight": self._weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when a number is missing.
        """
        try:
            self._total, self._weight = float(state["total"]), float(state["weight"])
        except KeyError as error:
            raise CheckpointError(f"the running mean's state lacks {error}") from error


def check_baseline(baseline: str, samples_per_source: int) -> None:
    """Refuses a baseline that cannot be.

    Raises:
        ConfigurationError: for an unknown name, or leave-one-out with a single sample for each source.
    """
    if baseline not in get_args(Baseline):
        raise ConfigurationError(f"there is no baseline {baseline!r}", cure=f"choose one of {', '.join(get_args(Baseline))}")
    if baseline == "leave_one_out" and samples_per_source < 2:
        raise ConfigurationError(
            f"the baseline leave_one_out reads the other samples of a source, but samples_per_source is {samples_per_source}",
            cure="draw at least 2 samples for each source, or choose running_mean or self_critical",
        )


def estimate(
    baseline: Baseline,
    rewards: Tensor,
    kept: Tensor,
    groups: Tensor,
    running_mean: RunningMean | None = None,
    greedy_rewards: Tensor | None = None,
) -> Advantages:
    """The advantages under the named baseline.

    Args:
        baseline: which one; `check_baseline` refuses what cannot be before training starts.
        rewards: [n].
        kept: bool [n].
        groups: int64 [n].
        running_mean: of earlier batches, for "running_mean"; it is read, not updated.
        greedy_rewards: [groups], for "self_critical".

    Raises:
        ConfigurationError: for an unknown baseline, or when what the baseline reads is missing.
    """
    if baseline == "none":
        return no_baseline(rewards, kept)
    if baseline == "batch_mean":
        return batch_mean(rewards, kept)
    if baseline == "leave_one_out":
        return leave_one_out(rewards, kept, groups)
    if baseline == "running_mean" and running_mean is not None:
        return running_mean.advantages(rewards, kept)
    if baseline == "self_critical" and greedy_rewards is not None:
        return self_critical(rewards, kept, groups, greedy_rewards)
    check_baseline(baseline, samples_per_source=2)
    raise ConfigurationError(f"the baseline {baseline} was not given what it reads", cure="pass running_mean or greedy_rewards")


def shuffle_within_groups(rewards: Tensor, kept: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """The shuffled control: the same rewards, permuted at random among the kept samples of each group.

    Samples that are alone in their group are permuted among themselves; with one sample per source that is the batch.

    Returns:
        [n], on the rewards' device; those of samples that are not kept stay where they are.
    """
    count = group_sums(kept.long(), groups)[groups]
    bucket = torch.where(count > 1, groups, -1)[kept]
    random = torch.rand(len(bucket), generator=generator, dtype=torch.float64, device=generator.device).to(rewards.device)
    shuffled = random.argsort()
    shuffled = shuffled[bucket[shuffled].argsort(stable=True)]
    values, result = rewards[kept], rewards.clone()
    result[kept] = torch.empty_like(values).index_copy(0, bucket.argsort(stable=True), values[shuffled])
    return result
