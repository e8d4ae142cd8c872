"""The sampled divergence, whose mean under the policy is the exact one."""

import pytest
import torch

from guerdon.objectives.divergence import kl_sampled, sequence_kl


def test_its_mean_under_the_policy_is_the_exact_divergence():
    generator = torch.Generator().manual_seed(3)
    logits, anchor = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    log_p, log_q = logits.log_softmax(-1), anchor.log_softmax(-1)
    estimates = kl_sampled(log_p, log_q)
    mean = sum(p.item() * estimate.item() for p, estimate in zip(log_p.exp(), estimates, strict=True))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=anchor)
    )
    assert mean == pytest.approx(exact.item(), rel=1e-12)
    assert (estimates < 0).any()


def test_sums_the_positions_that_count_and_has_no_gradient():
    log_prob = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, float("nan"), 7.0]], requires_grad=True)
    anchor = torch.tensor([[-1.5, -1.0, -1.0], [-0.75, 3.0, float("inf")]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    total = sequence_kl(log_prob, anchor, mask)
    assert total.tolist() == [0.5 - 1.0 - 3.0, 0.25]
    assert not total.requires_grad
