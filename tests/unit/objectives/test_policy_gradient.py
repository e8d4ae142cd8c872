"""The losses against loops in float64; the expectation of their gradients is checked in tests/oracle."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import TrainingError
from guerdon.objectives.policy_gradient import clipped_loss, entropy_loss, kl_loss, reinforce_loss

LOG_PROB = torch.tensor([[-0.5, -1.0, -2.0], [-3.0, -0.25, 0.0], [-1.5, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
ADVANTAGES = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities [8, 5], lengths from 0 to 5, and advantages of both signs."""
    generator = torch.Generator().manual_seed(seed)
    log_prob = -torch.rand(8, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.randint(0, 6, (8, 1), generator=generator)
    return log_prob, mask, torch.randn(8, generator=generator, dtype=torch.float64)


def losses(
    advantages: torch.Tensor, samples: int, length: int
) -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Every loss as a function of its values [n, length] and their mask."""
    each = advantages[:, None] - torch.arange(length)
    old = -advantages[:, None].abs() / 3

    def clipped(values: torch.Tensor, mask: torch.Tensor, average_tokens: bool) -> torch.Tensor:
        return clipped_loss(values, old.expand_as(values), mask, advantages, samples, 0.2, 0.3, average_tokens)[0]

    return {
        "reinforce": lambda values, mask: reinforce_loss(values, mask, advantages, samples),
        "reinforce-tokens": lambda values, mask: reinforce_loss(values, mask, each, samples),
        "clipped": lambda values, mask: clipped(values, mask, False),
        "clipped-average": lambda values, mask: clipped(values, mask, True),
        "kl": lambda values, mask: kl_loss(values, mask, samples),
        "entropy": lambda values, mask: entropy_loss(values, mask, samples),
    }


NAMES = sorted(losses(ADVANTAGES, 1, 3))


def test_reinforce_by_hand():
    # -(2 * -3.5 + -1 * -3.25 + 0.5 * -1.5) / 4
    assert reinforce_loss(LOG_PROB, MASK, ADVANTAGES, 4).item() == pytest.approx(4.5 / 4, rel=1e-14)


def test_gradient_weighs_every_counted_token_with_its_samples_advantage():
    log_prob = LOG_PROB.clone().requires_grad_()
    advantages = ADVANTAGES.clone().requires_grad_()
    reinforce_loss(log_prob, MASK, advantages, 4).backward()
    assert torch.equal(log_prob.grad, -(ADVANTAGES[:, None] * MASK) / 4)
    assert advantages.grad is None


def test_reinforce_with_an_advantage_for_each_token():
    advantages = torch.tensor([[2.0, 0.0, -1.0], [4.0, 1.0, 9.0], [-2.0, 9.0, 9.0]], dtype=torch.float64).requires_grad_()
    log_prob = LOG_PROB.clone().requires_grad_()
    loss = reinforce_loss(log_prob, MASK, advantages, 2)
    # -(2 * -0.5 - 1 * -2 + 4 * -3 + 1 * -0.25 - 2 * -1.5) / 2
    assert loss.item() == pytest.approx(8.25 / 2, rel=1e-14)
    loss.backward()
    assert torch.equal(log_prob.grad, torch.where(MASK, -advantages.detach(), 0.0) / 2)
    assert advantages.grad is None


@given(st.integers(0, 1000))
def test_the_same_advantage_for_every_token_is_that_of_the_sample(seed):
    log_prob, mask, advantages = random_case(seed)
    each = advantages[:, None].expand(-1, 5)
    assert reinforce_loss(log_prob, mask, each, 3).item() == reinforce_loss(log_prob, mask, advantages, 3).item()
    one, other = (clipped_loss(log_prob, log_prob.flip(0), mask, a, 3, 0.2, 0.2) for a in (each, advantages))
    assert [x.item() for x in one] == [x.item() for x in other]


# Ratios 0.5, 0.9, 1, 1.1, 2 for an output that is liked and one that is not.
RATIOS = torch.tensor([[0.5, 0.9, 1.0, 1.1, 2.0]] * 2, dtype=torch.float64)
LIKED = torch.tensor([3.0, -2.0], dtype=torch.float64)


@pytest.mark.parametrize("average_tokens", [False, True])
def test_clipped_by_hand(average_tokens):
    log_prob = RATIOS.log().requires_grad_()
    old = torch.zeros_like(RATIOS).requires_grad_()
    mask, length = torch.ones(2, 5, dtype=torch.bool), 5 if average_tokens else 1
    loss, clipped = clipped_loss(log_prob, old, mask, LIKED, 4, low=0.2, high=0.3, average_tokens=average_tokens)
    # Liked: nothing below is clipped, 2 counts as 1.3. Not liked: 0.5 counts as 0.8, nothing above is clipped.
    wanted = 3 * (0.5 + 0.9 + 1 + 1.1 + 1.3) - 2 * (0.8 + 0.9 + 1 + 1.1 + 2)
    assert loss.item() == pytest.approx(-wanted / 4 / length, rel=1e-14)
    assert clipped.item() == 2
    assert not clipped.requires_grad
    loss.backward()
    slopes = [[1.5, 2.7, 3.0, 3.3, 0.0], [0.0, -1.8, -2.0, -2.2, -4.0]]
    torch.testing.assert_close(log_prob.grad, -torch.tensor(slopes, dtype=torch.float64) / 4 / length, rtol=1e-14, atol=0)
    assert old.grad is None


def test_averages_are_over_each_outputs_own_tokens():
    loss, _ = clipped_loss(LOG_PROB, LOG_PROB, MASK, ADVANTAGES, 1, 0.2, 0.2, average_tokens=True)
    assert loss.item() == pytest.approx(-ADVANTAGES.sum().item(), rel=1e-14)
    total, _ = clipped_loss(LOG_PROB, LOG_PROB, MASK, ADVANTAGES, 1, 0.2, 0.2)
    assert total.item() == pytest.approx(-(3 * 2.0 - 2 * 1.0 + 0.5), rel=1e-14)


@given(st.integers(0, 1000))
def test_no_bound_that_is_reached_is_importance_sampling(seed):
    log_prob, mask, advantages = random_case(seed)
    old = log_prob.flip(0)
    loss, clipped = clipped_loss(log_prob, old, mask, advantages, 2, low=1.0, high=1e9)
    wanted = math.fsum(
        advantages[row].item() * math.exp(log_prob[row, t].item() - old[row, t].item()) for row, t in mask.nonzero().tolist()
    )
    assert loss.item() == pytest.approx(-wanted / 2, rel=1e-12, abs=1e-12)
    assert clipped.item() == 0


@given(st.integers(0, 1000), st.floats(0, 0.9), st.floats(0, 3))
def test_clipping_never_promises_more(seed, low, high):
    """The surrogate is a lower bound of the unclipped one (Schulman et al. 2017, section 3)."""
    log_prob, mask, advantages = random_case(seed)
    plain, _ = clipped_loss(log_prob, log_prob.flip(0), mask, advantages, 2, 1.0, 1e9)
    bounded, clipped = clipped_loss(log_prob, log_prob.flip(0), mask, advantages, 2, low, high)
    assert bounded.item() >= plain.item() - 1e-12
    assert 0 <= clipped.item() <= mask.sum().item()


def test_an_output_without_tokens_adds_nothing():
    nothing = torch.zeros_like(MASK)
    loss, clipped = clipped_loss(LOG_PROB, LOG_PROB - 1, nothing, ADVANTAGES, 3, 0.2, 0.2, average_tokens=True)
    assert (loss.item(), clipped.item()) == (0.0, 0)


def test_an_advantage_that_is_not_finite_is_not_hidden():
    spoilt = torch.tensor([math.nan, -1.0, 0.5], dtype=torch.float64)
    assert math.isnan(reinforce_loss(LOG_PROB, MASK, spoilt, 3))
    assert math.isnan(clipped_loss(LOG_PROB, LOG_PROB, MASK, spoilt, 3, 0.2, 0.2)[0])


def test_entropy_by_hand():
    entropy = LOG_PROB.abs().requires_grad_()
    loss = entropy_loss(entropy, MASK, 3)
    assert loss.item() == pytest.approx(-(3.5 + 3.25 + 1.5) / 3, rel=1e-14)
    loss.backward()
    assert torch.equal(entropy.grad, -(MASK / torch.tensor(3, dtype=torch.float64)))


def test_kl_by_hand():
    kl = LOG_PROB.abs().requires_grad_()
    loss = kl_loss(kl, MASK, 3)
    assert loss.item() == pytest.approx((3.5 + 3.25 + 1.5) / 3, rel=1e-14)
    loss.backward()
    assert torch.equal(kl.grad, MASK / torch.tensor(3, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_count_is_not_read(name):
    loss = losses(ADVANTAGES, 3, 3)[name]
    spoilt = LOG_PROB.masked_fill(~MASK, math.nan).requires_grad_()
    value = loss(spoilt, MASK)
    assert value.item() == loss(LOG_PROB, MASK).item()
    value.backward()
    assert (spoilt.grad[~MASK] == 0).all()
    assert (spoilt.grad[MASK] != 0).any()


def test_what_does_not_count_is_not_read_in_the_other_arguments():
    each, old = (given.masked_fill(~MASK, math.nan) for given in (LOG_PROB + 3, LOG_PROB - 1))
    log_prob = LOG_PROB.clone().requires_grad_()
    loss, clipped = clipped_loss(log_prob, old, MASK, each, 3, 0.2, 0.2)
    wanted, count = clipped_loss(LOG_PROB, LOG_PROB - 1, MASK, LOG_PROB + 3, 3, 0.2, 0.2)
    assert (loss.item(), clipped.item()) == (wanted.item(), count.item())
    (loss + reinforce_loss(log_prob, MASK, each, 3)).backward()
    assert log_prob.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_any_cut_into_micro_batches_adds_up_to_the_same(name, part_of_row, seed):
    log_prob, mask, advantages = random_case(seed)
    parts = [
        torch.tensor([row for row, part in enumerate(part_of_row) if part == wanted], dtype=torch.int64) for wanted in range(4)
    ]
    cut = sum(losses(advantages[rows], 8, 5)[name](log_prob[rows], mask[rows]) for rows in parts)
    assert cut.item() == pytest.approx(losses(advantages, 8, 5)[name](log_prob, mask).item(), abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_without_samples_is_refused(name):
    with pytest.raises(TrainingError, match="no scored sample"):
        losses(ADVANTAGES, 0, 3)[name](LOG_PROB, MASK)
