"""Generalised advantages against the double sum of their definition, and the value loss by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import TrainingError
from guerdon.objectives.value import generalised_advantages, value_loss

REWARDS = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.5, 1.0, -1.0], [2.0, 1.5, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def random_case(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rewards, values = torch.randn(2, len(lengths), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rewards, values, torch.arange(5) < torch.tensor(lengths)[:, None]


cases = st.builds(random_case, st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 1000))


def test_advantages_by_hand():
    # Errors: 1 + 0.5 * 1 - 0.5, 0 - 0.5 * 1 - 1, 2 + 1; 0 + 0.5 * 1.5 - 2, 3 - 1.5. Each later one counts 0.5 * 0.5 as much.
    advantages, returns = generalised_advantages(REWARDS, VALUES, MASK, discount=0.5, trace=0.5)
    assert advantages[0].tolist() == [1.0 + (-1.5 + 3.0 / 4) / 4, -1.5 + 3.0 / 4, 3.0]
    assert advantages[1].tolist() == [-1.25 + 1.5 / 4, 1.5, 0.0]
    assert torch.equal(returns, torch.where(MASK, advantages + VALUES, 0.0))


@given(cases, st.floats(0, 1), st.floats(0, 1))
def test_advantages_equal_the_double_sum(case, discount, trace):
    """A_t = (1 - λ) (A¹ + λ A² + λ² A³ ...) with A^k the k-step advantage: eq. 16 before it is rearranged."""
    rewards, values, mask = case
    found, _ = generalised_advantages(rewards, values, mask, discount, trace)
    for row, length in enumerate(mask.sum(1).tolist()):
        reward, value = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        for start in range(length):
            steps = range(1, length - start + 1)
            each = [
                math.fsum(discount**j * reward[start + j] for j in range(k)) + discount**k * value[start + k] - value[start]
                for k in steps
            ]
            # Beyond the end every longer advantage equals the last: the tail of the geometric series.
            weights = [(1 - trace) * trace ** (k - 1) for k in steps]
            weights[-1] = trace ** (len(steps) - 1)
            wanted = math.fsum(w * a for w, a in zip(weights, each, strict=True))
            assert found[row, start].item() == pytest.approx(wanted, abs=1e-10)
        assert (found[row, length:] == 0).all()


@given(cases)
def test_the_two_ends_of_the_trace(case):
    rewards, values, mask = case
    _, returns = generalised_advantages(rewards, values, mask, discount=1.0, trace=1.0)
    one_step, _ = generalised_advantages(rewards, values, mask, discount=1.0, trace=0.0)
    for row, length in enumerate(mask.sum(1).tolist()):
        for t in range(length):
            assert returns[row, t].item() == pytest.approx(math.fsum(rewards[row, t:length].tolist()), abs=1e-12)
            ahead = values[row, t + 1].item() if t + 1 < length else 0.0
            assert one_step[row, t].item() == pytest.approx(rewards[row, t].item() + ahead - values[row, t].item(), abs=1e-12)


@given(cases, st.permutations(range(4)))
def test_rows_do_not_see_each_other(case, order):
    rewards, values, mask = case
    rows = torch.tensor([row for row in order if row < len(mask)])
    whole = generalised_advantages(rewards, values, mask, 0.9, 0.8)
    moved = generalised_advantages(rewards[rows], values[rows], mask[rows], 0.9, 0.8)
    assert all(torch.equal(one[rows], other) for one, other in zip(whole, moved, strict=True))


def test_advantages_read_nothing_that_does_not_count_and_change_no_argument():
    rewards, values = (given.masked_fill(~MASK, math.nan).requires_grad_() for given in (REWARDS, VALUES))
    kept = rewards.detach().clone(), values.detach().clone()
    found = generalised_advantages(rewards, values, MASK, 0.5, 0.5)
    for one, other in zip(found, generalised_advantages(REWARDS, VALUES, MASK, 0.5, 0.5), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip((rewards, values), kept, strict=True))


def test_no_token_at_all():
    nothing = torch.zeros(2, 0, dtype=torch.float64)
    advantages, returns = generalised_advantages(nothing, nothing, nothing.bool(), 1.0, 1.0)
    assert advantages.shape == returns.shape == (2, 0)


# --- the loss

OLD = torch.tensor([[0.4, 1.0, 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
RETURNS = torch.tensor([[1.0, 1.0, -3.0], [0.0, 2.0, 0.0]], dtype=torch.float64)


def test_value_loss_by_hand():
    values = VALUES.clone().requires_grad_()
    loss = value_loss(values, OLD, RETURNS, MASK, 4, clip=None)
    assert loss.item() == pytest.approx((0.25 + 0 + 4 + 4 + 0.25) / 2 / 4, rel=1e-14)
    loss.backward()
    assert torch.equal(values.grad, torch.where(MASK, VALUES - RETURNS, 0.0) / 4)


@pytest.mark.parametrize(
    ("value", "old", "wanted", "clip", "error", "slope"),
    [
        (1.0, 0.9, 3.0, 0.25, -2.0, True),  # within the bounds: plain
        (1.5, 1.0, 3.0, 0.25, -1.75, False),  # has left them towards the return: the bound's larger error, no pull
        (0.5, 1.0, -3.0, 0.25, 3.75, False),  # downwards likewise
        (0.5, 1.0, 3.0, 0.25, -2.5, True),  # has left them away from the return: pulled back
        (1.5, 1.0, -3.0, 0.25, 4.5, True),
    ],
)
def test_the_clipped_value_loss_case_by_case(value, old, wanted, clip, error, slope):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    others = [torch.tensor([[number]], dtype=torch.float64, requires_grad=True) for number in (old, wanted)]
    loss = value_loss(values, *others, torch.tensor([[True]]), 2, clip)
    assert loss.item() == pytest.approx(error**2 / 4, rel=1e-14)
    loss.backward()
    assert values.grad.item() == pytest.approx(error / 2 if slope else 0.0)
    assert [other.grad for other in others] == [None, None]


@given(cases, st.lists(st.integers(0, 2), min_size=4, max_size=4), st.sampled_from([None, 0.3]))
def test_any_cut_into_micro_batches_adds_up_to_the_same(case, part_of_row, clip):
    values, old, mask = case
    returns = old.flip(0) * 2
    parts = [torch.tensor([r for r in range(len(mask)) if part_of_row[r] == part], dtype=torch.int64) for part in range(3)]
    cut = sum(value_loss(values[r], old[r], returns[r], mask[r], 5, clip) for r in parts)
    assert cut.item() == pytest.approx(value_loss(values, old, returns, mask, 5, clip).item(), abs=1e-12)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_loss_reads_nothing_that_does_not_count(clip):
    spoilt = [given.masked_fill(~MASK, math.nan) for given in (VALUES, OLD, RETURNS)]
    values = spoilt[0].requires_grad_()
    loss = value_loss(values, *spoilt[1:], MASK, 3, clip)
    assert loss.item() == value_loss(VALUES, OLD, RETURNS, MASK, 3, clip).item()
    loss.backward()
    assert (values.grad[~MASK] == 0).all()


def test_a_step_without_samples_is_refused():
    with pytest.raises(TrainingError, match="no scored sample"):
        value_loss(VALUES, OLD, RETURNS, MASK, 0, None)
