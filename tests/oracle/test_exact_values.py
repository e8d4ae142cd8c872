"""Advantages of tokens: the reward still to come, less anything that the prefix determines, is unbiased.

This is what reward shaping by prefix and PPO with λ = 1 rely on. Rewards and values are arbitrary numbers for each prefix.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from helpers.exact import Oracle, assert_exact
from torch import Tensor

from guerdon.objectives.policy_gradient import clipped_loss, reinforce_loss
from guerdon.objectives.value import generalised_advantages, value_loss


def arbitrary(purpose: str, source: int, prefix: list[int]) -> float:
    """A number between -2 and 2 that only these determine."""
    digest = hashlib.sha256(repr((purpose, source, prefix)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 * 4 - 2


def table(oracle: Oracle, purpose: str, ahead: int) -> Tensor:
    """[X * Y, length]: a number for the prefix before each token (``ahead`` 0), or with the token (1); noise beyond the end."""
    width = max(map(len, oracle.outputs))
    rows = [(source, output) for source in range(2) for output in oracle.outputs]
    found = [[arbitrary(purpose, x, y[: t + ahead] if t < len(y) else [*y, -1, t]) for t in range(width)] for x, y in rows]
    return torch.tensor(found, dtype=torch.float64)


def totals(oracle: Oracle, per_token: Tensor) -> Tensor:
    """The reward of whole outputs, summed in plain numbers: [X * Y]."""
    lengths = [len(output) for output in oracle.outputs] * 2
    return torch.tensor([sum(row[:n]) for row, n in zip(per_token.tolist(), lengths, strict=True)], dtype=torch.float64)


def ascent(oracle: Oracle, advantages: Tensor, clipped: bool = False) -> Tensor:
    """The expectation over single samples, with advantages [X * Y, length]."""
    seen = oracle.policy.evaluate(*oracle.pairs)
    weighted = advantages * seen.log_prob.detach().sum(1, keepdim=True).exp()
    if clipped:
        return -oracle.gradient(clipped_loss(seen.log_prob, seen.log_prob.detach(), seen.mask, weighted, 2, 0.2, 0.2)[0])
    return -oracle.gradient(reinforce_loss(seen.log_prob, seen.mask, weighted, 2))


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """The sum of each token's own and later rewards."""
    counted = torch.where(mask, rewards, 0.0)
    return torch.stack([counted[:, t:].sum(1) for t in range(counted.shape[1])], dim=1)


def test_reward_to_go_less_any_function_of_the_prefix(oracle):
    rewards, mask = table(oracle, "reward", 1), oracle.pairs[1].mask
    wanted = oracle.exact_gradient(totals(oracle, rewards))
    assert_exact(ascent(oracle, to_go(rewards, mask) - table(oracle, "value", 0)), wanted)
    # What the token itself determines is no baseline.
    biased = ascent(oracle, to_go(rewards, mask) - table(oracle, "value", 1))
    assert (biased - wanted).norm() / wanted.norm() > 1e-2


@pytest.mark.parametrize("shaped", [False, True])
def test_the_first_update_of_ppo(oracle, shaped):
    """λ = 1, γ = 1: unbiased with values that have nothing to do with the reward; the reward at the end, or at every token."""
    mask = oracle.pairs[1].mask
    rewards = table(oracle, "reward", 1)
    if not shaped:
        last = torch.arange(mask.shape[1]) == oracle.pairs[1].lengths[:, None] - 1
        rewards = torch.where(last, oracle.rewards.view(-1, 1), 0.0)
    advantages, _ = generalised_advantages(rewards, table(oracle, "value", 0), mask, discount=1.0, trace=1.0)
    wanted = oracle.exact_gradient(totals(oracle, rewards))
    assert_exact(ascent(oracle, advantages, clipped=True), wanted)
    one_step, _ = generalised_advantages(rewards, table(oracle, "value", 0), mask, discount=1.0, trace=0.5)
    assert (ascent(oracle, one_step, clipped=True) - wanted).norm() / wanted.norm() > 1e-2


def test_shaping_by_differences_of_partial_rewards_keeps_the_objective(oracle):
    """φ(y_≤t) - φ(y_<t) sums to φ(y) less that of the empty prefix: the gradient is that of E[φ(y)]."""
    partial, before, mask = table(oracle, "partial", 1), table(oracle, "partial", 0), oracle.pairs[1].mask
    advantages, _ = generalised_advantages(partial - before, torch.zeros_like(partial), mask, discount=1.0, trace=1.0)
    whole = [arbitrary("partial", source, output) for source in range(2) for output in oracle.outputs]
    assert_exact(ascent(oracle, advantages), oracle.exact_gradient(torch.tensor(whole, dtype=torch.float64)))


def true_values(oracle: Oracle, rewards: Tensor) -> Tensor:
    """The expected reward still to come at each prefix, from the distributions of the next token: [X * Y, length]."""
    steps = oracle.next_of_prefixes(oracle.policy)
    earned = {}
    for row, (source, output) in enumerate((x, y) for x in range(2) for y in oracle.outputs):
        for position in range(len(output)):
            earned[source, tuple(output[: position + 1])] = rewards[row, position].item()

    def value(source: int, prefix: tuple[int, ...]) -> float:
        nexts = steps.get((source, prefix), {})
        return sum(p.item() * (earned[source, (*prefix, v)] + value(source, (*prefix, v))) for v, p in nexts.items())

    rows = [[value(x, tuple(y[:t])) for t in range(len(y))] for x in range(2) for y in oracle.outputs]
    return torch.tensor([[*row, *[0.0] * (rewards.shape[1] - len(row))] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("trace", [0.0, 0.7])
def test_with_true_values_every_trace_is_unbiased(oracle, trace):
    rewards, mask = table(oracle, "reward", 1), oracle.pairs[1].mask
    advantages, _ = generalised_advantages(rewards, true_values(oracle, rewards), mask, discount=1.0, trace=trace)
    assert_exact(ascent(oracle, advantages), oracle.exact_gradient(totals(oracle, rewards)))


def test_the_value_loss_is_least_at_the_true_values(oracle):
    """Its expected gradient vanishes there, when returns are those of λ = 1."""
    rewards, mask = table(oracle, "reward", 1), oracle.pairs[1].mask
    chances = oracle.log_probabilities(oracle.policy).exp().detach().view(-1).tolist()
    keys = [(x, *y[:t]) for x in range(2) for y in oracle.outputs for t in range(len(y))]
    truth = true_values(oracle, rewards)
    slope: dict[tuple[int, ...], float] = dict.fromkeys(keys, 0.0)
    size = 0.0
    _, returns = generalised_advantages(rewards, table(oracle, "value", 0), mask, discount=1.0, trace=1.0)
    for row, chance in enumerate(chances):
        one = slice(row, row + 1)
        values = truth[one].clone().requires_grad_()
        (pull,) = torch.autograd.grad(value_loss(values, truth[one], returns[one], mask[one], 1, None), values)
        source, output = divmod(row, oracle.size)
        for position in range(len(oracle.outputs[output])):
            slope[source, *oracle.outputs[output][:position]] += chance * pull[0, position].item()
            size += chance * abs(pull[0, position].item())
    assert size > 1e-2
    assert max(map(abs, slope.values())) < 1e-12
