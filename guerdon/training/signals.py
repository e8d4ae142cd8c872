"""From judged outputs to what each token's log-probability is weighed with.

Axes: n outputs of one step, before they are cut into micro-batches; t their positions; g sources (sample groups).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from guerdon.data.draws import key
from guerdon.objectives.advantage import (
    Advantages,
    RunningMean,
    estimate,
    group_mean,
    group_scaled,
    leave_one_out,
    no_baseline,
    shuffle_within_groups,
)
from guerdon.objectives.divergence import KlController, kl_estimate
from guerdon.objectives.minimum_risk import distinct_rows
from guerdon.objectives.value import generalised_advantages
from guerdon.rewards.base import Judgement, Part, Reward
from guerdon.rewards.combine import Combined
from guerdon.rewards.normalise import Normaliser
from guerdon.rewards.weighting import Weighting
from guerdon.training.estimators import GREEDY_ESTIMATORS, ValueOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Rollout

_Given = TypeVar("_Given")


@dataclass(frozen=True)
class Seen:
    """What the models say of the tokens of a rollout before the first update; each [n, t], 0 beyond an output's length.

    Attributes:
        anchor_log_prob: the anchor's log-probability of each token; 0 in rows where it was not asked.
        asked: rows that the anchor was asked about, the first ones.
        kl: the exact KL to the anchor at each prefix; None where nothing reads it.
        value: the value of each prefix; None without a value head.
    """

    anchor_log_prob: Tensor
    asked: int
    kl: Tensor | None = None
    value: Tensor | None = None


@dataclass(frozen=True)
class Targets:
    """What one step's updates are made of; on the CPU.

    Attributes:
        advantages: [n], or [n, t] where each token has its own.
        rewards: [n], as trained on: normalised, the penalty taken off.
        distinct: bool [n], the sampled sets of minimum risk training; None for other estimators.
        returns: [n, t], what the value head learns; None without one.
        sets: the groups that minimum risk training averages over.
        weights: [n], what each output counts, which its advantage has in it; None where all count alike.
    """

    advantages: Advantages
    rewards: Tensor
    distinct: Tensor | None = None
    returns: Tensor | None = None
    sets: int = 0
    weights: Tensor | None = None

    def weighed(self, weights: Tensor) -> Targets:
        """The same for outputs that count as much as ``weights`` [n] says, which the advantages were computed without."""
        values = self.advantages.values
        each = weights.to(values).view(-1, *[1] * (values.ndim - 1))
        return replace(self, advantages=Advantages(values * each, self.advantages.counted), weights=weights)


@dataclass(frozen=True)
class Further:
    """Further judgements; None where nothing reads them (`Signals.reads_greedy`, `Signals.reads_prefixes`).

    Attributes:
        greedy: of each source's greedy output, [g].
        prefixes: of the prefix before each token, output after output, as many as the outputs have tokens.
    """

    greedy: Judgement | None = None
    prefixes: Judgement | None = None


class Signals:
    """Turns judgements into targets; keeps what they depend on from step to step: moments, multipliers, coefficients."""

    def __init__(self, config: ReinforceConfig, reward: Reward, seed: int) -> None:
        self.config, self.seed = config, seed
        names = [part.name for part in reward.parts] if isinstance(reward, Combined) else [reward.name]
        self.weighting = Weighting(config.schedules, config.constraints, names)
        self.normaliser, self.running_mean = Normaliser(config.normalisation), RunningMean(config.running_decay)
        self.kl = KlController(config.kl.coefficient, config.kl.target, config.kl.horizon)

    def targets(self, step: int, rollout: Rollout, judgement: Judgement, seen: Seen, further: Further) -> Targets:
        """The targets of one step, and the state as the next step needs it."""
        config, groups, penalties = self.config, rollout.groups.cpu(), self._penalties(rollout, seen)
        if config.control == "constant":
            rewards = torch.ones(len(groups)) - penalties.sum(1)
            return Targets(no_baseline(rewards, torch.ones(len(groups), dtype=torch.bool)), rewards)
        weighed = self.weighting.weigh(judgement, step)
        rewards, kept = self.normaliser.apply(weighed, groups)
        rewards = rewards.double()
        if config.control == "shuffled":
            source = torch.Generator().manual_seed(key(self.seed, "shuffled rewards", step))
            rewards = shuffle_within_groups(rewards, kept, groups, source)
        self.weighting.update(judgement)
        if self._by_token:
            return self._token_targets(step, rollout, rewards, kept, penalties, seen, further)
        rewards = rewards - penalties.sum(1)
        if config.estimator == "minimum_risk":
            tokens = rollout.samples.tokens
            distinct = distinct_rows(tokens.ids.cpu(), tokens.lengths.cpu(), kept, groups)
            sizes = torch.zeros(int(groups.max()) + 1, dtype=torch.long).index_add(0, groups, distinct.long())
            return Targets(group_mean(rewards, kept, groups), rewards, distinct, sets=int((sizes > 1).sum()))
        greedy = self._greedy(step, further) if self.reads_greedy else None
        advantages = self._sequence_advantages(rewards, kept, groups, greedy)
        self.running_mean.update(rewards, kept)
        return Targets(advantages, rewards)

    def _penalties(self, rollout: Rollout, seen: Seen) -> Tensor:
        """β times the KL estimate of each token, where it is taken off the reward: [n, t]."""
        options, mask = self.config.kl, rollout.samples.tokens.mask
        if options.place != "reward" or not self.kl.value:
            return torch.zeros(mask.shape)
        each = kl_estimate(options.chosen_estimator, rollout.samples.log_prob, seen.anchor_log_prob, seen.kl)
        return self.kl.value * torch.where(mask, each, 0.0).cpu()

    def _sequence_advantages(self, rewards: Tensor, kept: Tensor, groups: Tensor, greedy: Tensor | None) -> Advantages:
        estimator = self.config.estimator
        if estimator == "rloo":
            return leave_one_out(rewards, kept, groups)
        if estimator == "grpo":
            return group_scaled(rewards, kept, groups)
        if estimator == "dr_grpo":
            return group_mean(rewards, kept, groups)
        baseline = "self_critical" if estimator == "self_critical" else self.config.baseline or "leave_one_out"
        return estimate(baseline, rewards, kept, groups, self.running_mean, greedy)

    # --- an advantage for each token

    @property
    def _by_token(self) -> bool:
        return self.reads_prefixes or self.config.estimator in ("ppo", "remax")

    @property
    def reads_prefixes(self) -> bool:
        """Whether `targets` reads the judgement of prefixes."""
        return self.config.shaping == "prefix" and self.config.control == "none"

    @property
    def reads_greedy(self) -> bool:
        """Whether `targets` reads the judgement of greedy outputs."""
        compared = self.config.estimator in GREEDY_ESTIMATORS or self.config.baseline == "self_critical"
        return compared and self.config.control != "constant"

    def _token_targets(
        self, step: int, rollout: Rollout, rewards: Tensor, kept: Tensor, penalties: Tensor, seen: Seen, further: Further
    ) -> Targets:
        config, groups, mask = self.config, rollout.groups.cpu(), rollout.samples.tokens.mask.cpu()
        potentials = None
        if self.reads_prefixes:
            potentials = self._potentials(step, rollout, further)
        given = torch.where(mask & kept[:, None], _by_position(rewards, potentials, mask) - penalties, 0.0)
        trained = torch.where(kept, rewards - penalties.sum(1), 0.0)
        if config.estimator == "ppo":
            options, values = config.value or ValueOptions(), _present(seen.value).cpu()
            advantages, returns = generalised_advantages(given, values, mask, options.discount, options.trace)
            return Targets(Advantages(torch.where(kept[:, None], advantages, 0.0), kept), trained, returns=returns)
        to_go = given.flip(1).cumsum(1).flip(1)
        if config.estimator == "remax":
            baseline = self._greedy(step, further)[groups, None].expand_as(to_go)
            return Targets(_masked(to_go - baseline, kept, mask), trained)
        if config.estimator == "reinforce" and config.baseline == "none":
            return Targets(_masked(to_go, kept, mask), trained)
        others = [leave_one_out(to_go[:, t], kept, groups) for t in range(mask.shape[1])]
        values = torch.stack([column.values for column in others], 1)
        return Targets(_masked(values, others[0].counted, mask), trained)

    def _greedy(self, step: int, further: Further) -> Tensor:
        """The reward of each source's greedy output, on the scale of the samples' moments: [g]."""
        judgement = self.weighting.weigh(_present(further.greedy), step)
        count = len(next(iter(judgement.parts.values())).scores)
        return self.normaliser.rescale(judgement, torch.arange(count)).double()

    def _potentials(self, step: int, rollout: Rollout, further: Further) -> Tensor:
        """The reward of the prefix before each token, as far as its parts score prefixes: [n, t]."""
        tokens = rollout.samples.tokens
        mask = tokens.mask.cpu()
        of_token = rollout.groups.cpu().repeat_interleave(tokens.lengths.cpu())
        found = self.normaliser.potentials(self.weighting.weigh(_present(further.prefixes), step), of_token)
        return torch.zeros(mask.shape, dtype=found.dtype).masked_scatter(mask, found)

    # --- what the log shows

    def metrics(self, judgement: Judgement, targets: Targets, groups: Tensor, step: int) -> dict[str, float]:
        """Of one step: weights that move, groups without spread, and how far each part spreads what is trained on.

        ``flat_groups`` is the share of sample groups whose rewards are all alike, so that they teach nothing;
        ``spread/<part>`` the standard deviation over the step's outputs of what the part adds to the reward.
        """
        counted = targets.advantages.counted
        size = int(groups.max()) + 1
        rewards = targets.rewards.double()
        bounds = [
            torch.full((size,), start, dtype=torch.float64).scatter_reduce(0, groups[counted], rewards[counted], how)
            for start, how in ((float("-inf"), "amax"), (float("inf"), "amin"))
        ]
        weighed = self.weighting.weigh(judgement, step)
        added = {name: self._adds(name, part, groups) for name, part in weighed.parts.items()}
        return {
            "flat_groups": float((bounds[0] - bounds[1] <= 0).double().mean()),
            **{f"spread/{name}": float(values.double().std(correction=0)) for name, values in added.items()},
            **self.weighting.metrics(step),
        }

    def _adds(self, name: str, part: Part, groups: Tensor) -> Tensor:
        """What a part adds to each output's reward, up to a constant: [n]."""
        options = self.config.normalisation
        if options.kind == "none" or options.order == "sum" or self.config.control == "constant":
            return part.weight * part.scores
        return self.normaliser.rescale(Judgement({name: part}), groups)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "normaliser": self.normaliser.state_dict(),
            "running_mean": self.running_mean.state_dict(),
            "weighting": self.weighting.state_dict(),
            "kl": self.kl.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; raises `guerdon.errors.CheckpointError` where it is damaged."""
        self.normaliser.load_state_dict(state["normaliser"])
        self.running_mean.load_state_dict(state["running_mean"])
        self.weighting.load_state_dict(state["weighting"])
        self.kl.load_state_dict(state["kl"])


def _by_position(rewards: Tensor, potentials: Tensor | None, mask: Tensor) -> Tensor:
    """The reward at the last token, or its rise with each token; the rises add up to it, less the empty prefix's: [n, t]."""
    last = torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1
    if potentials is None:
        return torch.where(last, rewards[:, None], 0.0)
    after = torch.where(last, rewards[:, None], potentials.roll(-1, 1))
    return torch.where(mask, after - potentials, 0.0)


def _masked(values: Tensor, counted: Tensor, mask: Tensor) -> Advantages:
    return Advantages(torch.where(counted[:, None] & mask, values, 0.0), counted)


def _present(given: _Given | None) -> _Given:
    assert given is not None, "whoever makes it asks what is read: a value head for ppo, `reads_greedy`, `reads_prefixes`"
    return given
