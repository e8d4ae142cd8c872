"""Estimators that do not follow the gradient of the expected reward: the exact expectation of their own formula.

The formulas stand here a second time, in probabilities and plain numbers, and nothing of `guerdon.objectives` is part of them.
"""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from helpers.exact import Oracle, assert_exact, oracle_of
from torch import Tensor

from guerdon.objectives.advantage import group_scaled, leave_one_out
from guerdon.objectives.minimum_risk import distinct_rows, minimum_risk_loss
from guerdon.objectives.policy_gradient import clipped_loss, reinforce_loss

LOW, HIGH = 0.2, 0.35


def scaled(rewards: list[float]) -> list[float]:
    """GRPO's advantages of one group."""
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    return [(reward - statistics.fmean(rewards)) / statistics.stdev(rewards) for reward in rewards]


def first_update(log_prob: Tensor, mask: Tensor, advantages: Tensor, samples: int, average_tokens: bool = False) -> Tensor:
    """The clipped loss where the policy is still the one that drew the samples."""
    loss, clipped = clipped_loss(log_prob, log_prob.detach(), mask, advantages, samples, LOW, HIGH, average_tokens)
    assert clipped.item() == 0
    return loss


@pytest.mark.parametrize(("samples", "average_tokens"), [(2, True), (3, False)])
def test_group_scaled(oracle, samples, average_tokens):
    """GRPO's first update, with the mean over each output's tokens and with their sum."""
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(
        samples, group_scaled, rewards, sources=(1,), loss=lambda *given: first_update(*given, average_tokens)
    )
    log_p = oracle.log_probabilities(oracle.policy)[1]
    chances, values = log_p.exp().tolist(), oracle.rewards[1].tolist()
    weights = [0.0] * oracle.size
    for choice in itertools.product(range(oracle.size), repeat=samples):
        chance = math.prod(chances[y] for y in choice)
        for y, advantage in zip(choice, scaled([values[y] for y in choice]), strict=True):
            weights[y] += chance * advantage / (samples * (len(oracle.outputs[y]) if average_tokens else 1))
    wanted = oracle.gradient((torch.tensor(weights, dtype=torch.float64) * log_p).sum())
    assert_exact(found, wanted)
    true = oracle.exact_gradient(rewards, sources=(1,))
    assert torch.cosine_similarity(found, true, dim=0) < 0.9999  # another direction, not only another length


@pytest.mark.parametrize("per_token", [False, True])
def test_the_first_update_of_the_clipped_loss_is_reinforce_bit_by_bit(oracle, per_token):
    each = torch.randn(2 * oracle.size, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    advantages = each if per_token else oracle.rewards.flatten()

    def gradient(loss) -> Tensor:
        evaluation = oracle.policy.evaluate(*oracle.pairs)
        return oracle.gradient(loss(evaluation.log_prob, evaluation.mask, advantages, 7))

    assert torch.equal(gradient(first_update), gradient(reinforce_loss))


def by_hand(ratio: Tensor, advantage: float) -> Tensor:
    """The clipped surrogate of one token, by the sign of its advantage."""
    bound = 1 + HIGH if advantage > 0 else 1 - LOW
    beyond = ratio > bound if advantage > 0 else ratio < bound
    return torch.tensor(bound * advantage, dtype=torch.float64) if beyond else ratio * advantage


def surrogate(oracle: Oracle, advantages: list[list[float]], average_tokens: bool) -> Tensor:
    """sum_x sum_y p_old(y|x) sum_t of `by_hand`, of all sources' outputs."""
    total = torch.zeros((), dtype=torch.float64)
    new, old = oracle.token_probabilities(oracle.policy), oracle.token_probabilities(oracle.anchor)
    for now, before, row in zip(new, old, advantages, strict=True):
        drawn = torch.stack(before).prod().item()
        terms = [by_hand(p / q.item(), a) for p, q, a in zip(now, before, row, strict=False)]
        total = total + drawn * torch.stack(terms).sum() / (len(terms) if average_tokens else 1)
    return total


@pytest.mark.parametrize("average_tokens", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_clipped_away_from_the_old_policy(oracle, per_token, average_tokens):
    """The samples are the anchor's here; advantages of both signs, clipped and not."""
    width = max(map(len, oracle.outputs))
    each = torch.randn(2 * oracle.size, width, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    each = each if per_token else oracle.rewards.view(-1, 1).expand(-1, width)
    new, old = oracle.policy.evaluate(*oracle.pairs), oracle.anchor.evaluate(*oracle.pairs)
    advantages = each if per_token else oracle.rewards.flatten()
    total, clipped = torch.zeros((), dtype=torch.float64), 0.0
    for row, chance in enumerate(old.log_prob.sum(1).exp().tolist()):
        one = slice(row, row + 1)
        loss, count = clipped_loss(
            new.log_prob[one], old.log_prob[one], new.mask[one], advantages[one], 2, LOW, HIGH, average_tokens
        )
        total, clipped = total + chance * loss, clipped + count.item()
    wanted = surrogate(oracle, each.tolist(), average_tokens) / 2
    assert 0 < clipped < new.mask.sum()
    assert -total.item() == pytest.approx(wanted.item(), rel=1e-11)
    assert_exact(oracle.gradient(-total), oracle.gradient(wanted))


def test_clipped_leave_one_out_away_from_the_old_policy():
    """Pairs of outputs of one source, drawn by the old policy: advantages depend on the other sample."""
    oracle = oracle_of("own", limit=2)
    new, old = oracle.policy.evaluate(*oracle.pairs), oracle.anchor.evaluate(*oracle.pairs)
    ones, total = torch.ones(2, dtype=torch.bool), torch.zeros((), dtype=torch.float64)
    now, before = oracle.token_probabilities(oracle.policy), oracle.token_probabilities(oracle.anchor)
    chances, wanted = old.log_prob.sum(1).exp().tolist(), torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(oracle.size), repeat=2):
        rows = torch.tensor(pair)
        advantages = leave_one_out(oracle.rewards[0][rows], ones, torch.zeros_like(rows)).values
        chance = chances[pair[0]] * chances[pair[1]]
        loss, _ = clipped_loss(new.log_prob[rows], old.log_prob[rows], new.mask[rows], advantages, 2, LOW, HIGH)
        total = total - chance * loss
        for y, other in (pair, pair[::-1]):
            gap = (oracle.rewards[0, y] - oracle.rewards[0, other]).item()
            ratios = [p / q.item() for p, q in zip(now[y], before[y], strict=True)]
            wanted = wanted + chance * torch.stack([by_hand(ratio, gap) for ratio in ratios]).sum() / 2
    assert_exact(oracle.gradient(total), oracle.gradient(wanted))


def quotients(probabilities: Tensor, alpha: float) -> Tensor:
    """Q of one set."""
    return probabilities**alpha / (probabilities**alpha).sum()


@pytest.mark.parametrize(("sources", "samples", "alpha"), [((0,), 3, 1.0), ((1,), 3, 0.05), ((0, 1), 2, 0.5)])
def test_minimum_risk(sources, samples, alpha):
    """Every tuple, duplicates included; those in which no source has two distinct outputs add nothing."""
    oracle = oracle_of("own", limit=2)
    evaluation = oracle.policy.evaluate(*oracle.pairs)
    targets, rewards = oracle.pairs[1], oracle.rewards.flatten()
    groups = torch.arange(len(sources)).repeat_interleave(samples)
    kept, first = torch.ones(len(groups), dtype=torch.bool), torch.tensor(sources)[groups] * oracle.size
    p = oracle.log_probabilities(oracle.policy).exp()
    found = wanted = torch.zeros((), dtype=torch.float64)
    for choice in itertools.product(range(oracle.size), repeat=len(groups)):
        sets = [sorted(set(choice[i * samples : (i + 1) * samples])) for i in range(len(sources))]
        used = [(source, outputs) for source, outputs in zip(sources, sets, strict=True) if len(outputs) > 1]
        if not used:
            continue
        rows = first + torch.tensor(choice)
        chance = p.detach().flatten()[rows].prod()
        distinct = distinct_rows(targets.ids[rows], targets.lengths[rows], kept, groups)
        log_prob, mask = evaluation.log_prob[rows], evaluation.mask[rows]
        loss = minimum_risk_loss(log_prob, mask, rewards[rows], distinct, groups, alpha, len(used))
        found = found - chance * loss
        for source, outputs in used:
            expected = (quotients(p[source, outputs], alpha) * oracle.rewards[source, outputs]).sum()
            wanted = wanted + chance * expected / len(used)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-11)
    assert_exact(oracle.gradient(found), oracle.gradient(wanted))


def test_minimum_risk_over_all_outputs_is_the_expected_reward(oracle):
    """The limit of the method: α = 1 and a set that holds everything. The true gradient, of both sources."""
    evaluation = oracle.policy.evaluate(*oracle.pairs)
    targets, groups = oracle.pairs[1], torch.arange(2).repeat_interleave(oracle.size)
    everyone = torch.ones(len(groups), dtype=torch.bool)
    distinct = distinct_rows(targets.ids, targets.lengths, everyone, groups)
    assert distinct.all()
    loss = minimum_risk_loss(evaluation.log_prob, evaluation.mask, oracle.rewards.flatten(), distinct, groups, 1.0, 2)
    assert_exact(-oracle.gradient(loss), oracle.exact_gradient(oracle.rewards.flatten()))
