"""Each estimate of the divergence: its expected value, and its expected gradient in the loss and in the reward.

The truth is KL(policy || anchor) of whole outputs, sum_x sum_y p log(p / q) / X. What an estimate gives in its place, where it
gives something else, is the claim of `docs/divergence.md`: written out here from next-token distributions, prefix by prefix.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.exact import Oracle, assert_exact
from torch import Tensor

from guerdon.objectives.advantage import no_baseline
from guerdon.objectives.divergence import KlEstimator, kl_estimate, sequence_kl
from guerdon.objectives.policy_gradient import kl_loss

Step = Callable[[Tensor, Tensor], Tensor]
"""p, q of one token -> a summand."""


def forward(p: Tensor, q: Tensor) -> Tensor:
    """Of KL(policy || anchor)."""
    return p * (p / q).log()


def backward(p: Tensor, q: Tensor) -> Tensor:
    """Of KL(anchor || policy)."""
    return q * (q / p).log()


def half_square(p: Tensor, q: Tensor) -> Tensor:
    """Of the mean of k2."""
    return p * (p / q).log() ** 2 / 2


def along(oracle: Oracle, summand: Step, reached: bool) -> Tensor:
    """sum over prefixes of p(prefix) sum over tokens of ``summand``, / X; the gradient sees p(prefix) where ``reached``."""
    policy, anchor = oracle.next_of_prefixes(oracle.policy), oracle.next_of_prefixes(oracle.anchor)
    total = torch.zeros((), dtype=torch.float64)
    for (source, prefix), step in policy.items():
        reach = torch.ones((), dtype=torch.float64)
        for position, token in enumerate(prefix):
            reach = reach * policy[source, prefix[:position]][token]
        here = torch.stack([summand(p, anchor[source, prefix][token].detach()) for token, p in step.items()]).sum()
        total = total + (reach if reached else reach.detach()) * here
    return total / 2


def of_outputs(oracle: Oracle, summand: Step) -> Tensor:
    """The same of whole outputs."""
    p, q = oracle.log_probabilities(oracle.policy).exp(), oracle.log_probabilities(oracle.anchor).exp().detach()
    return summand(p, q).sum() / 2


def true_gradient(oracle: Oracle) -> Tensor:
    return oracle.gradient(of_outputs(oracle, forward))


def estimates(oracle: Oracle, kind: KlEstimator, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of every source with every output: the estimate per token or of the whole output, its mask, and p(y | x)."""
    seen = oracle.policy.evaluate(*oracle.pairs, oracle.anchor)
    chances = seen.log_prob.detach().sum(1, keepdim=True).exp()
    if whole:
        policy, anchor = seen.log_prob.sum(1, keepdim=True), seen.anchor_log_prob.sum(1, keepdim=True)
        return kl_estimate(kind, policy, anchor), torch.ones_like(chances, dtype=torch.bool), chances
    return kl_estimate(kind, seen.log_prob, seen.anchor_log_prob, seen.kl), seen.mask, chances


def in_the_loss(oracle: Oracle, kind: KlEstimator, whole: bool = False) -> Tensor:
    """The expected gradient of `kl_loss` over single samples."""
    estimate, mask, chances = estimates(oracle, kind, whole)
    return oracle.gradient(kl_loss(estimate * chances, mask, 2))


def in_the_reward(oracle: Oracle, kind: KlEstimator, whole: bool = False) -> Tensor:
    """What REINFORCE descends in expectation when the estimate is taken off the reward."""
    estimate, mask, _ = estimates(oracle, kind, whole)
    return -oracle.expected_gradient(1, lambda rewards, kept, groups: no_baseline(rewards, kept), -sequence_kl(estimate, mask))


def assert_differs(found: Tensor, wanted: Tensor) -> None:
    assert wanted.norm() > 1e-2
    assert ((found - wanted).norm() / wanted.norm()).item() > 1e-2


# --- values


@pytest.mark.parametrize(("kind", "whole"), [("k1", False), ("k1", True), ("k3", False), ("k3", True), ("exact", False)])
def test_unbiased_values(oracle, kind, whole):
    estimate, mask, chances = estimates(oracle, kind, whole)
    wanted = of_outputs(oracle, forward).item()
    assert wanted > 1e-2
    assert kl_loss(estimate * chances, mask, 2).item() == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("whole", [False, True])
def test_the_value_of_k2_is_half_the_mean_square_of_the_log_ratio(oracle, whole):
    estimate, mask, chances = estimates(oracle, "k2", whole)
    found = kl_loss(estimate * chances, mask, 2).item()
    wanted = of_outputs(oracle, half_square) if whole else along(oracle, half_square, reached=True)
    assert found == pytest.approx(wanted.item(), rel=1e-11)
    assert abs(found / of_outputs(oracle, forward).item() - 1) > 1e-2


@pytest.mark.parametrize("kind", ["k2", "k3", "exact"])
def test_never_negative(oracle, kind):
    estimate, mask, _ = estimates(oracle, kind, whole=False)
    assert (estimate[mask] >= 0).all()


def test_k1_is_negative_for_some(oracle):
    estimate, mask, _ = estimates(oracle, "k1", whole=False)
    assert (estimate[mask] < 0).any()


# --- gradients: the exact ones


def test_the_chain_rule(oracle):
    """The divergence of outputs is the sum of the next tokens' over the prefixes that the policy reaches."""
    assert_exact(oracle.gradient(along(oracle, forward, reached=True)), true_gradient(oracle))


@pytest.mark.parametrize("whole", [False, True])
def test_k1_in_the_reward_is_exact(oracle, whole):
    assert_exact(in_the_reward(oracle, "k1", whole), true_gradient(oracle))


def test_k2_of_whole_outputs_in_the_loss_is_exact(oracle):
    assert_exact(in_the_loss(oracle, "k2", whole=True), true_gradient(oracle))


def test_the_exact_divergence_in_both_places_is_exact(oracle):
    """One half of the product rule each."""
    assert_exact(in_the_reward(oracle, "exact") + in_the_loss(oracle, "exact"), true_gradient(oracle))


# --- gradients: the biased ones, and what they are


@pytest.mark.parametrize("whole", [False, True])
def test_k1_in_the_loss_is_nothing(oracle, whole):
    assert true_gradient(oracle).norm() > 1e-2
    assert in_the_loss(oracle, "k1", whole).norm() < 1e-12


@pytest.mark.parametrize("kind", ["k2", "exact"])
def test_in_the_loss_per_token_the_prefixes_are_taken_as_given(oracle, kind):
    found = in_the_loss(oracle, kind)
    assert_exact(found, oracle.gradient(along(oracle, forward, reached=False)))
    assert_differs(found, true_gradient(oracle))


def test_k3_in_the_loss_is_the_other_divergence_at_the_sampled_prefixes(oracle):
    found = in_the_loss(oracle, "k3")
    assert_exact(found, oracle.gradient(along(oracle, backward, reached=False)))
    assert_differs(found, true_gradient(oracle))
    assert_differs(found, oracle.gradient(of_outputs(oracle, backward)))


def test_k3_of_whole_outputs_in_the_loss_is_the_other_divergence(oracle):
    found = in_the_loss(oracle, "k3", whole=True)
    assert_exact(found, oracle.gradient(of_outputs(oracle, backward)))
    assert_differs(found, true_gradient(oracle))


def test_the_exact_divergence_in_the_reward_sees_only_which_prefixes_are_reached(oracle):
    found = in_the_reward(oracle, "exact")
    assert_exact(found, true_gradient(oracle) - oracle.gradient(along(oracle, forward, reached=False)))
    assert_differs(found, true_gradient(oracle))


@pytest.mark.parametrize("whole", [False, True])
def test_k2_in_the_reward(oracle, whole):
    """The gradient of its own mean, less that of the divergence (per token: with the prefixes as given)."""
    mean = of_outputs(oracle, half_square) if whole else along(oracle, half_square, reached=True)
    less = of_outputs(oracle, forward) if whole else along(oracle, forward, reached=False)
    found = in_the_reward(oracle, "k2", whole)
    assert_exact(found, oracle.gradient(mean - less))
    assert_differs(found, true_gradient(oracle))


@pytest.mark.parametrize("whole", [False, True])
def test_k3_in_the_reward(oracle, whole):
    """The true gradient, less that of the other divergence (per token: with the prefixes as given)."""
    less = of_outputs(oracle, backward) if whole else along(oracle, backward, reached=False)
    found = in_the_reward(oracle, "k3", whole)
    assert_exact(found, true_gradient(oracle) - oracle.gradient(less))
    assert_differs(found, true_gradient(oracle))


# --- near the anchor


def near(distance: float) -> Oracle:
    """An oracle whose anchor is the policy itself, moved a little."""
    oracle = Oracle("own", limit=2)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for anchored, own in zip(oracle.anchor.parameters(), oracle.policy.parameters(), strict=True):
            anchored.copy_(own + distance * torch.randn(own.shape, generator=generator, dtype=torch.float64))
    return oracle


@pytest.mark.parametrize("kind", ["k2", "k3", "exact"])
def test_in_the_reward_only_k1_pulls_on_a_policy_near_its_anchor(kind):
    """What the others pull with is of second order in the distance, the true gradient of first."""
    shares = []
    for oracle in map(near, (0.02, 0.01, 0.005)):
        shares.append((in_the_reward(oracle, kind).norm() / true_gradient(oracle).norm()).item())
    assert shares[0] < 0.2
    assert shares[1] / shares[0] == pytest.approx(0.5, abs=0.1)
    assert shares[2] / shares[1] == pytest.approx(0.5, abs=0.1)
