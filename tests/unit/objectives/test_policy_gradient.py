"""The losses against loops in float64; the expectation of their gradients is checked in tests/oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import TrainingError
from guerdon.objectives.policy_gradient import kl_loss, reinforce_loss

LOG_PROB = torch.tensor([[-0.5, -1.0, -2.0], [-3.0, -0.25, 0.0], [-1.5, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
ADVANTAGES = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


def test_reinforce_by_hand():
    # -(2 * -3.5 + -1 * -3.25 + 0.5 * -1.5) / 4
    assert reinforce_loss(LOG_PROB, MASK, ADVANTAGES, 4).item() == pytest.approx(4.5 / 4, rel=1e-14)


def test_gradient_weighs_every_counted_token_with_its_samples_advantage():
    log_prob = LOG_PROB.clone().requires_grad_()
    advantages = ADVANTAGES.clone().requires_grad_()
    reinforce_loss(log_prob, MASK, advantages, 4).backward()
    assert torch.equal(log_prob.grad, -(ADVANTAGES[:, None] * MASK) / 4)
    assert advantages.grad is None


def test_kl_by_hand():
    kl = LOG_PROB.abs().requires_grad_()
    loss = kl_loss(kl, MASK, 3)
    assert loss.item() == pytest.approx((3.5 + 3.25 + 1.5) / 3, rel=1e-14)
    loss.backward()
    assert torch.equal(kl.grad, MASK / torch.tensor(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "loss", [lambda values, mask: reinforce_loss(values, mask, ADVANTAGES, 3), lambda v, m: kl_loss(v, m, 3)]
)
def test_what_does_not_count_is_not_read(loss):
    spoilt = LOG_PROB.masked_fill(~MASK, math.nan).requires_grad_()
    value = loss(spoilt, MASK)
    assert value.item() == loss(LOG_PROB, MASK).item()
    value.backward()
    assert (spoilt.grad[~MASK] == 0).all()


@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_any_cut_into_micro_batches_adds_up_to_the_same(part_of_row, seed):
    generator = torch.Generator().manual_seed(seed)
    log_prob = -torch.rand(8, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.randint(0, 6, (8, 1), generator=generator)
    advantages = torch.randn(8, generator=generator, dtype=torch.float64)
    parts = [
        torch.tensor([row for row, part in enumerate(part_of_row) if part == wanted], dtype=torch.int64) for wanted in range(4)
    ]
    cut = sum(reinforce_loss(log_prob[rows], mask[rows], advantages[rows], 8) for rows in parts)
    assert cut.item() == pytest.approx(reinforce_loss(log_prob, mask, advantages, 8).item(), abs=1e-14)


@pytest.mark.parametrize(
    "loss", [lambda n: reinforce_loss(LOG_PROB, MASK, ADVANTAGES, n), lambda n: kl_loss(LOG_PROB, MASK, n)]
)
def test_a_step_without_samples_is_refused(loss):
    with pytest.raises(TrainingError, match="no scored sample"):
        loss(0)
