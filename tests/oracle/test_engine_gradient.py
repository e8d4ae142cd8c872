"""Outputs that another model drew: the exact expectation of training's own loss is that of outputs that the policy drew.

The model that draws, q, is `Oracle`'s anchor, whose weights are quite other ones than the policy's. The truth is a sum over all
outputs in probabilities that `helpers.exact` multiplies out.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from helpers.exact import SOURCES, Oracle, assert_exact
from torch import Tensor

from guerdon.decoding import Samples
from guerdon.objectives.advantage import Advantages, group_mean, leave_one_out, no_baseline
from guerdon.objectives.importance import importance
from guerdon.objectives.policy_gradient import reinforce_loss
from guerdon.training.engines import EngineOptions
from guerdon.training.holding import KlOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Rollout
from guerdon.training.signals import Targets
from guerdon.training.tally import Tally
from guerdon.training.updating import Updating

ENGINE = EngineOptions("ctranslate2", "int8")
BETA, BONUS = 0.3, 0.2


def logs(oracle: Oracle) -> tuple[Tensor, Tensor]:
    """log p and log q of every source's every output, [X * Y]."""
    return tuple(oracle.log_probabilities(policy).detach().flatten() for policy in (oracle.policy, oracle.anchor))


def weights_of(oracle: Oracle, cap: float) -> Tensor:
    log_p, log_q = logs(oracle)
    return importance(log_p, log_q, cap).weights


def ascent(oracle: Oracle, each: Tensor) -> Tensor:
    """What training ascends for outputs that weigh so much, [X * Y], of two scored samples."""
    evaluation = oracle.policy.evaluate(*oracle.pairs)
    return oracle.gradient(-reinforce_loss(evaluation.log_prob, evaluation.mask, each, 2))


def test_q_is_another_model(oracle: Oracle) -> None:
    log_p, log_q = logs(oracle)
    assert (log_p - log_q).abs().max() > 0.5
    assert importance(log_p, log_q).effective < 0.9


@pytest.mark.parametrize("cap", [math.inf, 1.1])
def test_one_sample_of_a_source(oracle: Oracle, cap: float) -> None:
    """E_q[w r grad log p] = E_p[r grad log p]; under a cap it is that of min(p, cap q)."""
    log_p, log_q = logs(oracle)
    rewards = oracle.rewards.flatten()
    kept = torch.ones(len(rewards), dtype=torch.bool)
    targets = Targets(no_baseline(rewards, kept), rewards).weighed(weights_of(oracle, cap))
    found = ascent(oracle, log_q.exp() * targets.advantages.values)
    if cap == math.inf:
        assert_exact(found, oracle.exact_gradient(rewards))
        assert (ascent(oracle, log_q.exp() * rewards) - found).norm() / found.norm() > 0.05
        return
    least = torch.minimum(log_p.exp(), cap * log_q.exp())
    assert (least < log_p.exp()).any()
    assert_exact(found, oracle.gradient((least * rewards * oracle.log_probabilities(oracle.policy).flatten()).sum() / 2))


@pytest.mark.parametrize(("baseline", "factor"), [(leave_one_out, 1.0), (group_mean, 0.5)])
def test_two_samples_and_a_baseline_that_is_computed_without_weights(oracle: Oracle, baseline, factor: float) -> None:
    """Every pair of outputs of one source, with the chance that q draws it."""
    log_p, log_q = (part.view(2, -1)[0] for part in logs(oracle))
    rewards, kept, groups = oracle.rewards[0], torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    each = torch.zeros(oracle.size, dtype=torch.float64)
    for pair in itertools.product(range(oracle.size), repeat=2):
        rows = torch.tensor(pair)
        counted = importance(log_p[rows], log_q[rows]).weights
        targets = Targets(baseline(rewards[rows], kept, groups), rewards[rows]).weighed(counted)
        each.index_add_(0, rows, log_q[rows].exp().prod() * targets.advantages.values)
    found = ascent(oracle, torch.cat([each, torch.zeros(oracle.size, dtype=torch.float64)]))
    assert_exact(found, factor * oracle.exact_gradient(oracle.rewards.flatten(), sources=(0,)))


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("estimator", ["reinforce", "grpo"])
def test_the_loss_with_divergence_and_entropy(oracle: Oracle, estimator: str, by_token: bool) -> None:
    """All terms of an update's loss: outputs of q with weights have the gradient that outputs of p have without."""
    log_p, log_q = logs(oracle)
    mask = oracle.pairs[1].mask
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * mask
    values = values if by_token else oracle.rewards.flatten()
    kept = torch.ones(len(mask), dtype=torch.bool)
    plain = Targets(Advantages(values, kept), oracle.rewards.flatten())
    drawn_by_p = gradient_of_update(oracle, plain, log_p.exp(), estimator)
    drawn_by_q = gradient_of_update(oracle, plain.weighed(weights_of(oracle, math.inf)), log_q.exp(), estimator)
    assert_exact(drawn_by_q, drawn_by_p)
    assert (gradient_of_update(oracle, plain, log_q.exp(), estimator) - drawn_by_p).norm() / drawn_by_p.norm() > 0.05


def gradient_of_update(oracle: Oracle, targets: Targets, chances: Tensor, estimator: str) -> Tensor:
    """The mean of the gradients of single outputs' losses, each with its chance: every output is a rollout of its own."""
    config = ReinforceConfig(
        estimator=estimator, baseline="none" if estimator == "reinforce" else None, kl=KlOptions(BETA, "loss"),
        samples_per_source=2, rollout_engine=ENGINE,
    )  # fmt: skip
    updating = Updating(config, oracle.policy, oracle.anchor)
    total = torch.zeros((), dtype=torch.float64)
    for row, chance in enumerate(chances.tolist()):
        one = torch.tensor([row])
        sources, tokens = SOURCES.select(one // oracle.size), oracle.pairs[1].select(one)
        samples = Samples(tokens, torch.tensor([True]), torch.zeros(tokens.ids.shape, dtype=torch.float64))
        rollout = Rollout(sources, [0], torch.zeros(1, dtype=torch.long), samples, [""])
        advantages = Advantages(targets.advantages.values[one], targets.advantages.counted[one])
        weights = None if targets.weights is None else targets.weights[one]
        own = dataclasses.replace(targets, advantages=advantages, rewards=targets.rewards[one], weights=weights)
        seen = updating.scan(rollout)
        for part in rollout.micro_batches(1000):
            total = total + chance * updating.loss(part, own, seen, Tally(samples, 1), True, BETA, BONUS)
    return oracle.gradient(total)
