"""The policy gradient, as training computes it, against the exact gradient of the expected reward.

How the expectations are found stands in `helpers.exact`. The truth is J = sum_x sum_y p(y|x) r(x, y) / X.
"""

from __future__ import annotations

import pytest
import torch
from helpers.exact import LIMIT, SOURCES, Oracle, assert_exact, oracle_of
from torch import Tensor

from guerdon.objectives.advantage import RunningMean, constant, estimate, group_mean
from guerdon.objectives.divergence import kl_estimate, sequence_kl
from guerdon.objectives.policy_gradient import kl_loss, reinforce_loss


def of(baseline: str, **settings: object):
    return lambda rewards, kept, groups: estimate(baseline, rewards, kept, groups, **settings)


def earlier_mean() -> RunningMean:
    running = RunningMean()
    running.update(torch.tensor([0.4, 1.9, -0.3]), torch.ones(3, dtype=torch.bool))
    return running


def greedy_rewards(oracle: Oracle) -> Tensor:
    """The reward of the output that greedy search writes, found by steps."""
    found = []
    for source in range(2):
        state, tokens = oracle.policy.start(SOURCES.select(torch.tensor([source])))
        output: list[int] = []
        while len(output) < LIMIT and oracle.policy.end_id not in output:
            tokens = oracle.policy.step(state, tokens).argmax(-1)
            output.append(int(tokens))
        found.append(oracle.rewards[source, oracle.outputs.index(output)])
    return torch.stack(found)


def test_the_outputs_are_all_there_are(oracle):
    total = oracle.log_probabilities(oracle.policy).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-13, atol=0)
    assert any(oracle.policy.end_id not in output for output in oracle.outputs)


def test_steps_give_the_same_probabilities(oracle):
    sources, targets = oracle.pairs
    with torch.no_grad():
        state, tokens = oracle.policy.start(sources)
        total = torch.zeros(len(targets), dtype=torch.float64)
        for position in range(LIMIT):
            scores = oracle.policy.step(state, tokens).softmax(-1).log()
            tokens = torch.where(targets.mask[:, position], targets.ids[:, position], oracle.policy.end_id)
            total += torch.where(targets.mask[:, position], scores.gather(1, tokens[:, None])[:, 0], 0.0)
        wanted = oracle.log_probabilities(oracle.policy).flatten()
    torch.testing.assert_close(total, wanted, rtol=1e-12, atol=1e-12)


def test_without_a_baseline(oracle):
    rewards = oracle.rewards.flatten()
    assert_exact(oracle.expected_gradient(1, of("none"), rewards), oracle.exact_gradient(rewards))


def test_running_mean_of_earlier_batches(oracle):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, of("running_mean", running_mean=earlier_mean()), rewards)
    assert_exact(found, oracle.exact_gradient(rewards))


def test_self_critical(oracle):
    """ReMax is the same estimator."""
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, of("self_critical", greedy_rewards=greedy_rewards(oracle)), rewards)
    assert_exact(found, oracle.exact_gradient(rewards))


@pytest.mark.parametrize(("source", "samples"), [(0, 2), (1, 3)])
def test_leave_one_out(oracle, source, samples):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(samples, of("leave_one_out"), rewards, sources=(source,))
    assert_exact(found, oracle.exact_gradient(rewards, sources=(source,)))


@pytest.mark.parametrize("name", ["own", "t5"])
def test_leave_one_out_of_two_sources_in_one_batch(name):
    oracle = oracle_of(name, limit=2)
    rewards = oracle.rewards.flatten()
    assert_exact(oracle.expected_gradient(2, of("leave_one_out"), rewards), oracle.exact_gradient(rewards))


@pytest.mark.parametrize("samples", [2, 3])
def test_batch_mean_of_one_source_shrinks_by_a_known_factor(oracle, samples):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(samples, of("batch_mean"), rewards, sources=(1,))
    assert_exact(found, oracle.exact_gradient(rewards, sources=(1,)) * (samples - 1) / samples)


@pytest.mark.parametrize("samples", [2, 3])
def test_group_mean_shrinks_by_a_known_factor(oracle, samples):
    """Dr. GRPO."""
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(samples, group_mean, rewards, sources=(1,))
    assert_exact(found, oracle.exact_gradient(rewards, sources=(1,)) * (samples - 1) / samples)


@pytest.mark.parametrize("name", ["own", "t5"])
def test_group_mean_of_two_sources_shrinks_alike(name):
    """Where the batch's mean would not: the other source's reward is no part of the baseline."""
    oracle = oracle_of(name, limit=2)
    rewards = oracle.rewards.flatten()
    assert_exact(oracle.expected_gradient(2, group_mean, rewards), oracle.exact_gradient(rewards) / 2)
    assert (oracle.expected_gradient(2, of("batch_mean"), rewards) - oracle.exact_gradient(rewards) / 2).norm() > 1e-2


def test_kl_in_the_reward_ascends_the_penalised_objective(oracle):
    """The expectation of REINFORCE on r - beta * k1 is the gradient of E[r] - beta * KL(policy || anchor), exactly."""
    beta = 0.3
    evaluation = oracle.policy.evaluate(*oracle.pairs, oracle.anchor)
    penalty = sequence_kl(kl_estimate("k1", evaluation.log_prob, evaluation.anchor_log_prob), evaluation.mask)
    rewards = oracle.rewards.flatten() - beta * penalty
    log_p, log_q = oracle.log_probabilities(oracle.policy), oracle.log_probabilities(oracle.anchor).detach()
    objective = (log_p.exp() * (oracle.rewards - beta * (log_p - log_q))).sum() / 2
    wanted = oracle.gradient(objective)
    assert_exact(oracle.expected_gradient(1, of("none"), rewards), wanted)
    found = oracle.expected_gradient(2, of("leave_one_out"), rewards, sources=(0,))
    log_p = oracle.log_probabilities(oracle.policy)
    one_source = (log_p.exp() * (oracle.rewards - beta * (log_p - log_q)))[0].sum()
    assert_exact(found, oracle.gradient(one_source))


def test_kl_in_the_loss_is_the_exact_divergence_along_the_sampled_prefixes(oracle):
    """Its expected value is the KL of whole outputs (the chain rule of the divergence)."""
    evaluation = oracle.policy.evaluate(*oracle.pairs, oracle.anchor)
    log_p, log_q = oracle.log_probabilities(oracle.policy), oracle.log_probabilities(oracle.anchor)
    wanted = (log_p.exp() * (log_p - log_q)).sum() / 2
    assert wanted > 1e-2
    weighted = evaluation.kl * log_p.exp().view(-1, 1)
    assert kl_loss(weighted, evaluation.mask, 2).item() == pytest.approx(wanted.item(), rel=1e-11)


def test_the_constant_control_goes_nowhere_in_expectation(oracle):
    """Advantage +1 with fresh samples moves the policy by chance alone: sum_y p grad log p = 0."""
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, lambda rewards, kept, groups: constant(rewards, kept), rewards)
    assert found.norm() < 1e-12


@pytest.mark.parametrize("cut", [[6], [1, 5], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_any_cut_into_micro_batches_gives_the_same_gradient(oracle, cut):
    sources, targets = oracle.pairs
    rows = torch.tensor([0, 3, 5, oracle.size, oracle.size + 1, oracle.size + 6])  # three outputs of each source
    kept = torch.tensor([True, True, False, True, True, True])
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    advantages = estimate("leave_one_out", oracle.rewards.flatten()[rows], kept, groups)

    def gradient(parts: list[int]) -> Tensor:
        total = torch.zeros(())
        for part in torch.arange(len(rows)).split(parts):
            evaluation = oracle.policy.evaluate(sources.select(rows[part]), targets.select(rows[part]), oracle.anchor)
            loss = reinforce_loss(evaluation.log_prob, evaluation.mask, advantages.values[part], advantages.samples)
            loss = loss + 0.1 * kl_loss(evaluation.kl, evaluation.mask & advantages.counted[part, None], advantages.samples)
            total = total + oracle.gradient(loss)
        return total

    # The truth is a loop over single samples, whose loss is written out here.
    wanted = torch.zeros(())
    for sample, row in enumerate(rows.tolist()):
        if kept[sample]:
            one = torch.tensor([row])
            evaluation = oracle.policy.evaluate(sources.select(one), targets.select(one), oracle.anchor)
            value = -advantages.values[sample] * evaluation.log_prob.sum() + 0.1 * evaluation.kl.sum()
            wanted = wanted + oracle.gradient(value / 5)
    assert_exact(gradient(cut), wanted)
