"""What learning from an earlier policy's outputs expects, by enumeration: of every output of the policy that drew.

The claim of `guerdon.training.ahead`: with ratios of tokens that are not clipped, the expected step is the gradient of
Σ_t E[r(y)], where an output's tokens are the earlier policy's but for the t-th, which is the present one's. It is written out
here in products of probabilities, one token exchanged at a time; nothing of `guerdon.objectives` is part of it.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.exact import Oracle, assert_exact, oracle_of
from torch import Tensor

from guerdon.objectives.advantage import leave_one_out
from guerdon.objectives.policy_gradient import clipped_loss

LOW, HIGH = 1.0, 1e9  # of a clip that never acts


def exchanged(oracle: Oracle, source: int) -> Tensor:
    """Σ_t Σ_y r(y) p(y), where token t of y is the present policy's and the others are the anchor's, which drew."""
    first = source * oracle.size
    total = torch.zeros((), dtype=torch.float64)
    new, old = oracle.token_probabilities(oracle.policy), oracle.token_probabilities(oracle.anchor)
    for row in range(first, first + oracle.size):
        reward, before = oracle.rewards.flatten()[row].item(), [p.item() for p in old[row]]
        for t, probability in enumerate(new[row]):
            others = torch.tensor(before[:t] + before[t + 1 :], dtype=torch.float64).prod()
            total = total + reward * others * probability
    return total


def expected_step(oracle: Oracle, source: int) -> Tensor:
    """The mean of the ascent direction over outputs of the anchor, one sample and no baseline."""
    rows = torch.arange(source * oracle.size, (source + 1) * oracle.size)
    new, old = oracle.policy.evaluate(*oracle.pairs), oracle.anchor.evaluate(*oracle.pairs)
    chances = old.log_prob[rows].sum(1).exp().detach()
    weighted = chances * oracle.rewards.flatten()[rows]
    loss, clipped = clipped_loss(new.log_prob[rows], old.log_prob[rows], new.mask[rows], weighted, 1, LOW, HIGH)
    assert clipped.item() == 0
    return oracle.gradient(-loss)


@pytest.mark.parametrize("source", [0, 1])
def test_the_expected_step_exchanges_one_token_at_a_time(oracle: Oracle, source: int) -> None:
    found = expected_step(oracle, source)
    assert_exact(found, oracle.gradient(exchanged(oracle, source)))
    true = oracle.exact_gradient(oracle.rewards.flatten(), sources=(source,))
    assert ((found - true).norm() / true.norm()).item() > 1e-3  # it is not the gradient of the expected reward


def test_of_one_token_it_is_the_gradient_of_the_expected_reward() -> None:
    oracle = oracle_of("own", limit=1)
    true = oracle.exact_gradient(oracle.rewards.flatten(), sources=(0,))
    assert_exact(expected_step(oracle, 0), true)


def test_leave_one_out_changes_nothing_in_expectation() -> None:
    """Pairs of the earlier policy's outputs: what the other one earned is no part of the expectation."""
    oracle = oracle_of("own", limit=2)
    new, old = oracle.policy.evaluate(*oracle.pairs), oracle.anchor.evaluate(*oracle.pairs)
    chances, ones = old.log_prob.sum(1).exp().tolist(), torch.ones(2, dtype=torch.bool)
    total = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(oracle.size), repeat=2):
        rows = torch.tensor(pair)
        advantages = leave_one_out(oracle.rewards[0][rows], ones, torch.zeros_like(rows)).values
        loss, _ = clipped_loss(new.log_prob[rows], old.log_prob[rows], new.mask[rows], advantages, 2, LOW, HIGH)
        total = total - chances[pair[0]] * chances[pair[1]] * loss
    assert_exact(oracle.gradient(total), oracle.gradient(exchanged(oracle, 0)))


def test_without_the_ratio_the_expectation_is_another(oracle: Oracle) -> None:
    """What `overlap` would do uncorrected."""
    rows = torch.arange(oracle.size)
    new, old = oracle.policy.evaluate(*oracle.pairs), oracle.anchor.evaluate(*oracle.pairs)
    chances = old.log_prob[rows].sum(1).exp().detach()
    surrogate = ((chances * oracle.rewards[0])[:, None] * new.log_prob[rows] * new.mask[rows]).sum()
    found, wanted = oracle.gradient(surrogate), oracle.gradient(exchanged(oracle, 0))
    assert ((found - wanted).norm() / wanted.norm()).item() > 1e-2
